"""The Makefile: what it offers is explained, and it works in a folder with an awkward name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    # As if from a shell: under `make test` it would say which folders it enters.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=variables, capture_output=True, text=True, timeout=60
    )


def make(folder: Path, *arguments: str) -> str:
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def copied(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def targets() -> set[str]:
    [line] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    return set(line.split())


def test_help_names_every_target() -> None:
    said = make(ROOT, "help")
    assert set(re.findall(r"^make (\w+)\t", said, re.MULTILINE)) == targets()


@pytest.mark.parametrize("target", sorted(targets() - {"help"}))
def test_a_target_runs_the_environments_python_in_a_folder_with_spaces(tmp_path: Path, target: str) -> None:
    folder = copied(tmp_path / "a folder with 'spaces'")
    (folder / ".venv").mkdir()
    (folder / ".venv/.ready").touch()
    said = make(folder, "-n", target)
    assert ".venv/bin/" in said
    assert "pip install" not in said


def dotnet(folder: Path, sdks: str, fails: bool = False) -> Path:
    """A ``dotnet`` that knows some SDKs and notes what it is told to install."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dotnet"
    path.write_text(
        f'#!/bin/sh\n[ "$1" = --list-sdks ] && {{ echo "{sdks}"; exit; }}\n'
        f'echo "$@" >> "{folder}/said"\nexit {int(fails)}\n'
    )
    path.chmod(0o755)
    return path.parent


@pytest.mark.parametrize(
    ("sdks", "installs"),
    [("8.0.100 [/x]", True), ("10.0.1 [/x]", True), ("6.0.3 [/x]\n7.0.1 [/x]", False), ("", False)],
)
def test_dafny_is_installed_where_an_sdk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sdks: str, installs: bool
) -> None:
    folder = copied(tmp_path / "clone with 'spaces'")
    (folder / ".venv/bin").mkdir(parents=True)
    python = folder / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv/.ready").touch()
    tools = dotnet(tmp_path / "tools", sdks)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    done = run(folder, "dafny")
    assert (done.returncode == 0) == installs
    if installs:
        told = "tool install dafny --version 4.11.0 --tool-path .venv/dafny\n"
        assert (tools / "said").read_text() == told
    else:
        assert "no Dafny found; " in done.stderr
        assert not (tools / "said").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_environment_is_made_with_dafny_or_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Without a network it is one line, not the end."""
    folder = copied(tmp_path / "clone")
    (folder / ".venv/bin").mkdir(parents=True)
    python = folder / ".venv/bin/python"
    python.write_text("#!/bin/sh\n")  # takes any installation for done
    python.chmod(0o755)
    tools = dotnet(tmp_path / "tools", "8.0.100 [/x]", fails)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("DAFNY", raising=False)
    done = run(folder, "pull")
    assert done.returncode == 0, done.stderr
    assert (tools / "said").read_text().startswith("tool install dafny")
    assert ("Dafny could not be installed" in done.stderr) == fails


def test_nothing_is_installed_into_an_environment_of_another_folder(tmp_path: Path) -> None:
    """An editable install would let that folder's commands run this folder's steps."""
    shared = tmp_path / "another clone/.venv"
    (shared / "bin").mkdir(parents=True)
    python = shared / "bin/python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    (shared / ".ready").touch()
    os.utime(shared / ".ready", (0, 0))  # older than pyproject.toml, as in every fresh clone
    folder = copied(tmp_path / "this clone")
    (folder / ".venv").symlink_to(shared)
    assert make(folder, "pull") == "-m steps.workflow.versions pull\n"
    assert (shared / ".ready").stat().st_mtime == 0

    python.unlink()
    done = run(folder, "pull")
    assert done.returncode != 0
    assert done.stderr.startswith(f"make: .venv is a link to {shared}, which holds no environment")
