"""Arrays that belong together in one safetensors file, with facts about them and a digest of all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.core.provenance import versions

if TYPE_CHECKING:
    import numpy as np


def write_tensors(path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Write arrays that belong together, and facts about them, as one safetensors file.

    Among the facts, ``kind`` says what the file is; the versions of the libraries that made it are added to
    them as ``versions``, and a digest of all is kept with them.
    """
    import numpy as np
    from safetensors.numpy import save_file

    facts = {**facts, "versions": versions()}
    whole = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    digest = _tensors_digest(
        facts, {name: (_type_name(values.dtype), list(values.shape)) for name, values in whole.items()}
    )
    for name in sorted(whole):
        digest.update(whole[name].data)
    # One entry only: safetensors writes several in random order.
    text = json.dumps({"facts": facts, "sha256": digest.hexdigest()}, sort_keys=True)
    save_file(whole, path, metadata={"facts": text})
    # safetensors lets nobody but the owner read what it writes; a group may share a file system.
    mask = os.umask(0o077)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def read_tensors(
    path: Path, leave: str = "", kind: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote, without the array called ``leave``.

    Raises:
        UserError: the file is damaged or something else.
    """
    with open_tensors(path, kind) as (file, facts):
        return {name: file.get_tensor(name) for name in sorted(file.keys()) if name != leave}, facts


@contextlib.contextmanager
def open_tensors(
    path: Path, kind: str | None = None, checked: bool = False
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open what :func:`write_tensors` wrote, to read parts of it: a safetensors handle, and the facts.

    Args:
        path: the file.
        kind: what it must be; anything by default.
        checked: whether this process has compared its digest before, for which the whole is read.

    Raises:
        UserError: the file is damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    remedy = "delete it and run snakemake again"
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["facts"])
            facts, digest = about["facts"], about["sha256"]
            if kind is not None and facts.get("kind") != kind:
                raise UserError(f"{path}: found a file of {facts.get('kind')!r}, expected one of {kind!r}")
            if not checked and _digest_of_tensors(path, facts) != digest:
                raise UserError(f"{path}: its contents differ from the hash in it; {remedy}")
            yield file, facts
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: unreadable ({error}); {remedy}") from None


def _type_name(dtype: np.dtype) -> str:
    """What safetensors calls an element type."""
    return "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def _tensors_digest(facts: dict[str, Any], layout: dict[str, tuple[str, list[int]]]) -> hashlib._Hash:
    """SHA-256 over the facts and each array's type and shape, to be fed the arrays by name."""
    return hashlib.sha256(json.dumps([facts, layout], sort_keys=True).encode())


def _digest_of_tensors(path: Path, facts: dict[str, Any]) -> str:
    """The digest of a file as it is; read in parts, so that nothing of it stays in memory."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        arrays = json.loads(file.read(size))
        del arrays["__metadata__"]
        digest = _tensors_digest(facts, {name: (of["dtype"], of["shape"]) for name, of in arrays.items()})
        buffer = memoryview(bytearray(2**20))
        for name in sorted(arrays):
            start, stop = arrays[name]["data_offsets"]
            file.seek(8 + size + start)
            for at in range(start, stop, len(buffer)):
                digest.update(buffer[: file.readinto(buffer[: stop - at])])
    return digest.hexdigest()
