"""Where Dafny and Z3 are, and which versions they must be.

Dafny is looked for in the setting, the variable ``DAFNY``, ``.venv/dafny`` (where ``make`` puts it) and on
PATH; Z3 in the setting, the list of files of the package ``z3-solver`` (which is never imported) and on PATH.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple

import pydantic

from steps.core import settings as core
from steps.core.errors import UserError


class Verifier(core.Settings):
    """Which Dafny decides, and within which limits."""

    dafny: str = pydantic.Field("4.11.0", pattern=r"^4\.\d+\.\d+$", description="version of Dafny")
    z3: str = pydantic.Field("4.12.1", pattern=r"^\d+\.\d+\.\d+$", description="version of Z3")
    resource_limit: int = pydantic.Field(
        5_000_000, ge=1000, description="Z3's resource units per proof; the limit that decides, not the clock"
    )
    seconds: float = pydantic.Field(
        300, gt=0, description="wall-clock seconds after which a call is ended; the verdict is then timeout"
    )
    memory_mb: int = pydantic.Field(
        6000, ge=500, description="resident memory of Dafny and Z3, in MB, at which the call is ended"
    )
    heap_mb: int = pydantic.Field(3000, ge=200, description="limit of Dafny's .NET heap, in MB")
    verdicts: Literal["auto", "live", "recorded"] = pydantic.Field(
        "auto",
        description="live: Dafny; recorded: the record of the embedded programs;"
        " auto: live if Dafny is found",
    )
    command: str | None = pydantic.Field(
        None,
        min_length=1,
        description="path of Dafny; null: DAFNY, .venv/dafny, PATH",
        json_schema_extra=core.NO_INFLUENCE,
    )
    solver: str | None = pydantic.Field(
        None,
        min_length=1,
        description="path of Z3; null: the package z3-solver, PATH",
        json_schema_extra=core.NO_INFLUENCE,
    )


class Tools(NamedTuple):
    """Programs that were found."""

    dafny: Path
    z3: Path


def find(verifier: Verifier) -> Tools | None:
    """Dafny and its Z3, of the versions that the settings name; nothing where there is no Dafny.

    Raises:
        UserError: a named path is no program, there is no Z3, or a version is another.
    """
    dafny = _dafny(verifier.command)
    if dafny is None:
        return None
    z3 = _z3(verifier.solver)
    _require(dafny, "Dafny", "verifier.dafny", verifier.dafny)
    _require(z3, "Z3", "verifier.z3", verifier.z3)
    return Tools(dafny, z3)


def _dafny(setting: str | None) -> Path | None:
    if setting is not None:
        return _program(setting, "dafny.verifier.command")
    if os.environ.get("DAFNY"):
        return _program(os.environ["DAFNY"], "the variable DAFNY")
    here = Path(sys.prefix) / "dafny" / "dafny"
    if here.is_file() and os.access(here, os.X_OK):
        return here
    found = shutil.which("dafny")
    return Path(found).absolute() if found else None


def _z3(setting: str | None) -> Path:
    if setting is not None:
        return _program(setting, "dafny.verifier.solver")
    try:
        files = importlib.metadata.distribution("z3-solver").files or []
        found = [Path(str(file.locate())) for file in files if file.name == "z3"]
    except importlib.metadata.PackageNotFoundError:
        found = []
    on_path = shutil.which("z3")
    found = [path.resolve() for path in [*found, *([Path(on_path)] if on_path else [])] if path.is_file()]
    if not found:
        raise UserError(
            "Z3: found none, expected the package z3-solver or z3 on PATH; install it, or name it in"
            " dafny.verifier.solver"
        )
    return found[0]


def _program(text: str, where: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise UserError(f"{where}: found {text!r}, expected the path of a program; correct or remove it")
    return path


def _require(program: Path, name: str, key: str, wanted: str) -> None:
    """Refuse a program of another version."""
    try:
        # a fixed word, and the clean environment of every call
        done = subprocess.run(
            [str(program), "--version"], capture_output=True, timeout=60, env=environment(), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{program}: does not run ({error}); name another {name}") from None
    said = done.stdout.decode("utf-8", "replace").strip()
    found = re.search(r"\d+\.\d+\.\d+", said)
    if found is None:
        said = said or done.stderr.decode("utf-8", "replace").strip()
        raise UserError(f"{program}: found no version in {said[:200]!r}, expected {name} {wanted}")
    if found[0] != wanted:
        raise UserError(
            f"{program}: found {name} {found[0]}, expected {wanted}; install that one, or set dafny.{key}"
            f" to {found[0]}"
        )


def environment(heap_mb: int | None = None, home: Path | None = None) -> dict[str, str]:
    """The environment of Dafny: ours, without what changes what it does, and its heap limited.

    .NET's own variable limits the heap, since a limit of its addresses would end it at its start.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COMPlus_", "DOTNET_gc", "DOTNET_GC", "DAFNY"))
    }
    kept.setdefault("DOTNET_ROLL_FORWARD", "LatestMajor")  # made for 8, runs on what is there
    kept |= {
        "DOTNET_EnableDiagnostics": "0",  # else every process that is killed leaves a socket in /tmp
        "DOTNET_TieredPGO": "0",
        "DOTNET_CLI_TELEMETRY_OPTOUT": "1",
        "DOTNET_NOLOGO": "1",
    }
    if heap_mb is not None:
        kept["DOTNET_GCHeapHardLimit"] = hex(heap_mb * 1_000_000)
    if home is not None:
        kept |= {"HOME": str(home), "TMPDIR": str(home)}
    return kept


def missing() -> str:
    """One line for those without Dafny: what to type on this system."""
    release = _os_release()
    name, version = release.get("ID", ""), release.get("VERSION_ID", "")
    if name == "ubuntu":
        package = "dotnet-sdk-10.0" if version >= "26" else "dotnet-sdk-8.0"
        how = f"sudo apt-get install {package}"
    elif name == "fedora":
        how = "sudo dnf install dotnet-sdk-8.0"
    elif sys.platform == "darwin":
        how = "brew install dotnet"
    else:
        how = "install a .NET SDK of version 8 or newer by Microsoft's installer (dotnet-install.sh)"
    return f"no Dafny found; {how}, then: make dafny; or name Dafny in the variable DAFNY"


def _os_release() -> dict[str, str]:
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = [line.partition("=") for line in text.splitlines()]
    return {key: value.strip("\"'") for key, _, value in pairs}
