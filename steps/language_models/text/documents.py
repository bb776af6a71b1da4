"""Reading the documents of a corpus, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from steps.core.errors import UserError
from steps.core.stores import open_table

COLUMNS = ("source", "split", "text")


SPLITS = ("train", "held_out")


class Document(NamedTuple):
    """One document."""

    source: str
    split: str
    text: str


def read(path: Path, split: str | None = None) -> Iterator[Document]:
    """The documents of a corpus in the order of the table, in little memory.

    Args:
        path: parquet with the columns ``source``, ``split`` (train or held_out) and ``text``.
        split: the one to read; both by default.

    Raises:
        UserError: not such a table.
    """
    with open_table(path, COLUMNS) as table:
        for batch in table.iter_batches(batch_size=256, columns=list(COLUMNS)):
            columns = (batch.column(name).to_pylist() for name in COLUMNS)
            for source, side, text in zip(*columns, strict=True):
                if side not in SPLITS or not isinstance(text, str) or not isinstance(source, str):
                    raise UserError(
                        f"{path}: found source {source!r}, split {side!r} and a text of type"
                        f" {type(text).__name__}, expected text and train or held_out; delete it and"
                        " run snakemake again"
                    )
                if split in (None, side):
                    yield Document(source, side, text)
