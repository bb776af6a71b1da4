"""The Makefile: what it offers is explained, and it works in a folder with an awkward name."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def make(folder: Path, *arguments: str) -> str:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    done = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def targets() -> set[str]:
    [line] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    return set(line.split())


def test_help_names_every_target() -> None:
    said = make(ROOT, "help")
    assert set(re.findall(r"^make (\w+)\t", said, re.MULTILINE)) == targets()


@pytest.mark.parametrize("target", sorted(targets() - {"help"}))
def test_a_target_runs_the_environments_python_in_a_folder_with_spaces(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "a folder with 'spaces'"
    (folder / ".venv").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, folder / name)
    (folder / ".venv/.ready").touch()
    said = make(folder, "-n", target)
    assert ".venv/bin/" in said
    assert "pip install" not in said
