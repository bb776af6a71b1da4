"""Documents from a dataset of the Hugging Face hub, or of a local folder laid out like one."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from steps.core.digest import file_digest
from steps.core.errors import UserError
from steps.core.text import shown
from steps.corpus.sources.document import Columns, Document
from steps.corpus.sources.records import DataFile, is_readable, records
from steps.corpus.sources.streaming import streaming

logger = logging.getLogger("reprise")

_KNOWN = {"csv", "json", "parquet", "text"}
"""Kinds of datasets whose files ``records`` reads, as ``datasets`` calls them."""

_UNREACHED = {
    "ConnectionError",
    "OfflineModeIsEnabled",
    "NetworkError",
    "TimeoutError",
    "TimeoutException",
    "ClientConnectionError",
}
"""Names of what the libraries behind ``datasets`` raise without a network, or of its ancestors."""


class Hub(Columns):
    """Settings of the source ``hub``."""

    dataset: str | None = pydantic.Field(
        None, min_length=1, description="id of the dataset, or a local folder"
    )
    revision: str | None = pydantic.Field(
        None, min_length=1, description="commit, tag or branch; a commit is the only one that never changes"
    )
    config: str | None = pydantic.Field(
        None, min_length=1, description="configuration, where the dataset has several"
    )
    split: str = pydantic.Field(
        "train", min_length=1, description="split that is read; several as train+test, or all"
    )
    maximum_documents: int | None = pydantic.Field(
        10_000, ge=2, description="rows read from the start; null: all"
    )


def inputs(settings: Hub) -> dict[str, str]:
    """SHA-256 of the files of a local folder; a dataset of the hub is known by its commit."""
    folder = Path(str(settings.dataset))
    if not folder.is_dir():
        if not re.fullmatch(r"[0-9a-f]{40}", str(settings.revision)):
            logger.warning(
                "corpus.documents.hub.revision: %r may change; name a commit for a corpus that does not",
                settings.revision,
            )
        return {}
    return {shown(path.relative_to(folder)): file_digest(path) for path in list_files(folder)}


def commit(settings: Hub) -> str | None:
    """The commit that ``revision`` names on the hub; none of a local folder, whose files have hashes.

    Raises:
        UserError: the hub cannot be reached, or has no such dataset or revision.
    """
    if Path(str(settings.dataset)).is_dir():
        return None
    if re.fullmatch(r"[0-9a-f]{40}", str(settings.revision)):
        return settings.revision
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(str(settings.dataset), revision=settings.revision).sha
    except Exception as error:
        raise UserError(_explain(settings, error)) from error


def list_files(folder: Path) -> list[Path]:
    """The files of a local folder, sorted; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def documents(settings: Hub) -> Iterator[Document]:
    """The rows of the dataset in its order; the row is the unit of the split.

    ``datasets`` says which files belong to the split; those of a kind that ``records`` knows are read
    by it, so that values are those of the files, and all others by ``datasets``.

    Raises:
        UserError: the dataset cannot be reached or read, or a row lacks a column.
    """
    with streaming() as load:
        rows = itertools.islice(_rows(settings, load), settings.maximum_documents)
        for number, (label, text) in enumerate(rows):
            key = f"{settings.split}#{number}"
            yield Document(key, key, label, text)


def unclaimed(settings: Hub) -> list[Path]:
    """Files of a local folder that could be read and belong to no split of any configuration."""
    folder = Path(str(settings.dataset))
    if not folder.is_dir():
        return []
    with streaming() as load:
        try:
            configs = list(load(str(folder), settings.config).builder_configs) or [settings.config]
            builders = [load(str(folder), config) for config in configs]
        except Exception as error:
            raise UserError(_explain(settings, error)) from error
        claimed = {
            os.path.realpath(str(file))
            for builder in builders
            for files in (builder.config.data_files or {}).values()
            for file in files
        }
    return [
        path
        for path in list_files(folder)
        if is_readable(path.name) and os.path.realpath(path) not in claimed and path.name != "README.md"
    ]


def _rows(settings: Hub, load: Any) -> Iterator[tuple[str, str]]:
    """Label and text of each row."""
    try:
        builder = load(settings.dataset, settings.config, revision=settings.revision)
        options = _options(builder)
        files = [] if options is None else _files(settings, builder)
        if options is None or not all(is_readable(file.name) for file in files):
            yield from _rows_of_other_kinds(settings, builder)
            return
        features = builder.info.features.to_dict() if builder.info.features else None
        for file in files:
            for _, label, text in records(file, settings, settings.split, features, **options):
                yield label, text
    except UserError as error:
        if error.__cause__ and _is_unreached(error.__cause__):
            raise UserError(_explain(settings, error.__cause__)) from error
        raise
    except Exception as error:
        raise UserError(_explain(settings, error)) from error


def _files(settings: Hub, builder: Any) -> list[DataFile]:
    """The files of the split."""
    found = {str(split): list(map(str, files)) for split, files in (builder.config.data_files or {}).items()}
    names = list(found) if settings.split == "all" else [name.strip() for name in settings.split.split("+")]
    if not set(names) <= set(found):
        raise ValueError(f"bad split {settings.split!r}, expected one of {list(found)}")
    return [_file(settings, builder, path) for name in names for path in found[name]]


def _file(settings: Hub, builder: Any, path: str) -> DataFile:
    if "://" not in path:
        folder = os.path.realpath(str(settings.dataset))
        inside = Path(path).is_relative_to(folder)
        name = Path(str(settings.dataset), Path(path).relative_to(folder)) if inside else Path(path)
        return DataFile(shown(name), lambda: Path(path).open("rb"))
    from datasets import DownloadConfig
    from datasets.utils.file_utils import xopen  # connects again where the connection is lost

    access = DownloadConfig(token=builder.token, storage_options=builder.storage_options)
    return DataFile(path, functools.partial(xopen, path, "rb", download_config=access))


def _options(builder: Any) -> dict[str, Any] | None:
    """What the dataset's card says of how its files are to be read; None where only ``datasets`` can."""
    if type(builder).__module__.rpartition(".")[2] not in _KNOWN:
        return None
    config = builder.config
    plain = type(config)(name=config.name)
    known = {"data_files", "data_dir", "description", "features", "version"}
    changed = {
        name: value
        for name, value in vars(config).items()
        if name not in known and value != getattr(plain, name, None)
    }
    delimiter = changed.pop("sep", None)
    changed.pop("delimiter", None)  # which is ``sep`` as well
    field = changed.pop("field", None)
    if changed or len(delimiter or ",") != 1:
        return None
    return {"delimiter": delimiter, "field": field}


def _rows_of_other_kinds(settings: Hub, builder: Any) -> Iterator[tuple[str, str]]:
    """Label and text of each row as ``datasets`` reads them."""
    data = builder.as_streaming_dataset(split=settings.split)
    columns = data.column_names or list(next(iter(data), {}))
    needed = settings.needed(columns, str(settings.dataset))
    classes = settings.classes(data.features.to_dict() if data.features else None)
    rows = data.select_columns(needed)  # pictures and sounds need not be decoded
    for number, record in enumerate(rows):
        yield settings.read(record, f"{settings.dataset}, row {number}", settings.split, classes)


def _is_unreached(error: BaseException) -> bool:
    return bool({kind.__name__ for kind in type(error).__mro__} & _UNREACHED)


def _explain(settings: Hub, error: BaseException) -> str:
    what = f"corpus.documents.hub: dataset {settings.dataset!r} (revision {settings.revision!r})"
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    if _is_unreached(error):
        return (
            f"{what} could not be reached ({reason}); check the network and HF_HUB_OFFLINE, or name a local"
            " folder or another source in corpus.documents.source"
        )
    return f"{what} could not be read ({reason}); check dataset, config, split and revision"
