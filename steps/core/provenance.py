"""Where a result comes from: settings, code, inputs and versions, for every ``report.json``."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps.core.digest import code_digest, file_digest

LIBRARIES = (
    *("datasets", "numpy", "pyarrow", "safetensors", "scipy", "tokenizers", "torch", "transformers", "zarr"),
)
"""Libraries whose version may change a result."""


def provenance(steps: Iterable[str], settings: dict[str, Any], inputs: Iterable[Path]) -> dict[str, Any]:
    """What decides a chapter's results.

    Args:
        steps: the modules that made them, such as ``neurons.correlate``.
        settings: the chapter's settings.
        inputs: the files they were made from.

    Returns:
        ``settings``, ``code`` (step: digest), ``inputs`` (path: SHA-256), ``versions``.
    """
    return {
        "settings": settings,
        "code": {step: code_digest(step) for step in steps},
        "inputs": _hashes(inputs),
        "versions": {"python": platform.python_version(), **versions()},
    }


def card(
    name: str, value: Any, unit: str, note: str, *, step: str, study: str, inputs: Iterable[Path]
) -> dict[str, Any]:
    """A headline number of a ``report.json`` and where it came from.

    Args:
        name: what was measured, for people.
        value: the number.
        unit: of the number, or nothing.
        note: one sentence on how to read it.
        step: the module that made it, such as ``neurons.correlate``.
        study: the study it belongs to; timings lie under ``logs/CHAPTER/STEP/STUDY``.
        inputs: the files it was made from.
    """
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "note": note,
        "rule": step.replace(".", "_"),
        "benchmark": f"logs/{step.replace('.', '/')}/{study}/**/*.tsv",
        "inputs": _hashes(inputs),
        "code": code_digest(step),
    }


def versions() -> dict[str, str]:
    """The installed versions of ``LIBRARIES``, without importing any."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _hashes(paths: Iterable[Path]) -> dict[str, str]:
    return {path.as_posix(): file_digest(path) for path in sorted(paths)}
