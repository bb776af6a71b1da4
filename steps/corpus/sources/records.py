"""The one reader of data files: texts and records from .txt, .md, .jsonl, .json, .csv, .tsv and .parquet.

All but .parquet may be compressed (.gz, .bz2, .xz, .zst). Values stay as the file has them: nothing is
taken for a date or a number that is not written as one, and of a table only the columns that are needed
are read. Everything is streamed, but for a ``.json`` file that is one object, which is read whole.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from steps.core.errors import UserError
from steps.corpus.sources.document import Columns

TEXTS = (".txt", ".md")
JSON_LINES = (".jsonl", ".ndjson")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*TEXTS, *JSON_LINES, ".json", *DELIMITERS, ".parquet")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")

LARGEST = 200_000_000
"""Characters of a value in JSON, a line or a field, which are held in memory whole."""

_READ = 1 << 16
_ROWS = 256
_BLANKS = re.compile(r"[ \t\n\r]*")

Row = tuple[int, str, Mapping[str, Any]]
"""Number of a record, from 1; what it is called in messages; the record."""


class DataFile(NamedTuple):
    """A file that is read."""

    name: str
    """What it is called in messages; its suffixes say what it is."""
    open: Callable[[], IO[bytes]]
    """Open its bytes, compressed as they are."""


def kind(name: str) -> tuple[str, str]:
    """What a file is by its name: its suffix, and that of its compression; each may be empty."""
    stem, compression = os.path.splitext(name.lower())
    if compression not in COMPRESSIONS:
        return compression, ""
    return os.path.splitext(stem)[1], compression


def is_readable(name: str) -> bool:
    """Whether a file of this name is one that the reader knows."""
    suffix, compression = kind(name)
    return suffix in SUFFIXES and not (suffix == ".parquet" and compression)


def is_text(name: str) -> bool:
    """Whether a file of this name is one text, and not a table of records."""
    return kind(name)[0] in TEXTS


@contextlib.contextmanager
def opened(file: DataFile) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed; what is damaged is also noticed while they are read in the body.

    Raises:
        UserError: it cannot be read or decompressed, or is not UTF-8 where it should be.
    """
    import pyarrow as pa

    compression = kind(file.name)[1]
    try:
        with contextlib.ExitStack() as stack:
            stream: Any = stack.enter_context(file.open())
            if compression == ".gz":
                stream = stack.enter_context(gzip.open(stream))
            elif compression == ".bz2":
                stream = stack.enter_context(bz2.open(stream))
            elif compression == ".xz":
                stream = stack.enter_context(lzma.open(stream))
            elif compression == ".zst":
                stream = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd"))
            yield stream
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 ({error.reason})"
        raise UserError(f"{file.name}: {reason}, expected UTF-8 text; convert or remove the file") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file.name}: cannot be read ({reason[:200]}); fix or remove it") from error


def decoded(stream: IO[bytes], newline: str | None = None) -> io.TextIOWrapper:
    r"""UTF-8 text of a stream, without a byte order mark; line ends become ``\n`` unless ``newline`` says."""
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline)


def lines(stream: IO[bytes], longest: int) -> Iterator[str]:
    r"""The lines of a text with their line ends, which become ``\n``.

    A line of more than ``longest`` characters comes in parts of half as many, each of which ends at the
    next blank, or of ``longest`` where there is none.
    """
    rest = ""
    with decoded(stream) as text:
        while line := rest + text.readline(longest + 1 - len(rest)):
            end = len(line)
            if end > longest and not line.endswith("\n"):
                blanks = (at for at in range(longest // 2, longest) if line[at - 1].isspace())
                end = next(blanks, longest)
            yield line[:end]
            rest = line[end:]


def records(
    file: DataFile,
    columns: Columns,
    label: str,
    features: Any = None,
    delimiter: str | None = None,
    field: str | None = None,
) -> Iterator[tuple[int, str, str]]:
    """Number (of the line or row, from 1), label and text of the records in a file.

    Args:
        file: any but one text; of ``.txt`` and ``.md`` each line is a record with the column ``text``.
        columns: where text and label are.
        label: the label where no column holds one.
        features: of the Hugging Face dataset that the file belongs to; a parquet file has its own.
        delimiter: between the fields of .csv and .tsv files; by default a comma or a tab.
        field: key of the list of records in a .json file that is one object.

    Raises:
        UserError: the file is damaged, or a record is not an object or lacks a column asked for.
    """
    suffix = kind(file.name)[0]
    with opened(file) as stream, contextlib.ExitStack() as stack:
        if suffix == ".parquet":
            table = _open_table(stream, file.name)
            features = features or _features(table)
            rows = _table(table, columns, file.name)
        else:
            text = stack.enter_context(decoded(stream, newline="" if suffix in DELIMITERS else None))
            if suffix in JSON_LINES:
                rows = _json_lines(text, file.name)
            elif suffix == ".json":
                rows = _json(_Json(text, file.name), columns, field)
            elif suffix in DELIMITERS:
                rows = _csv(text, columns, delimiter or DELIMITERS[suffix], file.name)
            else:
                rows = _text_lines(text, file.name)
        classes = columns.classes(features)
        for number, where, record in rows:
            if not isinstance(record, Mapping):
                found = type(record).__name__
                raise UserError(f"{where}: found {found}, expected a JSON object; fix the line")
            yield number, *columns.read(record, where, label, classes)


def _text_lines(text: IO[str], name: str) -> Iterator[Row]:
    for number, line in enumerate(text, 1):
        yield number, f"{name}, line {number}", {"text": line.rstrip("\n")}


def _json_lines(text: IO[str], name: str) -> Iterator[Row]:
    """The values of JSON Lines; blank lines are passed over."""
    number = 0
    while line := text.readline(LARGEST + 1):
        number += 1
        where = f"{name}, line {number}"
        if len(line) > LARGEST:
            raise UserError(_too_large(where))
        if not line.strip():
            continue
        try:
            yield number, where, json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(_no_json(where, error.msg, f"character {error.pos}")) from None
        except (ValueError, RecursionError) as error:  # numbers too long, brackets too deep
            raise UserError(f"{where}: cannot be read ({error}); fix or remove the line") from None


class _Json:
    """JSON values in a stream, one at a time."""

    _decoder = json.JSONDecoder()

    def __init__(self, text: IO[str], name: str) -> None:
        self.name = name
        self._stream = text
        self._text = ""
        self._at = 0
        self._lines = 1
        self._ended = False

    @property
    def where(self) -> str:
        """The line that is read, for messages."""
        return self._where(self._at)

    def _where(self, at: int) -> str:
        return f"{self.name}, line {self._lines + self._text.count(chr(10), 0, at)}"

    def peek(self) -> str:
        """The next character that is not blank, without taking it; empty at the end."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def take(self, expected: str) -> str:
        """The next character, one of those expected.

        Raises:
            UserError: it is another.
        """
        found = self.peek()
        if not found or found not in expected:
            what = f"{found!r}" if found else "the end of the file"
            raise UserError(_no_json(self.where, f"found {what}, expected {' or '.join(expected)}"))
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value.

        Raises:
            UserError: there is none, or it is too large.
        """
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # what is read so far may end within a string, a number or a word
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - 20
                if self._ended or not is_cut:
                    raise UserError(_no_json(self._where(error.pos), error.msg)) from None
            except (ValueError, RecursionError) as error:
                raise UserError(f"{self.where}: cannot be read ({error}); fix or remove the file") from None
            else:
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            self._read_on()

    def _read_on(self) -> None:
        """Read as much again as is held, so that a large value is parsed few times."""
        self._lines += self._text.count("\n", 0, self._at)
        held = self._text[self._at :]
        if len(held) > LARGEST:
            raise UserError(_too_large(self.where))
        more = self._stream.read(max(_READ, len(held)))
        self._text, self._at, self._ended = held + more, 0, not more


def _json(values: _Json, columns: Columns, field: str | None) -> Iterator[Row]:
    """The elements of an array, objects one after another, or the one list of objects in an object."""
    number = 0
    if values.peek() == "[":
        values.take("[")
        while values.peek() != "]" or number:
            number += 1
            values.peek()
            yield number, values.where, values.value()
            if values.take(",]") == "]":
                break
        else:
            values.take("]")
        if values.peek():
            raise UserError(_no_json(values.where, "more follows the array"))
        return
    while values.peek():
        number += 1
        where, value = values.where, values.value()
        if number == 1 and not values.peek() and isinstance(value, dict):
            rows = _list_in(value, columns, values.name, field)
            if rows is not None:
                yield from ((row, f"{values.name}, row {row}", record) for row, record in enumerate(rows, 1))
                return
        yield number, where, value


def _list_in(value: dict[str, Any], columns: Columns, name: str, field: str | None) -> list[Any] | None:
    """The records in an object that is none itself."""
    if field is None and (columns.text_column in value or columns.text_column.split(".")[0] in value):
        return None
    found = {
        key: rows
        for key, rows in value.items()
        if isinstance(rows, list) and rows and isinstance(rows[0], dict) and field in (None, key)
    }
    if len(found) > 1:
        names = ", ".join(map(repr, list(found)[:5]))
        raise UserError(f"{name}: found several lists of objects ({names}), expected one; divide the file")
    return next(iter(found.values()), None)


def _csv(text: IO[str], columns: Columns, delimiter: str, name: str) -> Iterator[Row]:
    """The rows of a table whose first line names the columns; every value is text."""
    before = csv.field_size_limit(LARGEST)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if double := [column for column, count in Counter(header).items() if count > 1]:
            raise UserError(f"{name}, line 1: found the column {double[0]!r} twice; rename one")
        if header:
            columns.needed(header, name)
        number, line = 0, reader.line_num + 1
        for row in reader:
            where, line = f"{name}, line {line}", reader.line_num + 1
            if not row:
                continue
            number += 1
            if len(row) != len(header):
                raise UserError(
                    f"{where}: found {len(row)} fields, expected {len(header)} as in the first line; put"
                    ' a text that holds a delimiter or a line end in quotes (")'
                )
            yield number, where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: not a table ({error}); fix the file") from None
    finally:
        csv.field_size_limit(before)


def _open_table(stream: IO[bytes], name: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(stream, page_checksum_verification=True, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{name}: not a parquet file ({reason}); fix or remove it") from error


def _table(table: Any, columns: Columns, name: str) -> Iterator[Row]:
    """The rows of a parquet file, of which only the columns that are needed are read."""
    import pyarrow as pa

    columns.needed(table.schema_arrow.names, name)
    leaves = [table.schema.column(index).path for index in range(len(table.schema))]
    needed = {
        column if any(f"{leaf}.".startswith(f"{column}.") for leaf in leaves) else column.split(".")[0]
        for column in (columns.text_column, columns.label_column)
        if column
    }
    number = 0
    try:
        for batch in table.iter_batches(_ROWS, columns=sorted(needed)):
            for record in batch.to_pylist():
                number += 1
                yield number, f"{name}, row {number}", record
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{name}: damaged parquet file ({reason}); fix or remove it") from error


def _features(table: Any) -> Any:
    """What ``datasets`` wrote about the columns of a parquet file, None where it did not."""
    said = (table.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        return json.loads(said)["info"]["features"] if said else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _no_json(where: str, reason: str, at: str = "") -> str:
    return f"{where}: not JSON ({reason}{f' at {at}' if at else ''}); fix or remove the line"


def _too_large(where: str) -> str:
    return f"{where}: found a value of more than {LARGEST:,} characters; write one object a line, as .jsonl"
