"""Fingerprints of files, settings and code, and the seeds derived from them."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_NOT_PART_OF_RESULTS = {"steps.core.runner", "steps.core.errors"}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the paths, sizes and modification times of files, whose contents are not read.

    For folders of so many files that reading or declaring each would take too long.

    Raises:
        OSError: a file is missing.
    """
    digest = hashlib.sha256()
    for path in paths:
        about = path.stat()
        digest.update(os.fsencode(path) + f"\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seed(*parts: Any) -> int:
    """A 63-bit seed from the configured seed, the step's name and what the job works on.

    Never pass a tile or range number: another cut must see the same random numbers.
    """
    return int(fingerprint([str(part) for part in parts])[:16], 16) >> 1


@functools.cache
def code_digest(step: str) -> str:
    """SHA-256 over the code of a step and of the project modules it imports.

    Args:
        step: the module under ``steps``, such as ``neurons.correlate``.

    The sources are compared as ``ast.unparse`` prints them without docstrings, so comments,
    layout and documentation change nothing, and neither does the Python version. The runner and
    the error texts are left out: they decide how a result is reported, not what it is. Files beside
    a module that it names (templates, word lists) count as its code.
    """
    sources: dict[str, str] = {}
    waiting = [f"steps.{step}"]
    while waiting:
        module = waiting.pop()
        path = _module_path(module)
        if module in sources or module in _NOT_PART_OF_RESULTS or path is None:
            continue
        code, imports, files = _module_code(path)
        sources |= {module: code} | files
        waiting += imports
    return fingerprint(sources)


@functools.cache
def _module_code(path: Path) -> tuple[str, list[str], dict[str, str]]:
    """Source without comments and docstrings, the project modules it imports, digests of files it names."""
    tree = _without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
    return ast.unparse(tree), _project_imports(tree), _named_files(tree, path.parent)


def _named_files(tree: ast.AST, folder: Path) -> dict[str, str]:
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    names = {text for text in texts if isinstance(text, str) and _FILE_NAME.fullmatch(text)}
    paths = [folder / name for name in sorted(names)]
    return {path.relative_to(_ROOT).as_posix(): file_digest(path) for path in paths if path.is_file()}


_FILE_NAME = re.compile(r"\w+\.(css|html|js|json|txt)")
"""What may be the name of a file beside a module."""


def _module_path(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _project_imports(tree: ast.AST) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == "steps"]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree without strings that stand alone: docstrings, those of attributes too, do nothing."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            code = [part for part in body if not _is_string(part)]
            node.body = code or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_string(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
