"""Where existing models and tokenizers come from: a local folder or the Hugging Face hub.

Only files with known names are looked at, none of them is ever executed: no code that a repository
brings, no pickle beyond the tensors that ``weights_only`` lets through.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field, model_validator

from steps.core.errors import UserError, disk_is_full
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import read_json

logger = logging.getLogger("reprise")

SETTINGS = ("config.json",)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
_WEIGHT_NAMES = (
    ("model.safetensors.index.json", "model.safetensors", "model-*-of-*.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)


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


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a model folder, sorted: safetensors where there are some, else ``.bin``.

    One whole file goes before shards, and of shards those that the index names: others are left from an
    earlier cut.

    Raises:
        UserError: the index is damaged, or names a file that is not there.
    """
    for index, whole, shards in _WEIGHT_NAMES:
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _indexed(folder / index)
        found = sorted(folder.glob(shards))
        if found:
            return found
    return []


def _indexed(index: Path) -> list[Path]:
    content = read_json(index, brought=True)
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = set(places.values()) if isinstance(places, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{index}: not an index of weight files beside it; copy or download it again")
    files = [index.parent / name for name in sorted(names)]
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None:
        raise UserError(f"{missing}: missing, though {index.name} names it; copy all weight files")
    return files


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


def model_files(folder: Path) -> list[Path]:
    """The files of a local model folder that decide what is imported, to be declared one by one.

    Raises:
        UserError: there is no such folder, or it holds no model.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; list the folder of a model in Hugging Face format")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: found no config.json, expected a model in Hugging Face format")
    weights = weight_files(folder)
    if not weights:
        raise UserError(
            f"{folder}: found no weights, expected model.safetensors or pytorch_model.bin;"
            " copy them there or list another folder"
        )
    indices = [folder / index for index, *_ in _WEIGHT_NAMES if (folder / index).is_file()]
    return [folder / "config.json", *indices, *weights, *tokenizer_files(folder)]


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that describe its tokenizer."""
    return [folder / name for name in TOKENIZER if (folder / name).is_file()]


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


def fetch_model(source: Source) -> Path:
    """A local folder with a model; ``.bin`` files are downloaded only where there is nothing better."""
    common = SETTINGS + TOKENIZER
    folder = fetch(source, (*common, *_WEIGHT_NAMES[0]))
    if source.hub is not None and not weight_files(folder):
        folder = fetch(source, (*common, *_WEIGHT_NAMES[1]))
    model_files(folder)
    return folder
