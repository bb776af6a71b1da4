"""Documents from a folder of the user's own .txt, .md, .jsonl and .parquet files."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pydantic

from steps.core.errors import UserError
from steps.corpus.sources.document import Columns, Document, shown
from steps.corpus.sources.streaming import BATCH, streaming

TEXTS = (".txt", ".md")
SUFFIXES = (*TEXTS, ".jsonl", ".parquet")

PIECE = 2_000
"""Characters of a piece, at least, where a single text file is cut so that it can be split."""

LONGEST = 1_000_000
"""Characters of a document, about: a longer text file is cut, so that memory stays bounded."""

MOST_STEMS = 32
"""Files directly in the folder are labelled by their names where they are no more than this."""

PLAIN = "text"
"""The label of files directly in the folder where they are more."""


class Files(Columns):
    """Settings of the source ``files``; the columns are those of .jsonl and .parquet files."""

    folder: str | None = pydantic.Field(
        None, min_length=1, description="folder of .txt, .md, .jsonl and .parquet files, with its sub-folders"
    )


def list_files(folder: Path) -> list[Path]:
    """The files of the corpus, sorted by path; hidden files and folders are left out, links followed.

    Raises:
        UserError: the folder is missing, holds none, or one that is not a regular file.
    """
    key = "corpus.documents.files.folder"
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{key}: {shown(folder)} {state}; name a folder of {', '.join(SUFFIXES)} files")
    found: list[Path] = []
    inside = {str(folder): {os.path.realpath(folder)}}  # the real folders in which each lies
    for parent, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        around = inside.pop(parent)
        for place in (os.path.join(parent, name) for name in folders):
            if os.path.realpath(place) in around:
                raise UserError(f"{shown(Path(place))}: a link to a folder that it lies in; remove it")
            inside[place] = around | {os.path.realpath(place)}
        found += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and name.lower().endswith(SUFFIXES)
        ]
    if not found:
        raise UserError(
            f"{key}: {shown(folder)} holds no {', '.join(SUFFIXES)} file; add some or name another"
        )
    for path in found:
        if not path.is_file():
            raise UserError(f"{shown(path)}: a broken link or no regular file; remove it from the folder")
    return sorted(found, key=lambda path: os.fsencode(path.relative_to(folder)))


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); mend or remove the folder")


def check(path: Path) -> str:
    """Compare a file with what its name promises, before anything is made from it.

    Returns:
        its SHA-256.

    Raises:
        UserError: it is empty, cannot be read, or is no UTF-8 text (unless it is parquet).
    """
    is_text = path.suffix.lower() != ".parquet"
    decoder = codecs.getincrementaldecoder("utf-8")()
    digest = hashlib.sha256()
    done = 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                if is_text:
                    _check_text(path, block, done, decoder)
                done += len(block)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read ({error.strerror}); mend or remove it") from None
    if not done:
        raise UserError(f"{shown(path)}: is empty; remove it or put text in it")
    if is_text:
        _check_text(path, b"", done, decoder, final=True)
    return digest.hexdigest()


def _check_text(
    path: Path, block: bytes, start: int, decoder: codecs.IncrementalDecoder, final: bool = False
) -> None:
    remedy = "expected UTF-8 text; convert or remove the file"
    if b"\0" in block:
        raise UserError(f"{shown(path)}: binary (a NUL at byte {start + block.index(0)}), {remedy}")
    held_back = len(decoder.getstate()[0])
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError as error:
        at = start - held_back + error.start
        raise UserError(f"{shown(path)}: not UTF-8 at byte {at} ({error.reason}), {remedy}") from None


def documents(settings: Files, folder: Path, paths: list[Path]) -> Iterator[Document]:
    """The documents of ``paths``, file by file.

    The file is the unit of the split. Where there is only one, a text is cut at blank lines into
    pieces of about ``PIECE`` characters, and these, or the rows of the table, are the units.

    Raises:
        UserError: a file holds no text, a line no JSON object, a row not the columns asked for.
    """
    alone = len(paths) == 1
    with tempfile.TemporaryDirectory(prefix="reprise-") as temporary, streaming(offline=True) as load:
        for number, (path, label) in enumerate(zip(paths, _labels(folder, paths), strict=True)):
            is_table = path.suffix.lower() == ".parquet"
            # datasets reads names as patterns and addresses, and unpacks what is not called .txt
            # by its content: it gets links with plain names.
            link = Path(temporary, f"{number}{'.parquet' if is_table else '.txt'}")
            link.symlink_to(path.absolute())
            if is_table:
                found = _table(settings, load, link, path, label)
            elif path.suffix.lower() == ".jsonl":
                found = _records(settings, _lines(load, link), path, label)
            else:
                pieces = _pieces(_lines(load, link), PIECE if alone else LONGEST)
                found = ((count, label, text) for count, text in enumerate(pieces, 1))
            name, holds_text = shown(path.relative_to(folder)), False
            for count, source, text in found:
                key = f"{name}#{count}"
                holds_text = holds_text or bool(text.strip())
                yield Document(key if alone else name, key, source, text)
            if not holds_text:
                raise UserError(f"{shown(path)}: holds no text; remove it or put text in it")


def _lines(load: Callable[..., Any], link: Path) -> Iterator[str]:
    r"""The lines of a text file with their line ends, which become ``\n``."""
    data = load("text", data_files=[str(link)], split="train", keep_linebreaks=True, encoding="utf-8-sig")
    for batch in data.iter(BATCH):
        yield from batch["text"]


def _pieces(lines: Iterable[str], least: int) -> Iterator[str]:
    """Cut a text at the first blank line after ``least`` characters.

    Where no blank line follows within three times as many again, at the end of a line.
    """
    held: list[str] = []
    characters = 0
    for line in lines:
        held.append(line)
        characters += len(line)
        if characters >= 4 * least or (characters >= least and not line.strip()):
            yield "".join(held)
            held, characters = [], 0
    if held:
        yield "".join(held)


def _records(settings: Files, lines: Iterable[str], path: Path, label: str) -> Iterator[tuple[int, str, str]]:
    """Line number, label and text of the objects in a .jsonl file; blank lines are passed over."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{shown(path)}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at character {error.pos}"
            raise UserError(f"{where}: not JSON ({reason}); mend or remove the line") from None
        except (ValueError, RecursionError) as error:  # numbers too long, brackets too deep
            raise UserError(f"{where}: cannot be read ({error}); mend or remove the line") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: found {type(record).__name__}, expected a JSON object; mend the line")
        yield number, *settings.read(record, where, label)


def _table(
    settings: Files, load: Callable[..., Any], link: Path, path: Path, label: str
) -> Iterator[tuple[int, str, str]]:
    """Row number (from 1), label and text of the rows of a .parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(link)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{shown(path)}: no parquet file ({error}); mend or remove it") from None
    columns = settings.needed(about.schema.to_arrow_schema().names, shown(path))
    if not about.num_rows:
        return
    try:
        data = load("parquet", data_files=[str(link)], split="train", columns=columns)
        for number, record in enumerate(data, 1):
            yield number, *settings.read(record, f"{shown(path)}, row {number}", label)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:  # also of its metadata
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{shown(path)}: damaged parquet file ({reason}); mend or remove it") from None


def _labels(folder: Path, paths: list[Path]) -> list[str]:
    """The label of each file: the sub-folder of ``folder`` that it lies in, or its name."""
    inside = [path.relative_to(folder) for path in paths]
    few = sum(len(path.parts) == 1 for path in inside) <= MOST_STEMS
    return [
        shown(Path(path.parts[0])) if len(path.parts) > 1 else shown(Path(path.stem)) if few else PLAIN
        for path in inside
    ]
