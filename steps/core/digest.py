"""Fingerprints of files, settings and code, and the seeds derived from them.

The digest of a step's code covers the definitions that its ``main`` reaches: every top-level statement of
``steps`` that binds a name which ``main``, or something reached before, uses. It reads sources and imports
nothing. Where it cannot tell which definitions are used, it takes all of a module.

- Imports are followed wherever they stand, through the ``__init__``s of packages, and ``module.name`` to the
  name. A module that is used otherwise (passed on, in ``getattr``, ``from module import *``) counts whole.
- Annotations are followed, since pydantic and the runner build classes from them, but are no part of the text
  outside class bodies. Those of ``main`` are: the runner reads the command line by them.
- What acts on import (calls, assignments to attributes and items, whatever registers something) counts for
  every module that is imported. A module with a decorator that is not known to be harmless counts whole.
- Left out, names in them too: docstrings, arguments of raised errors, messages of asserts, calls of loggers,
  descriptions and bounds of pydantic fields, labels of progress.
- Names of local variables decide nothing and are numbered.
- A file that a reached definition names, beside its module, counts: JSON by content, Python as a module that
  is used whole, others by bytes.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps.core.definitions.reach import PACKAGE, Reach, Sources

_ROOT = Path(__file__).resolve().parents[2]


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
def code_digest(step: str, root: Path = _ROOT) -> str:
    """SHA-256 over the definitions that a step's ``main`` reaches; see the module's docstring.

    Args:
        step: the module under ``steps``, such as ``neurons.correlate``. One without ``main`` counts whole.
        root: the folder in which ``steps`` lies; read once.

    The definitions are compared as ``ast.unparse`` prints them, by their names: neither comments, layout and
    order in a file decide, nor the Python version.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    collects = gc.isenabled()
    gc.disable()  # a quarter of the time would go into looking at trees that stay
    try:
        return fingerprint(_reach(step, root).texts)
    finally:
        if collects:
            gc.enable()


def code_definitions(step: str, root: Path = _ROOT) -> frozenset[str]:
    """The names of the definitions that a step's digest covers, such as ``steps.core.digest.seed``."""
    return frozenset(_reach(step, root).definitions)


def code_files(step: str, root: Path = _ROOT) -> list[str]:
    """The files in which a change can change a step's digest, relative to ``root``, sorted."""
    return sorted(set(_reach(step, root).files))


@functools.cache
def _reach(step: str, root: Path) -> Reach:
    return Reach(_sources(root), f"{PACKAGE}.{step}")


@functools.cache
def _sources(root: Path) -> Sources:
    return Sources(root, _content)


def _content(path: Path) -> str:
    """Digest of a file beside a module: of what it says where it is JSON, else of its bytes."""
    if path.suffix == ".json":
        with contextlib.suppress(ValueError, RecursionError):  # no JSON
            return fingerprint(json.loads(path.read_bytes()))
    return file_digest(path)
