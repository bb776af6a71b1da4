"""Documents from a folder of the user's own files: texts, and tables of records."""

from __future__ import annotations

import codecs
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pydantic

from steps.core.digest import file_digest
from steps.core.errors import UserError
from steps.core.text import shown
from steps.corpus.sources.document import Columns, Document
from steps.corpus.sources.records import (
    COMPRESSIONS,
    SUFFIXES,
    DataFile,
    is_readable,
    is_text,
    kind,
    lines,
    opened,
    records,
)

logger = logging.getLogger("reprise")

PIECE = 2_000
"""Characters of a piece, at least, where a single text file is cut so that it can be split."""

LONGEST = 1_000_000
"""Characters of a document, about: a longer text file is cut, so that memory stays bounded."""

MOST_STEMS = 32
"""Files directly in the folder are labelled by their names up to this many."""

PLAIN = "text"
"""The label of files directly in the folder where they are more."""

KINDS = f"{', '.join(SUFFIXES)}, or compressed as {', '.join(COMPRESSIONS)}"
_NAMED = 20
"""Files that a message names."""


class Files(Columns):
    """Settings of the source ``files``; the columns are those of files that hold records."""

    folder: str | None = pydantic.Field(
        None, min_length=1, description="folder of text, JSON, CSV and parquet files, with its sub-folders"
    )


class Listing(NamedTuple):
    """The files of a folder, sorted by path."""

    read: list[Path]
    left_out: list[Path]
    """Those of a kind that is not read."""


def list_files(folder: Path) -> list[Path]:
    """The files of the corpus; see :func:`look_through`."""
    return look_through(folder).read


def look_through(folder: Path) -> Listing:
    """The files of a folder; hidden files and folders are passed over, links followed.

    Raises:
        UserError: the folder is missing, holds no file of use, or one that is not a regular file.
    """
    key = "corpus.documents.files.folder"
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{key}: {shown(folder)} {state}; name a folder of files ({KINDS})")
    found: list[Path] = []
    inside = {str(folder): {os.path.realpath(folder)}}  # the real folders in which each lies
    for parent, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        around = inside.pop(parent)
        for place in (os.path.join(parent, name) for name in folders):
            if os.path.realpath(place) in around:
                raise UserError(f"{shown(Path(place))}: a link to a folder that it lies in; remove it")
            inside[place] = around | {os.path.realpath(place)}
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    found.sort(key=lambda path: os.fsencode(path.relative_to(folder)))
    listing = Listing(
        [path for path in found if is_readable(path.name)],
        [path for path in found if not is_readable(path.name)],
    )
    if not listing.read:
        others = f" but {_few(folder, listing.left_out)}" if listing.left_out else ""
        raise UserError(
            f"{key}: {shown(folder)} holds no file that can be read ({KINDS}){others}; add some or name"
            " another"
        )
    for path in listing.read:
        if not path.is_file():
            raise UserError(f"{shown(path)}: a broken link or not a regular file; remove it from the folder")
    return listing


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); fix or remove the folder")


def report_left_out(folder: Path, paths: list[Path], reason: str) -> list[str]:
    """Name files that are not read in the log, and give their names for the manifest."""
    if paths:
        suffixes = Counter("".join(kind(path.name)) or "without a suffix" for path in paths)
        logger.warning(
            "%s: %d %s left out, %s (%s): %s",
            shown(folder),
            len(paths),
            "file" if len(paths) == 1 else "files",
            reason,
            ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items())),
            _few(folder, paths),
        )
    return [shown(path.relative_to(folder)) for path in paths]


def _few(folder: Path, paths: list[Path]) -> str:
    names = [shown(path.relative_to(folder)) for path in paths[:_NAMED]]
    return ", ".join(names) + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")


def check(folder: Path, paths: list[Path]) -> list[str]:
    """Compare files with what their names promise, before anything is made from them.

    Returns:
        the SHA-256 of each.

    Raises:
        UserError: some are empty or blank, cannot be read, or are not UTF-8 text (unless they are parquet).
    """
    digests, mistakes = [], []
    for path in paths:
        try:
            digests.append(file_digest(path))
            mistake = _mistake(path)
        except OSError as error:
            mistake = f"cannot be read ({error.strerror}); fix or remove it"
        if mistake:
            mistakes.append((path, mistake))
    _refuse(folder, mistakes)
    return digests


def _refuse(folder: Path, mistakes: list[tuple[Path, str]]) -> None:
    """Name all files that cannot be used at once."""
    if len(mistakes) == 1:
        path, what = mistakes[0]
        raise UserError(f"{shown(path)}: {what}")
    if mistakes:
        kinds: dict[str, list[Path]] = {}
        for path, what in mistakes:
            kinds.setdefault(what.partition("; ")[0], []).append(path)
        found = "; ".join(f"{what}: {_few(folder, paths)}" for what, paths in kinds.items())
        raise UserError(
            f"{shown(folder)}: {len(mistakes)} files cannot be used ({found}); fix or remove them"
        )


_EMPTY = "is empty; remove it or put text in it"
_BLANK = "holds no text; remove it or put text in it"


def _mistake(path: Path) -> str:
    """What is wrong with a file and what to do; empty where it is as its name promises."""
    if not path.stat().st_size:
        return _EMPTY
    if kind(path.name)[0] == ".parquet":
        return ""
    remedy = "expected UTF-8 text; convert or remove the file"
    decoder = codecs.getincrementaldecoder("utf-8")()
    done, holds_text, block = 0, False, b"-"
    file = _file(path)
    try:
        with opened(file) as stream:
            while block:
                block = stream.read(1 << 20)
                if b"\0" in block:
                    return f"binary (a NUL at byte {done + block.index(0)}), {remedy}"
                held_back = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    return f"not UTF-8 at byte {done - held_back + error.start} ({error.reason}), {remedy}"
                holds_text = holds_text or bool(text.strip("\ufeff").strip())
                done += len(block)
    except UserError as error:  # its compression is damaged
        return str(error).removeprefix(str(UserError(f"{file.name}: ")))
    return "" if holds_text else _BLANK if done else _EMPTY


def _file(path: Path) -> DataFile:
    return DataFile(shown(path), lambda: path.open("rb"))


def documents(settings: Files, folder: Path, paths: list[Path]) -> Iterator[Document]:
    """The documents of ``paths``, file by file.

    The file is the unit of the split. Where there is only one, a text is cut at blank lines into
    pieces of about ``PIECE`` characters, and these, or the rows of the table, are the units.

    Raises:
        UserError: files hold no text, a line is not a JSON object, a row lacks a column.
    """
    alone = len(paths) == 1
    without: list[tuple[Path, str]] = []
    for path, label in zip(paths, _labels(folder, paths), strict=True):
        found = (
            _texts(path, label, PIECE if alone else LONGEST)
            if is_text(path.name)
            else records(_file(path), settings, label)
        )
        name, holds_text = shown(path.relative_to(folder)), False
        for count, source, text in found:
            key = f"{name}#{count}"
            holds_text = holds_text or bool(text.strip())
            yield Document(key if alone else name, key, source, text)
        if not holds_text:
            without.append((path, _BLANK))
    _refuse(folder, without)


def _texts(path: Path, label: str, least: int) -> Iterator[tuple[int, str, str]]:
    with opened(_file(path)) as file:
        for count, text in enumerate(_pieces(lines(file, 4 * least), least), 1):
            yield count, label, text


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


def _labels(folder: Path, paths: list[Path]) -> list[str]:
    """The label of each file: the sub-folder of ``folder`` that it lies in, or its name."""
    inside = [path.relative_to(folder) for path in paths]
    few = sum(len(path.parts) == 1 for path in inside) <= MOST_STEMS
    return [
        shown(Path(path.parts[0])) if len(path.parts) > 1 else _stem(path) if few else PLAIN
        for path in inside
    ]


def _stem(path: Path) -> str:
    """A file's name without its suffix, and without that of its compression."""
    return shown(Path(path.stem if kind(path.name)[1] == "" else Path(path.stem).stem))
