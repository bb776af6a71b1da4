"""What the sources of a corpus have in common: documents, and the columns of records."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from steps.core.errors import UserError
from steps.core.settings import Settings

UNLABELLED = "unlabelled"
"""The label of a record whose label is null or empty."""


class Document(NamedTuple):
    """One text of the corpus."""

    unit: str
    """What is put on one side of the split as a whole: a source file, a topic, a row."""
    key: str
    """The document's name, unique in the corpus."""
    source: str
    """Its label."""
    text: str


class Columns(Settings):
    """Which columns of a table, or keys of JSON objects, hold text and label."""

    text_column: str = pydantic.Field(
        "text", min_length=1, description="column that holds the text; dots for nested objects"
    )
    label_column: str | None = pydantic.Field(
        None, min_length=1, description="column that holds the label; dots for nested objects; null for none"
    )

    def needed(self, names: Collection[str], where: str) -> list[str]:
        """The columns of a table that must be read, sorted.

        Raises:
            UserError: the table has no such column.
        """
        found = {_holder(names, self.text_column, where, "text_column")}
        if self.label_column:
            found.add(_holder(names, self.label_column, where, "label_column"))
        return sorted(found)

    def read(self, record: Mapping[str, Any], where: str, label: str) -> tuple[str, str]:
        """Label and text of a record; a null is an empty text.

        Args:
            record: the record.
            where: what it is called in messages.
            label: its label where no column holds one.

        Raises:
            UserError: the record has no such column, or it holds something else.
        """
        if self.label_column:
            value = _look_up(record, self.label_column, where, "label_column")
            if isinstance(value, Mapping | list):
                raise UserError(_unfit(where, self.label_column, value, "a label", "label_column"))
            label = (str(value).strip() if value is not None else "") or UNLABELLED
        text = _look_up(record, self.text_column, where, "text_column")
        if not isinstance(text, str | None):
            raise UserError(_unfit(where, self.text_column, text, "text", "text_column"))
        return label, text or ""


def shown(path: Path) -> str:
    r"""A path as text: bytes that are no UTF-8 as ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _holder(names: Collection[str], column: str, where: str, setting: str) -> str:
    """The column that is ``column``, or the first part of it as a dotted path."""
    for name in (column, column.split(".")[0]):
        if name in names:
            return name
    raise UserError(_missing(where, column, names, setting))


def _look_up(record: Mapping[str, Any], column: str, where: str, setting: str) -> Any:
    """The value of a column; one whose own name has dots comes before a dotted path."""
    if column in record:
        return record[column]
    value: Any = record
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(_missing(where, column, record, setting))
        value = value[part]
    return value


def _missing(where: str, column: str, names: Collection[str], setting: str) -> str:
    known = _cut(", ".join(map(repr, sorted(names))), 200) or "none"
    return f"{where}: no column {column!r}, found {known}; set {setting} to one that is there"


def _unfit(where: str, column: str, value: Any, expected: str, setting: str) -> str:
    found = f"{_cut(repr(value), 40)} ({type(value).__name__})"
    return f"{where}: column {column!r} holds {found}, expected {expected}; set {setting} to another"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
