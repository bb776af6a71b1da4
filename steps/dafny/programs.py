"""The programs of a study, and each without its hints.

Reads ``.dfy`` files (those that come with this chapter, or a folder of the user's) or the benchmark's
``test.json``.

Writes a parquet table with one row per program, sorted by name:

    program       str   its name: of a file the path below its folder, of the benchmark ``test_file``
    ground_truth  str   the program with its hints
    given         str   the program without them
    stripped      str   how: syntax, lines or published
    as_lines      bool  whether the benchmark's line filter gives ``given`` to the last character
    sha256        str   of ``ground_truth`` in UTF-8
    source_sha256 str   of ``test.json``; empty for files

Section 2.4 of the benchmark's description: every line goes that begins with assert, invariant or decreases.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import pydantic

from steps.core import settings as core
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.dafny.syntax.hints import strip, strip_lines
from steps.dafny.syntax.program import UnreadableError
from steps.dafny.verifier.results import text_digest

logger = logging.getLogger("reprise")

LARGEST = 5_000_000
"""Bytes of a program."""


class Settings(core.Settings):
    """Which programs, and how they lose their hints."""

    folder: str | None = pydantic.Field(
        None,
        min_length=1,
        description="folder of .dfy files of your own; null, with test_json null: the embedded programs",
    )
    test_json: str | None = pydantic.Field(None, min_length=1, description="DafnyBench's test.json")
    sample: int | None = pydantic.Field(
        None, ge=1, description="take this many, those whose name has the smallest SHA-256; null: all"
    )
    strip: Literal["syntax", "lines", "published"] = pydantic.Field(
        "syntax",
        description="syntax: whole hints; lines: what begins with assert,"
        " invariant, decreases; published: as in test.json",
    )

    @pydantic.model_validator(mode="after")
    def _is_one_source(self) -> Settings:
        if self.folder is not None and self.test_json is not None:
            raise ValueError("a folder or a test_json, not both")
        if self.strip == "published" and self.test_json is None:
            raise ValueError("strip: published only with a test_json")
        return self


class Source(NamedTuple):
    """A program as it comes."""

    name: str
    text: str
    published: str | None = None


class Listing(NamedTuple):
    """The files in a folder of the user's and below it, sorted; hidden files and folders are passed over."""

    programs: list[Path]
    left_out: list[Path]
    """Those with another suffix."""


def look_through(folder: Path) -> Listing:
    """The files in a folder of the user's.

    Raises:
        UserError: there is no such folder, or no program in it.
    """
    if "\0" in str(folder) or not folder.is_dir():
        raise UserError(f"dafny.programs.folder: found {str(folder)!r}, expected a folder; name another")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    programs = [path for path in files if path.suffix == ".dfy"]
    if not programs:
        raise UserError(f"dafny.programs.folder: found no .dfy file in {folder}, expected some; name another")
    return Listing(programs, [path for path in files if path.suffix != ".dfy"])


def report_left_out(folder: Path, paths: list[Path]) -> None:
    """Count files that are no programs in the log, by suffix."""
    if paths:
        suffixes = Counter(path.suffix or "without a suffix" for path in paths)
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))
        logger.warning("%s: %d left out, only .dfy files are programs (%s)", folder, len(paths), counts)


def of_files(files: list[Path], top: Path) -> list[Source]:
    """The programs in files, named by their paths below ``top``.

    Raises:
        UserError: a file is too large or no UTF-8.
    """
    found = []
    for path in files:
        data = path.read_bytes()
        if len(data) > LARGEST:
            raise UserError(
                f"{path}: found {len(data)} bytes, expected a program of at most {LARGEST}; remove it"
            )
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: found no UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
            ) from None
        found.append(Source(path.relative_to(top).as_posix(), text))
    return found


def of_benchmark(path: Path) -> list[Source]:
    """The programs of a ``test.json``.

    Raises:
        UserError: it is no such file.
    """
    keys = ("test_file", "ground_truth", "hints_removed")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = [Source(*(str(row[key]) for key in keys)) for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}: found no list of objects with {', '.join(keys)} ({type(error).__name__}: {error});"
            " name the benchmark's test.json"
        ) from None
    if len({one.name for one in found}) != len(found):
        raise UserError(f"{path}: found a test_file twice, expected each once; correct it")
    return found


def sampled(sources: list[Source], count: int | None) -> list[Source]:
    """Those whose names have the smallest SHA-256, in the order of their names."""
    ranked = sorted(
        sources, key=lambda one: hashlib.sha256(one.name.encode("utf-8", "surrogateescape")).digest()
    )
    return sorted(ranked[:count])


def stripped(source: Source, how: str) -> tuple[str, str]:
    """The program without hints, and how they were taken out.

    A text that cannot be followed loses lines, as in the benchmark.
    """
    if how == "published" and source.published is not None:
        return source.published, "published"
    if how == "syntax":
        try:
            return strip(source.text), "syntax"
        except UnreadableError as error:
            logger.warning("%s: cannot be followed (%s), so the line filter strips it", source.name, error)
    return strip_lines(source.text), "lines"


def main(files: list[Path], settings: Settings, out: Output) -> None:
    """Make the table."""
    import pandas as pd

    from steps.core.stores import write_table

    if settings.test_json is not None:
        [path] = files
        sources, digest = of_benchmark(path), hashlib.sha256(path.read_bytes()).hexdigest()
    elif settings.folder is not None:
        # itself: names that a rule cannot declare are among its files
        folder = Path(os.path.expanduser(settings.folder))
        found = look_through(folder)
        report_left_out(folder, found.left_out)
        sources, digest = of_files(found.programs, folder), ""
    else:
        sources, digest = of_files(files, files[0].parent if files else Path()), ""
    if not sources:
        raise UserError("--files: found no program, expected some; name a folder with .dfy files")
    rows = []
    for source in sampled(sources, settings.sample):
        given, how = stripped(source, settings.strip)
        rows.append(
            {
                "program": source.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
                "ground_truth": source.text,
                "given": given,
                "stripped": how,
                "as_lines": strip_lines(source.text) == given,
                "sha256": text_digest(source.text),
                "source_sha256": digest,
            }
        )
    write_table(pd.DataFrame(rows), out)
    logger.info(
        "%d programs, %d with hints", len(rows), sum(row["given"] != row["ground_truth"] for row in rows)
    )


if __name__ == "__main__":
    run(main)
