"""One self-contained HTML page from the reports of the chapters.

Reads each chapter's ``report.json`` (``Report`` below is its contract), the figures (SVG, PNG or
JPEG) and the data that it names by paths relative to itself, and what jobs took by the records beside
their logs (``steps.core.records``) where the patterns of its cards find some, relative to the working
directory. Records are no input: a page without them is whole.

Writes one file. Figures and small data files stand in it as ``data:`` addresses, further pages of a
chapter are linked where they lie, every text is escaped, and a Content-Security-Policy forbids scripts
and anything from elsewhere.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import urllib.parse
import xml.parsers.expat
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

import pydantic

from steps.core import records
from steps.core import settings as core
from steps.core.errors import UserError, size
from steps.core.pages import render
from steps.core.runner import Output, logger, run
from steps.core.stores import read_json
from steps.core.text import visible

LEVELS = 9
"""How many strengths of highlighting there are; ``page.css`` has one class for each."""


class Settings(core.Settings):
    """How the page is made."""

    largest_download_mb: float = pydantic.Field(
        default=1.0,
        ge=0,
        le=100,
        description="data behind figures is put into the page up to this size, in MB",
    )


def _relative(path: str) -> str:
    """Refuse paths that lead out of the folder they are relative to."""
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError("a relative path without '..'")
    return path


def _cell(value: Any) -> Any:
    """Check a cell of a table; a snippet becomes a ``Snippet``."""
    if value is None or isinstance(value, str) or _is_number(value):
        return value
    if isinstance(value, dict) and list(value) == ["snippet"] and isinstance(value["snippet"], list):
        return Snippet([Token(*_token(item)) for item in value["snippet"]])
    raise ValueError("text, a number, null or {'snippet': [[token, strength], ...]}")


def _token(item: Any) -> tuple[str, float]:
    if isinstance(item, list) and len(item) == 2:
        text, strength = item
        if isinstance(text, str) and _is_number(strength) and 0 <= strength <= 1:
            return text, float(strength)
    raise ValueError("snippets made of [token, strength from 0 to 1]")


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


class Token(NamedTuple):
    """A token of a snippet and how strongly it is highlighted, from 0 to 1."""

    text: str
    strength: float


class Snippet(NamedTuple):
    """A piece of text with highlighted tokens."""

    tokens: list[Token]


RelativePath = Annotated[str, pydantic.AfterValidator(_relative)]
Cell = Annotated[Any, pydantic.AfterValidator(_cell)]
Identifier = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


class Card(core.Settings):
    """A headline figure and where it came from."""

    name: str = pydantic.Field(description="what was measured")
    value: Cell = pydantic.Field(description="the number (or a word); null where there is none")
    unit: str = pydantic.Field(default="", description="of the value")
    note: str = pydantic.Field(default="", description="one sentence on how to read it")
    rule: str = pydantic.Field(default="", description="the rule that made it")
    records: RelativePath | None = pydantic.Field(
        default=None, description="pattern of the records beside the rule's logs"
    )
    inputs: dict[str, str] = pydantic.Field(
        default={}, description="SHA-256 by path of what it was made from"
    )
    code: str = pydantic.Field(default="", description="digest of the code that made it")


class Figure(core.Settings):
    """A picture, its caption and the data behind it."""

    file: RelativePath = pydantic.Field(description="SVG, PNG or JPEG, relative to report.json")
    caption: str = pydantic.Field(description="what it shows")
    alt: str = pydantic.Field(default="", description="the picture in words; the caption where there is none")
    data: RelativePath | None = pydantic.Field(
        default=None, description="the data drawn, relative to report.json"
    )


class Table(core.Settings):
    """A table of texts, numbers and snippets."""

    title: str = pydantic.Field(description="its heading")
    caption: str = pydantic.Field(default="", description="what it shows")
    columns: list[str] = pydantic.Field(description="their headings")
    rows: list[list[Cell]] = pydantic.Field(description="cells, as many per row as there are columns")

    @pydantic.model_validator(mode="after")
    def _rows_fit_the_columns(self) -> Table:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"{len(self.columns)} cells per row (row {index} has {len(row)})")
        return self

    @property
    def has_snippets(self) -> bool:
        """Whether any cell is a snippet."""
        return any(isinstance(cell, Snippet) for row in self.rows for cell in row)

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds numbers, which are set flush right."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        return bool(cells) and all(_is_number(cell) for cell in cells)

    @property
    def decimals(self) -> list[int | None]:
        """The number of decimals for each column's numbers; None where each number has its own."""
        return [
            even_decimals([row[column] for row in self.rows if isinstance(row[column], float)])
            if self.is_numeric(column)
            else None
            for column in range(len(self.columns))
        ]


class Page(core.Settings):
    """A separate page of a chapter, such as one to search in."""

    file: RelativePath = pydantic.Field(description="HTML, relative to report.json")
    title: str = pydantic.Field(description="what the link says")
    note: str = pydantic.Field(default="", description="what is found there")


class Provenance(core.Settings):
    """What decided a chapter's results."""

    settings: dict[str, Any] = pydantic.Field(default={}, description="the chapter's settings")
    code: dict[str, str] = pydantic.Field(default={}, description="digest by step")
    inputs: dict[str, str] = pydantic.Field(default={}, description="SHA-256 by path")
    versions: dict[str, str] = pydantic.Field(default={}, description="by library or program")


class Report(core.Settings):
    """The contract of ``report.json``."""

    chapter: Identifier = pydantic.Field(description="its name")
    study: Identifier = pydantic.Field(description="the study's name")
    title: str = pydantic.Field(description="heading of the chapter's part of the page")
    summary: str = pydantic.Field(
        default="", description="what was done and found; paragraphs are separated by blank lines"
    )
    cards: list[Card] = pydantic.Field(default=[], description="headline figures")
    figures: list[Figure] = pydantic.Field(default=[], description="in the order of the page")
    tables: list[Table] = pydantic.Field(default=[], description="in the order of the page")
    pages: list[Page] = pydantic.Field(default=[], description="separate pages that are linked")
    provenance: Provenance = pydantic.Field(
        default_factory=Provenance, description="what decided the results"
    )


class Timing(NamedTuple):
    """What jobs took, from their records."""

    jobs: int
    """How many jobs were found."""
    seconds: float
    """All of them together."""
    cpu_seconds: float
    """All of them together, on all processors."""
    memory: float
    """The largest peak in bytes."""


class Attachment(NamedTuple):
    """A file that the page offers for download, or names where it is too large."""

    path: Path
    length: int
    """In bytes."""
    address: str | None
    """The contents as a ``data:`` address; nothing where the file is too large."""


class Part(NamedTuple):
    """A chapter's report with what was read for it."""

    report: Report
    timings: list[Timing | None]
    """One for each card."""
    pictures: list[str]
    """One ``data:`` address for each figure."""
    attachments: list[Attachment | None]
    """One for each figure."""
    links: list[str]
    """One address for each page, relative to the report page."""

    @property
    def anchor(self) -> str:
        """The part's address within the page."""
        return f"{self.report.chapter}-{self.report.study}"


def read_part(path: Path, largest_download: float, folder: Path) -> Part:
    """Read a chapter's report, its figures, their data and its timings.

    Args:
        path: the chapter's ``report.json``.
        largest_download: bytes of the largest data file to put into the page.
        folder: where the report page will lie, from which links lead on.

    Raises:
        UserError: the report breaks the contract, or a file it names is missing or broken.
    """
    if not path.is_file():
        raise UserError(f"{path}: found a folder, expected a report; build it with snakemake")
    report = core.validate(Report, read_json(path), str(path))
    named = [name for figure in report.figures for name in (figure.file, figure.data) if name is not None]
    for name in [*named, *(linked.file for linked in report.pages)]:
        if not (path.parent / name).is_file():
            raise UserError(f"{path.parent / name}: missing, but {path} names it; build the chapter again")
    return Part(
        report,
        [read_timing(card.records) for card in report.cards],
        [picture(path.parent / figure.file) for figure in report.figures],
        [attach(path.parent / f.data, largest_download) if f.data else None for f in report.figures],
        [link(path.parent / linked.file, folder) for linked in report.pages],
    )


def read_timing(pattern: str | None) -> Timing | None:
    """Add up the records of finished jobs that a pattern finds; nothing where there are none."""
    found = records.read(pattern) if pattern else []
    if not found:
        return None
    wall, cpu = (sum(record[name] for record in found) for name in ("wall_seconds", "cpu_seconds"))
    return Timing(len(found), wall, cpu, max(record["peak_bytes"] for record in found))


def picture(path: Path) -> str:
    """A figure as a ``data:`` address.

    Raises:
        UserError: it is no whole SVG, PNG or JPEG file.
    """
    data = path.read_bytes()
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82"):
        kind = "png"
    elif data.startswith(b"\xff\xd8") and data.rstrip(b"\0").endswith(b"\xff\xd9"):
        kind = "jpeg"
    elif _root(data) in ("svg", "svg:svg"):
        kind = "svg+xml"
    else:
        raise UserError(
            f"{path}: found {len(data)} bytes that are not a complete SVG, PNG or JPEG picture;"
            " delete it and run snakemake again"
        )
    return _data_address(f"image/{kind}", data)


def _root(data: bytes) -> str | None:
    """The name of an XML document's outermost element; nothing where it is not well-formed.

    Expat fetches nothing and stops entities that blow up.
    """
    names: list[str] = []
    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = lambda name, attributes: names.append(name) if not names else None
    try:
        parser.Parse(data, True)
    except (xml.parsers.expat.ExpatError, ValueError, LookupError):
        return None
    return names[0]


def link(path: Path, folder: Path) -> str:
    """The address of a file as seen from ``folder``; it never begins with a scheme."""
    steps = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return "./" + urllib.parse.quote(steps)


def attach(path: Path, largest: float) -> Attachment:
    """A data file for download: as bytes without a kind, so that no browser ever shows it."""
    count = path.stat().st_size
    address = _data_address("application/octet-stream", path.read_bytes()) if count <= largest else None
    return Attachment(path, count, address)


def _data_address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def page(parts: list[Part]) -> str:
    """The page, with the chapters in the order of ``parts``."""
    filters: dict[str, Callable[..., Any]] = {
        **{"number": number, "short": short, "timing": timing, "size": size, "pretty": pretty},
        **{"runs": runs, "paragraphs": paragraphs},
    }
    tests = {"snippet": lambda cell: isinstance(cell, Snippet), "numeric": _is_number}
    html = render(Path(__file__).with_name("page.html"), filters=filters, tests=tests, parts=parts)
    return _UNSEEN.sub(lambda found: visible(found[0]), html)


_UNSEEN = re.compile(r"[^\n\r\t\x20-\x7e\xa0-\xac\xae-\xff]")
"""Characters that may be unseen; names, labels and captions hold what their authors wrote."""


def even_decimals(values: list[float]) -> int | None:
    """Decimals that show all of a column's numbers alike, the largest to four significant digits at most.

    Nothing where there are none, or where a small one would keep fewer than two digits and be another.
    """
    largest = max(map(abs, values), default=0.0)
    if not largest or not 1e-3 <= largest < 1e4:
        return None
    most = 3 - math.floor(math.log10(largest))
    shown = [f"{value:.4g}" for value in values]
    decimals = min(most, max((len(text.partition(".")[2]) for text in shown if "e" not in text), default=0))
    lost = [value for value in values if value and abs(value) < 10 ** (1 - decimals)]
    return None if any(round(value, decimals) != value for value in lost) else decimals


def number(value: float, decimals: int | None = None) -> str:
    """A number for people: integers in groups of three, others to four significant digits.

    ``decimals``: of a column that shows all its numbers alike; whole numbers have none.
    """
    if decimals is not None and isinstance(value, float):
        text = f"{value:,.{decimals}f}"
    elif isinstance(value, int) or (abs(value) >= 1e4 and abs(value) < 1e15):
        text = f"{value:,.0f}" if isinstance(value, float) else f"{value:,}"
    else:
        text = f"{value:,.4g}"
    text, exponent, power = text.partition("e")
    if exponent:
        text += "\u00d710" + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return text.replace("-", "\u2212")


def short(digest: str) -> str:
    """The beginning of a hash, enough to tell it from others at a glance."""
    return digest[:10] + "…" if len(digest) > 12 else digest


def timing(found: Timing | None) -> str:
    """What jobs took, in words."""
    if found is None:
        return "no timings here"
    jobs = f" in {found.jobs} jobs" if found.jobs > 1 else ""
    cpu, memory = _duration(found.cpu_seconds), size(found.memory)
    return f"{_duration(found.seconds)}{jobs}, {cpu} of CPU time, peak {memory}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def pretty(value: Any) -> str:
    """Settings as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, separated by blank lines."""
    return [part.strip() for part in text.replace("\r\n", "\n").split("\n\n") if part.strip()]


def runs(snippet: Snippet) -> list[tuple[int, str]]:
    """A snippet as pieces ``(level, text)``: level 0 is plain and joined, 1 to ``LEVELS`` one token each."""
    pieces: list[tuple[int, str]] = []
    for token in snippet.tokens:
        level = round(token.strength * LEVELS)
        text = visible(token.text)
        if level == 0 and pieces and pieces[-1][0] == 0:
            text = pieces.pop()[1] + text
        pieces.append((level, text))
    return pieces


def main(reports: list[Path], settings: Settings, out: Output) -> None:
    """Write the page."""
    if not reports:
        raise UserError("--reports: found none, expected the report.json of at least one chapter")
    parts: dict[str, Part] = {}
    for path in reports:
        part = read_part(path, settings.largest_download_mb * 1e6, out.parent)
        if part.anchor in parts:
            raise UserError(f"{path}: study {part.anchor} appears twice; give each report once")
        parts[part.anchor] = part
    out.write_bytes(page(list(parts.values())).encode("utf-8", "replace"))
    logger.info("%s on one page of %s", ", ".join(parts), size(out.stat().st_size))


if __name__ == "__main__":
    run(main)
