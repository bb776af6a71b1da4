"""Documents from the frozen texts of a Python installation (``steps.corpus.freeze``)."""

from __future__ import annotations

import ast
import concurrent.futures
import contextlib
import io
import itertools
import logging
import tokenize
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pydantic

from steps.core.settings import Settings
from steps.core.stores import open_table, read_table
from steps.corpus.sources.document import Document

logger = logging.getLogger("reprise")

COLUMNS = ("kind", "key", "text")
"""What is read of the snapshot."""

Kind = Literal["docstring", "comment", "code", "topic", "names"]


class Embedded(Settings):
    """Settings of the source ``embedded``."""

    kinds: list[Kind] = pydantic.Field(
        ["docstring", "comment", "code", "topic", "names"],
        min_length=1,
        description="what is taken: parts of the library's sources, help topics, character names",
    )


class Part(NamedTuple):
    """A docstring, a comment or a piece of code of a source file."""

    kind: Kind
    line: int
    text: str


def documents(settings: Embedded, snapshot: Path, processes: int = 1) -> Iterator[Document]:
    """The documents of a frozen snapshot, in its order, parsed by a number of ``processes``.

    The source file, the topic or the range of characters is the unit of the split. A file that
    this Python cannot parse (the snapshot may come from another version) is left out with a warning.
    """
    rows = list(_rows(snapshot))
    sources = [text for kind, _, text in rows if kind == "module"]
    with concurrent.futures.ProcessPoolExecutor(processes) if processes > 1 else _Here() as pool:
        split = iter(pool.map(_parts_or_error, sources, chunksize=8))
        for kind, key, text in rows:
            if kind != "module":
                if kind in settings.kinds:
                    yield Document(key, f"{kind}:{key}", kind, text)
                continue
            parts = next(split)
            if isinstance(parts, str):
                logger.warning("%s: left out, this Python cannot parse it (%s)", key, parts)
                continue
            for part in parts:
                if part.kind in settings.kinds:
                    yield Document(key, f"{key}#{part.kind}-{part.line}", part.kind, part.text)


class _Here(contextlib.nullcontext["_Here"]):
    """In place of a pool of processes: this one."""

    def __enter__(self) -> _Here:
        return self

    def map(
        self, function: Callable[[str], list[Part] | str], texts: list[str], chunksize: int
    ) -> Iterator[list[Part] | str]:
        return map(function, texts)


def _parts_or_error(text: str) -> list[Part] | str:
    try:
        return split_source(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        return str(error)


def python_version(snapshot: Path) -> str:
    """The version of the Python that was frozen.

    Raises:
        UserError: the file is not a frozen snapshot.
    """
    with open_table(snapshot, COLUMNS) as table:
        version = (table.schema_arrow.metadata or {}).get(b"python", b"unknown")
    return version.decode("utf-8", "backslashreplace")


def _rows(snapshot: Path) -> Iterator[tuple[str, str, str]]:
    table = read_table(snapshot, COLUMNS)
    yield from zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)


def split_source(text: str) -> list[Part]:
    r"""Take a Python source file apart, so that nothing is in two parts.

    Docstrings are dedented as ``inspect.cleandoc`` does. Comments on neighbouring lines that begin
    in the same column are one part. Code is what remains, one part for each class or function of
    the module and one for what stands between them; where a body was a docstring only, ``pass``
    takes its place, so that the code still parses.

    Args:
        text: the file, newlines as ``\n``.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError: it cannot be parsed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own invalid escapes
        tree = ast.parse(text)
    lines: list[str | None] = [*text.split("\n")]
    parts = [Part("comment", line, comment) for line, comment in _take_comments(text, lines)]
    parts += [Part("docstring", line, doc) for line, doc in _take_docstrings(tree, lines)]
    parts += [Part("code", line, code) for line, code in _code(tree, lines)]
    return sorted(parts, key=lambda part: part.line)


def _take_comments(text: str, lines: list[str | None]) -> Iterator[tuple[int, str]]:
    """Cut the comments out of ``lines`` and give each run of them with its first line."""
    run: list[str] = []
    first = last = column = -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, start = token.start
        before = (lines[line - 1] or "")[:start].rstrip()
        lines[line - 1] = before or None
        if (line, start) != (last + 1, column):
            if run:
                yield first, "\n".join(run)
            run, first = [], line
        run.append(token.string.rstrip())
        last, column = line, start
    if run:
        yield first, "\n".join(run)


def _take_docstrings(tree: ast.Module, lines: list[str | None]) -> Iterator[tuple[int, str]]:
    """Cut the docstrings out of ``lines`` and give each with its first line."""
    for node in _definitions(tree):
        text = ast.get_docstring(node)
        if text is None:
            continue
        statement = node.body[0]
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        before = _until_byte(lines[first] or "", statement.col_offset)
        after = (lines[last] or "")[len(_until_byte(lines[last] or "", statement.end_col_offset or 0)) :]
        after = after.strip().removeprefix(";").lstrip()
        only = len(node.body) == 1 and not isinstance(node, ast.Module)
        rest = before + ("pass" if only else after)
        lines[first : last + 1] = [rest if rest.strip() else None, *[None] * (last - first)]
        yield first + 1, text


def _definitions(
    node: ast.AST,
) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield from _definitions(child)


def _until_byte(line: str, offset: int) -> str:
    """The part of a line before a column that ``ast`` counts in bytes of UTF-8."""
    return line[:offset] if line.isascii() else line.encode()[:offset].decode()


def _code(tree: ast.Module, lines: list[str | None]) -> Iterator[tuple[int, str]]:
    """What remains of ``lines``, cut before and after every class and function of the module."""
    starts = {0}
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            starts |= {first - 1, node.end_lineno or node.lineno}
    edges = [*sorted(starts), len(lines)]
    for start, end in itertools.pairwise(edges):
        kept = [(number, line) for number, line in enumerate(lines[start:end], start + 1) if line is not None]
        begin = next((number for number, line in kept if line.strip()), None)
        if begin is not None:
            yield begin, "\n".join(line for _, line in kept).strip("\n")
