"""Where existing models and tokenizers come from: a local folder or the Hugging Face hub."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field, model_validator

from steps.core.errors import UserError, disk_is_full
from steps.core.settings import Settings as BaseSettings

logger = logging.getLogger("reprise")


SETTINGS = ("config.json",)


class Source(BaseSettings):
    """A local folder, or an id on the hub with its revision."""

    path: str | None = Field(None, min_length=1, description="local folder")
    hub: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$", description="id on the Hugging Face hub"
    )
    revision: str | None = Field(
        None, min_length=1, description="commit, tag or branch; only a commit never changes"
    )

    @model_validator(mode="after")
    def _is_one_place(self) -> Source:
        if self.path is not None and self.hub is not None:
            raise ValueError("a path or a hub id, not both")
        if self.hub is not None and self.revision is None:
            raise ValueError("a revision beside the hub id, best a commit")
        if self.hub is None and self.revision is not None:
            raise ValueError("a revision only beside a hub id")
        return self


def local_folder(path: str) -> Path:
    """A folder that the user named, a leading ``~`` replaced.

    Raises:
        UserError: there is no such user, or no such folder.
    """
    try:
        folder = Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}; write the whole path of the folder") from None
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; list the folder of a model in Hugging Face format")
    return folder


def fetch(source: Source, patterns: tuple[str, ...]) -> Path:
    """A local folder with the files of a source, downloaded where it is on the hub.

    Args:
        source: the folder or hub id.
        patterns: names of the files that are needed.

    Raises:
        UserError: there is no such folder, repository or revision, or the hub cannot be reached.
    """
    if source.path is not None:
        return local_folder(source.path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    where = f"hub {source.hub}, revision {source.revision}"
    logger.info("downloading %s (kept in the Hugging Face cache)", where)
    try:
        return Path(
            snapshot_download(str(source.hub), revision=source.revision, allow_patterns=list(patterns))
        )
    except Exception as error:  # the library raises those of its network libraries, too
        if disk_is_full(error):
            raise
        if isinstance(error, HfHubHTTPError):
            reason, remedy = "not found or no access", "check id and revision, or log in with `hf auth login`"
        else:
            reason, remedy = "not reachable and not in the cache", "go online once, or list a local folder"
        raise UserError(f"{where}: {reason} ({type(error).__name__}); {remedy}") from None


def apart(folder: Path, out: Path) -> Path:
    """The folder of a source, which must not be the one that is made.

    Raises:
        UserError: it is.
    """
    if folder.resolve() == out.parent.resolve():
        raise UserError(f"{folder}: is read and would be written, expected two folders; name another")
    return folder
