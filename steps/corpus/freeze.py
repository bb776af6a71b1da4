r"""Freeze the text that every Python installation holds, so that a corpus can be made from it.

Reads the running Python: the sources of the standard library (without tests and site-packages),
the help texts of ``pydoc_data.topics`` and the names of the Unicode characters.

Writes a parquet table with one row per module, topic or range of characters, sorted:

    kind    str   module, topic or names
    key     str   the module's file relative to the library, the topic, the first character
    text    str   newlines as ``\n``
    sha256  str   of the module's file, or of the text in UTF-8

with the Python version in the metadata of its schema, and a manifest in JSON with the Python
version, the counts and every hash.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import logging
import os
import platform
import re
import sys
import sysconfig
import tokenize
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from steps.core.errors import UserError
from steps.core.runner import Output, run

logger = logging.getLogger("reprise")

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
"""Folders of the library that hold tests or what others installed."""

CHARACTERS = 256
"""Code points in one row of character names."""

LAST_CHARACTER = 0xFFFF
"""The last code point that is named: those above are mostly numbered or from historic scripts."""

_NUMBERED = re.compile(r"(-[0-9A-F]{4,6}$)|^HANGUL SYLLABLE ")


class Frozen(NamedTuple):
    """One row of the table."""

    kind: str
    key: str
    text: str
    sha256: str


def modules(library: Path) -> Iterator[Frozen]:
    """The sources of the standard library in ``library``, sorted by path.

    Only what belongs to the library by name: not what a distribution or an administrator put
    beside it (``sitecustomize``), nor the record of the build (``_sysconfigdata``). A file that
    cannot be decoded is left out with a warning.
    """
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).parts):
        parts = path.relative_to(library).parts
        name = parts[0].removesuffix(".py")
        if name not in sys.stdlib_module_names or LEFT_OUT.intersection(parts) or not path.is_file():
            continue
        if parts == ("pydoc_data", "topics.py"):
            continue  # its text comes as topics
        data = path.read_bytes()
        key = os.fsencode("/".join(parts)).decode("utf-8", "backslashreplace")
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            text = io.TextIOWrapper(io.BytesIO(data), encoding).read()
        except (SyntaxError, UnicodeDecodeError, LookupError) as error:
            logger.warning("%s: left out, cannot be decoded (%s)", key, error)
            continue
        yield Frozen("module", key, text, hashlib.sha256(data).hexdigest())


def topics() -> Iterator[Frozen]:
    """The help texts of ``pydoc_data.topics``, sorted by topic; none where it is not installed."""
    try:
        texts = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        logger.warning("pydoc_data.topics: not installed with this Python, left out")
        return
    for key, text in sorted(texts.items()):
        yield Frozen("topic", key, text, _text_digest(text))


def names() -> Iterator[Frozen]:
    """The names of the characters up to ``LAST_CHARACTER``, one a line, ``CHARACTERS`` code points a row.

    Names that are made from a number (ideographs, Hangul syllables) are left out.
    """
    for start in range(0, LAST_CHARACTER + 1, CHARACTERS):
        found = [unicodedata.name(chr(code), "") for code in range(start, start + CHARACTERS)]
        text = "\n".join(name for name in found if name and not _NUMBERED.search(name))
        if text:
            yield Frozen("names", f"U+{start:04X}", text, _text_digest(text))


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write(rows: list[Frozen], out: Path) -> None:
    """Write the table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {field: [getattr(row, field) for row in rows] for field in Frozen._fields}
    table = pa.table(columns, pa.schema([(field, pa.string()) for field in Frozen._fields]))
    table = table.replace_schema_metadata({"python": platform.python_version()})
    pq.write_table(table, out, compression="zstd", write_page_checksum=True)


def main(out: Output, manifest: Output) -> None:
    """Freeze the running Python's texts."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = list(modules(library))
    if not sources:
        raise UserError(
            f"{library}: holds no sources of the standard library, expected .py files; install them"
            " with Python, or choose another source in corpus.documents.source"
        )
    rows = [*sources, *topics(), *names()]
    write(rows, out)
    characters: Counter[str] = Counter()
    for row in rows:
        characters[row.kind] += len(row.text)
    summary = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "unicode": unicodedata.unidata_version,
        "counts": dict(Counter(row.kind for row in rows)),
        "characters": dict(characters),
        "sha256": {f"{row.kind}:{row.key}": row.sha256 for row in rows},
    }
    manifest.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    logger.info(
        "froze %d texts of Python %s, %d characters", len(rows), summary["python"], characters.total()
    )


if __name__ == "__main__":
    run(main)
