"""Dafny for tests: the real one where there is one, and a stand-in that misbehaves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steps.dafny.verifier.locate import Tools, Verifier, find
from steps.dafny.verifier.pool import Server

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "steps/dafny/embedded"


@pytest.fixture(scope="session")
def dafny() -> Tools:
    """The real Dafny: that of ``DAFNY``, the environment or PATH, or beside the repository."""
    beside = ROOT.parent / "shared/tools/dafny4/bin/dafny"
    named = not os.environ.get("DAFNY") and beside.is_file()
    tools = find(Verifier(command=str(beside) if named else None))
    if tools is None:
        pytest.skip("no Dafny found; make dafny installs one, or name it in DAFNY")
    return tools


@pytest.fixture(scope="session")
def server(dafny: Tools) -> Iterator[Server]:
    """A warm server of the real Dafny."""
    with Server(dafny, Verifier()) as warm:
        yield warm


def stand_in_at(folder: Path) -> Tools:
    """A Dafny that does what a text says; the calls are noted in ``folder / 'calls'``."""
    script, source = folder / "bin" / "dafny", Path(__file__).with_name("stand_in.py")
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nREPRISE_STAND_IN="{folder / "calls"}" exec "{sys.executable}" -I -S "{source}" "$@"\n'
    )
    z3 = folder / "bin" / "z3"
    z3.write_text("#!/bin/sh\necho Z3 version 4.12.1\n")
    for path in (script, z3):
        path.chmod(0o755)
    return Tools(script, z3)


@pytest.fixture
def stand_in(tmp_path: Path) -> Tools:
    """A stand-in, its calls in ``tmp_path / 'calls'``."""
    return stand_in_at(tmp_path)


@pytest.fixture(scope="session")
def benchmark() -> Path:
    """The folder of the benchmark's published files, which lies beside the repository."""
    folder = Path(os.environ.get("REPRISE_TEST_DATA", ROOT.parent / "shared" / "data")) / "dafnybench"
    if not folder.is_dir():
        pytest.skip(f"no published benchmark under {folder}; name its parent in REPRISE_TEST_DATA")
    return folder
