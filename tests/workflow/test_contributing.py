"""What CONTRIBUTING.md says a new step takes is enough: a toy step that touches these files and no other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.warm.start import environment
from tests.workflow.conftest import ROOT, TINY, write_texts
from tests.workflow.test_generated import copy_tree, run

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def listed(heading: str) -> list[str]:
    """The files that a section of CONTRIBUTING.md numbers, as it writes them."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    items = re.findall(r"^(\d+)\. `([^`]+)`", section, re.MULTILINE)
    assert [int(number) for number, _ in items] == list(range(1, len(items) + 1))
    return [path for _, path in items]


STEP = '''"""The lengths of the documents.

Reads ``documents.parquet``. Writes JSON: the number of characters of all documents together, in ``unit``s.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import write_json


class Settings(BaseSettings):
    """How lengths are counted."""

    unit: int = Field(1, ge=1, description="characters that count as one")


def main(documents: Path, settings: Settings, out: Output) -> None:
    """Count the characters."""
    import pyarrow.parquet as pq

    texts = pq.read_table(documents, columns=["text"]).column("text").to_pylist()
    write_json(out, {"length": sum(map(len, texts)) // settings.unit})


if __name__ == "__main__":
    run(main)
'''

TEST = '''"""The lengths of documents."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from steps.core.runner import Output
from steps.corpus import lengths


def test_lengths(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["abc", "de"]}), tmp_path / "documents.parquet")
    settings = lengths.Settings(unit=2)
    lengths.main(tmp_path / "documents.parquet", settings, Output(tmp_path / "lengths.json"))
    assert json.loads((tmp_path / "lengths.json").read_text()) == {"length": 2}
'''

RULE = '''

rule corpus_lengths:
    """Count the characters of the documents."""
    input:
        "<corpus>/documents.parquet",
    output:
        "<corpus>/lengths.json",
    log:
        "logs/corpus/lengths/<corpus_study>.log",
    params:
        **step("corpus.lengths"),
    shell:
        "python -m steps.corpus.lengths --documents {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"
'''


def replaced(*pairs: tuple[str, str]) -> Callable[[str], str]:
    def change(text: str) -> str:
        for was, becomes in pairs:
            assert text.count(was) == 1, was
            text = text.replace(was, becomes)
        return text

    return change


BY_HAND: dict[str, Callable[[str], str]] = {
    "steps/CHAPTER/STEP.py": lambda _: STEP,
    "tests/CHAPTER/test_STEP.py": lambda _: TEST,
    "steps/workflow/CHAPTER.py": replaced(
        (
            "from steps.corpus import documents as corpus_documents\n",
            "from steps.corpus import documents as corpus_documents\n"
            "from steps.corpus import lengths as corpus_lengths\n",
        ),
        (
            "    def pathvars(self)",
            "    lengths: corpus_lengths.Settings = pydantic.Field(\n"
            '        corpus_lengths.Settings(), description="lengths of the documents"\n'
            "    )\n\n    def pathvars(self)",
        ),
    ),
    "rules/CHAPTER.smk": lambda text: (
        replaced(
            ("    corpus_freeze,\n", "    corpus_freeze,\n    corpus_lengths,\n"),
            ('/documents.parquet",\n\n\n', '/documents.parquet",\n        "<corpus>/lengths.json",\n\n\n'),
        )(text)
        + RULE
    ),
    "docs/CHAPTER.md": lambda text: f"{text}\n`lengths.json`: the number of characters.\n",
    "CHANGELOG.md": lambda text: text.replace(
        "## Unreleased\n\n", "## Unreleased\n\n- **Corpus**: lengths.\n"
    ),
}
"""The toy step: by file of the list, what its text becomes."""


def of(path: str, chapter: str = "corpus", step: str = "lengths") -> str:
    return path.replace("CHAPTER.", f"{chapter}.").replace("CHAPTER/", f"{chapter}/").replace("STEP", step)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the toy step, fixed."""
    folder = copy_tree(tmp_path_factory.mktemp("contributing") / "copy")
    for path, change in BY_HAND.items():
        file = folder / of(path)
        file.write_text(change(file.read_text(encoding="utf-8") if file.exists() else ""), encoding="utf-8")
    checked = run(folder, "--check")
    outdated = "config/default.yaml, dvc.yaml, docs/workflow.md"
    assert checked.stderr == f"{outdated}: not in step with the code; run make fix\n"
    fixed = run(folder)
    assert (fixed.returncode, fixed.stdout) == (0, f"written: {outdated}\n"), fixed.stderr
    return folder


def test_a_step_touches_at_most_six_files_by_hand() -> None:
    assert listed("Adding a step") == list(BY_HAND)
    assert len(BY_HAND) == 6


def test_what_is_generated_knows_the_step(copy: Path) -> None:
    assert run(copy, "--check").returncode == 0
    default = (copy / "config/default.yaml").read_text(encoding="utf-8")
    assert "  lengths: # lengths of the documents\n    unit: 1 # characters that count as one\n" in default
    assert "      - steps/corpus/lengths.py\n" in (copy / "dvc.yaml").read_text(encoding="utf-8")
    drawn = (copy / "docs/workflow.md").read_text(encoding="utf-8")
    assert "\tcorpus_documents --> corpus_lengths\n" in drawn
    assert "\tcorpus_lengths --> all\n" in drawn


def test_style_types_and_layers_are_right(copy: Path) -> None:
    for command in (
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "steps", "rules", "tests/corpus"],
        ["-m", "mypy", "--cache-dir", str(copy / "cache"), "-m", "steps.corpus.lengths"],
        ["-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        ["-m", "snakefmt", "--check", "Snakefile", "rules"],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=copy, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_tests_that_look_at_every_step_pass(copy: Path) -> None:
    tests = {
        "tests/test_layers.py": "steps_lie or steps_that_draw",
        "tests/corpus/test_lengths.py": "",
        "tests/workflow/test_configuration.py": "default_file or shipped_configuration",
        "tests/workflow/test_generated.py": "has_a_description",
        "tests/workflow/test_dvc.py": "stage_records or stage_depends",
    }
    chosen = " or ".join(["test_lengths", *(words for words in tests.values() if words)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests, "-k", chosen],
        cwd=copy,
        env=environment(warm=False) | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 20


def test_snakemake_runs_the_step(copy: Path, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    command = ["--snakefile", str(copy / "Snakefile"), "--directory", str(tmp_path), "--cores", "1"]
    command += ["--configfile", str(TINY), "--config", "corpus={lengths: {unit: 10}}"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *command, "--", "corpus"],
        env=environment(warm=False) | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "data/corpora/tiny/lengths.json").read_text())
    written = sum(len(path.read_text()) for path in (tmp_path / "texts").iterdir())
    assert made["length"] == pytest.approx(written / 10, rel=0.01)
    assert (tmp_path / "logs/corpus/lengths/tiny.json").exists()


def test_a_chapter_touches_at_most_twelve_files_or_folders() -> None:
    """Those of a chapter that is here are there."""
    paths = listed("Adding a chapter")
    assert len(paths) <= 12
    assert [path for path in paths if not (ROOT / of(path, "language_models")).exists()] == []
