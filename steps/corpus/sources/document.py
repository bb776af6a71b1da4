"""What the sources of a corpus have in common: documents, and the columns of records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import pydantic

from steps.core.errors import UserError
from steps.core.settings import Settings

UNLABELLED = "unlabelled"
"""The label of a record whose label is null or empty."""


MESSAGES = (("role", "content"), ("from", "value"))
"""Keys of a message: who speaks and what is said."""


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
        "text", min_length=1, description="column that holds the text or messages; dots for nested objects"
    )
    label_column: str | None = pydantic.Field(
        None,
        min_length=1,
        description="column that holds the label; null: the sub-folder or file, or the split of a dataset",
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

    def read(
        self, record: Mapping[str, Any], where: str, label: str, classes: Sequence[str] = ()
    ) -> tuple[str, str]:
        """Label and text of a record; a null is an empty text.

        Messages of a conversation (``role`` and ``content``, or ``from`` and ``value``) become one text:
        ``role: content`` of each, with an empty line between them. Where the path of the text leads
        through a list, its texts are joined the same way.

        Args:
            record: the record.
            where: what it is called in messages.
            label: its label where no column holds one.
            classes: names of the labels where the column holds their numbers; -1 stands for none.

        Raises:
            UserError: the record has no such column, or it holds something else.
        """
        if self.label_column:
            value = _look_up(record, self.label_column, where, "label_column")
            if isinstance(value, Mapping | list):
                raise UserError(_unfit(where, self.label_column, value, "a label", "label_column"))
            if classes and isinstance(value, int):
                value = classes[value] if 0 <= value < len(classes) else None if value == -1 else value
            label = (str(value).strip() if value is not None else "") or UNLABELLED
        value = _look_up(record, self.text_column, where, "text_column", _joined)
        text = _conversation(value) if isinstance(value, list) else value
        if not isinstance(text, str | None) or (text is None and value is not None):
            expected = "text, or messages with a role and a content"
            raise UserError(_unfit(where, self.text_column, value, expected, "text_column"))
        return label, text or ""

    def classes(self, features: Any) -> list[str]:
        """Names of the labels, where a file or a dataset says that the label column holds their numbers.

        Args:
            features: the features of a Hugging Face dataset as JSON, from a file: anything.
        """
        column = self.label_column or ""
        feature = features
        for part in [column] if isinstance(features, Mapping) and column in features else column.split("."):
            feature = feature.get(part) if isinstance(feature, Mapping) else None
        names = feature.get("names") if isinstance(feature, Mapping) else None
        return [str(name) for name in names] if isinstance(names, list) else []


def _holder(names: Collection[str], column: str, where: str, setting: str) -> str:
    """The column that is ``column``, or the first part of it as a dotted path."""
    for name in (column, column.split(".")[0]):
        if name in names:
            return name
    raise UserError(_missing(where, column, names, setting))


def _look_up(
    record: Mapping[str, Any],
    column: str,
    where: str,
    setting: str,
    join: Callable[[list[Any]], Any] | None = None,
) -> Any:
    """The value of a column; one whose own name has dots comes before a dotted path.

    With ``join`` the path may lead through a list of objects, whose values are joined by it.
    """
    if column in record:
        return record[column]
    value: Any = record
    parts = column.split(".")
    for number, part in enumerate(parts):
        if join is not None and isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            rest = ".".join(parts[number:])
            return join([_look_up(item, rest, where, setting, join) for item in value])
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(_missing(where, column, record, setting))
        value = value[part]
    return value


def _joined(values: list[Any]) -> Any:
    """Texts with an empty line between them; the list itself where it holds something else."""
    texts = [_content(value) for value in values]
    if any(text is None for text in texts):
        return values
    return "\n\n".join(text for text in texts if text)


def _conversation(messages: list[Any]) -> str | None:
    """The text of messages, None where they are something else."""
    texts = []
    for message in messages:
        found = message if isinstance(message, Mapping) else {}
        role, said = next(
            ((found[role], found[said]) for role, said in MESSAGES if {role, said} <= set(found)), (None, 0)
        )
        text = _content(said)
        if not isinstance(role, str) or text is None:
            return None
        if text:
            texts.append(f"{role}: {text}")
    return "\n\n".join(texts)


def _content(value: Any) -> str | None:
    """The text of a message's content: text, null, or parts, of which those that are text count."""
    if isinstance(value, str | None):
        return value or ""
    if isinstance(value, list) and all(isinstance(part, Mapping) and "type" in part for part in value):
        return "\n".join(str(part.get("text") or "") for part in value if part["type"] == "text")
    return None


def _missing(where: str, column: str, names: Collection[str], setting: str) -> str:
    known = _cut(", ".join(map(repr, sorted(names))), 200) or "none"
    return f"{where}: no column {column!r}, found {known}; set {setting} to one that is there"


def _unfit(where: str, column: str, value: Any, expected: str, setting: str) -> str:
    found = f"{_cut(repr(value), 40)} ({type(value).__name__})"
    return f"{where}: column {column!r} holds {found}, expected {expected}; set {setting} to another"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
