"""What is written from the code is up to date; ``make fix`` mends what is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from steps.core.settings import Settings
from steps.workflow import generated
from steps.workflow.configuration import Config
from tests.warm.start import environment
from tests.workflow.conftest import ROOT

DEFAULTS = "config/default.yaml"


def copy_tree(folder: Path) -> Path:
    """A copy of the sources, in which ``make fix`` may write."""
    ignored = shutil.ignore_patterns("__pycache__", "records")
    for name in ("steps", "rules", "config", "profiles", "docs", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    files = [
        "Snakefile",
        "dvc.yaml",
        "constraints.txt",
        "pyproject.toml",
        "Makefile",
        ".dvcignore",
        ".gitignore",
    ]
    files += [*(path.name for path in ROOT.glob("*.md")), "data/README.md", ".dvc/config", ".dvc/.gitignore"]
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m steps.workflow.generated`` in a copy."""
    return subprocess.run(
        [sys.executable, "-m", "steps.workflow.generated", *arguments],
        cwd=folder,
        env=environment(warm=False) | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_is_in_step_with_the_code() -> None:
    done = run(ROOT, "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_description_is_written_once(tmp_path: Path) -> None:
    """A change makes the check fail in one line, the fix writes it, and nothing is left to write."""
    copy = copy_tree(tmp_path / "copy")
    before = (copy / DEFAULTS).read_bytes()
    source = copy / "steps/neurons/moments.py"
    text = source.read_text(encoding="utf-8")
    assert "top examples kept per neuron" in text
    source.write_text(text.replace("top examples kept per neuron", "the largest of each neuron"))
    done = run(copy, "--check", DEFAULTS)
    assert done.returncode == 1
    assert done.stderr == f"{DEFAULTS}: out of date; run make fix\n"
    assert (copy / DEFAULTS).read_bytes() == before
    assert run(copy, DEFAULTS).stdout == f"written: {DEFAULTS}\n"
    assert "examples: 20 # the largest of each neuron\n" in (copy / DEFAULTS).read_text(encoding="utf-8")
    assert run(copy, "--check", DEFAULTS).returncode == 0
    assert run(copy, DEFAULTS).stdout == ""


def test_edits_by_hand_are_noticed_and_mended(tmp_path: Path) -> None:
    copy = copy_tree(tmp_path / "copy")
    edits = [
        ("dvc.yaml", "      - steps/language_models/train.py\n", ""),
        ("dvc.yaml", "      - steps/core\n", "      - steps/core\n      - steps/report/page.py\n"),
        ("docs/workflow.md", "\tneurons_dump --> neurons_correlate\n", "\tneurons_dump --> all\n"),
    ]
    right = {file: (copy / file).read_text(encoding="utf-8") for file, _, _ in edits}
    for file, was, becomes in edits:
        text = (copy / file).read_text(encoding="utf-8")
        assert was in text
        (copy / file).write_text(text.replace(was, becomes, 1), encoding="utf-8")
    said = "dvc.yaml, docs/workflow.md: out of date; run make fix\n"
    assert run(copy, "--check", *right).stderr == said
    assert run(copy, *right).returncode == 0
    assert {file: (copy / file).read_text(encoding="utf-8") for file in right} == right


def test_an_unknown_file_is_one_line() -> None:
    done = run(ROOT, "README.md")
    assert done.returncode == 2
    assert "README.md: expected config/default.yaml, dvc.yaml, docs/workflow.md" in done.stderr


@pytest.mark.parametrize(
    "value",
    [
        *(0, 9999, 10_000, 3_500_000, -0.17, 1e-7, 0.5, 1e30, True, None, "log", "no", "2024", "a: b # c"),
        *("\n", [], ["\n", 3], [[1, 2], [3, 4]], [0.5, 1.0], ["a,b", "'", '"']),
    ],
)
def test_a_value_is_read_back_as_it_was(value: object) -> None:
    line = f"x: {generated._yaml(value)} # a comment"
    assert yaml.safe_load(line) == {"x": value}


def test_every_setting_has_a_description() -> None:
    def bare(settings: Settings, above: str = "") -> list[str]:
        found = []
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            if not field.description:
                found.append(above + name)
            if isinstance(value, Settings):
                found += bare(value, f"{above}{name}.")
        return found

    assert bare(Config()) == []
