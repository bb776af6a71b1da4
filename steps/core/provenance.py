"""Where a result comes from: settings, code, inputs and versions, for every ``report.json``.

Versions are those of the Python, libraries and programs that made a file, and the file itself says which:
``ledger.json`` of a folder, the facts of ``core.tensors``, the schema of a table, a key ``versions`` of other
JSON.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steps.core.digest import code_digest, file_digest

LIBRARIES = (
    *("datasets", "numpy", "pandas", "pillow", "pyarrow", "safetensors", "scikit-learn", "scipy"),
    *("tokenizers", "torch", "transformers", "zarr"),
)
"""Libraries whose version may change a result."""


VERSIONS = b"versions"
"""The key of what made a table in its schema's metadata, as JSON."""


def provenance(
    steps: Iterable[str],
    settings: dict[str, Any],
    inputs: Iterable[Path],
    programs: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What decides a chapter's results.

    Args:
        steps: the modules that made them, such as ``neurons.correlate``.
        settings: the chapter's settings.
        inputs: the files they were made from.
        programs: versions of programs outside Python that made them, by name.

    Returns:
        ``settings``, ``code`` (step: digest), ``inputs`` (path: SHA-256), ``versions`` (by library or
        program: all that made one of the inputs, parted by commas).
    """
    inputs = list(inputs)
    made = [*itertools.chain(*map(made_with, inputs)), *(programs or {}).items()]
    return {
        "settings": settings,
        "code": {step: code_digest(step) for step in steps},
        "inputs": _hashes(inputs),
        "versions": {
            name: ", ".join(sorted({version for other, version in made if other == name}))
            for name in sorted({name for name, _ in made})
        },
    }


def made_with(path: Path) -> list[tuple[str, str]]:
    """Library and version, of all that made a file as the file itself says; nothing where it does not say.

    Raises:
        UserError: the file is damaged.
    """
    from steps.core.stores import open_table, read_json
    from steps.core.tensors import open_tensors

    said: list[Any] = []
    if path.suffix == ".json":
        content = read_json(path)
        said = content if isinstance(content, list) else [content]
    elif path.suffix == ".safetensors":
        with open_tensors(path, checked=True) as (_, facts):
            said = [facts]
    elif path.suffix == ".parquet":
        with open_table(path) as table:
            made = (table.schema_arrow.metadata or {}).get(VERSIONS)
            said = [{"versions": json.loads(made)}] if made is not None else []
    found = [part.get("versions") for part in said if isinstance(part, dict)]
    return [(str(name), str(value)) for one in found if isinstance(one, dict) for name, value in one.items()]


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
        study: the study it belongs to; records of its jobs lie under
            ``logs/CHAPTER/STEP/STUDY``.
        inputs: the files it was made from.
    """
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "note": note,
        "rule": step.replace(".", "_"),
        "records": f"logs/{step.replace('.', '/')}/{study}/**/*.json",
        "inputs": _hashes(inputs),
        "code": code_digest(step),
    }


def versions(libraries: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """The installed versions of Python and of ``libraries``, none of which is imported."""
    found = {library: version for library in libraries if (version := _installed(library)) is not None}
    return {"python": platform.python_version(), **found}


@functools.cache
def _installed(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hashes(paths: Iterable[Path]) -> dict[str, str]:
    return {path.as_posix(): file_digest(path) for path in sorted(paths)}
