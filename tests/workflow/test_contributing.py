"""What CONTRIBUTING.md says a new step takes is enough: a toy step that touches these files and no other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.core.runner import Output
from steps.report import page as report_page
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
    assert checked.stderr == f"{outdated}: out of date; run make fix\n"
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


CHAPTER_STEP = '''"""A number and its square.

Reads nothing. Writes ``report.json`` and ``metrics.json``.
"""

from __future__ import annotations

import json

from pydantic import Field

from steps.core.provenance import card, provenance
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import write_json


class Settings(BaseSettings):
    """Which number."""

    number: int = Field(3, ge=0, description="the number that is squared")


def main(study: str, section: str, settings: Settings, metrics: Output, report: Output) -> None:
    """Write the square."""
    square = settings.number**2
    write_json(metrics, {"square": square})
    shown = card("Square", square, "", "of the number", step="toys.report", study=study, inputs=[])
    made = provenance(["toys.report"], json.loads(section), [])
    write_json(
        report,
        {
            **{"chapter": "toys", "study": study, "title": "Toys", "summary": f"The square is {square}."},
            **{"cards": [shown], "provenance": made},
        },
    )


if __name__ == "__main__":
    run(main)
'''

CHAPTER_TEST = '''"""Squares."""

import json
from pathlib import Path

from steps.core.runner import Output
from steps.toys import report


def test_square(tmp_path: Path) -> None:
    metrics, page = (Output(tmp_path / name) for name in ("metrics.json", "report.json"))
    report.main("mine", "{}", report.Settings(number=5), metrics, page)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"square": 25}
'''

SECTION = '''"""Toys, as rules see them: their section."""

from __future__ import annotations

import pydantic

from steps.toys import report as toys_report
from steps.workflow.section import Name, StudySection


class Toys(StudySection):
    """Toys."""

    study: Name = pydantic.Field("default", description="name of the study, its folder in results/toys")
    report: toys_report.Settings = pydantic.Field(toys_report.Settings(), description="the results")

    def pathvars(self) -> dict[str, str]:
        return {"toys": f"results/toys/{self.study}", "toys_study": self.study}

    def report_file(self) -> str:
        return f"results/toys/{self.study}/report.json"
'''

CHAPTER_RULES = '''"""Toys.

Inputs: none.
Outputs: results/toys/STUDY.
Steps: report.
"""


localrules:
    toys,
    toys_report,


rule toys:
    input:
        "<toys>/report.json",
        "<toys>/metrics.json",


rule toys_report:
    """Square a number."""
    output:
        metrics="<toys>/metrics.json",
        report="<toys>/report.json",
    log:
        "logs/toys/report/<toys_study>.log",
    params:
        **step("toys.report"),
        study=settings.toys.study,
        section=configuration.tracked(settings.toys),
    shell:
        "python -m steps.toys.report --study {params.study:q} --section {params.section:q}"
        " --settings {params.settings:q} --metrics {output.metrics:q} --report {output.report:q}"
        " --log {log:q}"
'''

STAGE = """  toys:
    cmd: ${python} -m steps.workflow.versions stage toys
    deps:
      - Snakefile
      - constraints.txt
      - rules/toys.smk
      - steps/workflow
      - steps/core
    params:
      - config/default.yaml: [seed, device, threads, toys]
      - config/publish.yaml:
    outs:
      - results/toys/default: {persist: true}

"""


def in_the_table(row: str) -> Callable[[str], str]:
    """Put a row at the end of a page's first table."""
    return lambda text: re.sub(r"(?s)(\n\|[^\n]*)(\n\n)", rf"\1\n{row}\2", text, count=1)


CHAPTER_BY_HAND: dict[str, dict[str, Callable[[str], str]]] = {
    "steps/CHAPTER/": {
        "steps/toys/__init__.py": lambda _: '"""Toys: a chapter of one step."""\n',
        "steps/toys/report.py": lambda _: CHAPTER_STEP,
    },
    "steps/workflow/CHAPTER.py": {"steps/workflow/toys.py": lambda _: SECTION},
    "steps/workflow/configuration.py": {
        "steps/workflow/configuration.py": replaced(
            (
                "from steps.workflow.section import Section\n",
                "from steps.workflow.section import Section\nfrom steps.workflow.toys import Toys\n",
            ),
            (
                "    report: Report = pydantic",
                '    toys: Toys = pydantic.Field(Toys(), description="toys")\n    report: Report = pydantic',
            ),
        )
    },
    "rules/CHAPTER.smk": {"rules/toys.smk": lambda _: CHAPTER_RULES},
    "tests/CHAPTER/": {"tests/toys/test_report.py": lambda _: CHAPTER_TEST},
    "docs/CHAPTER.md": {"docs/toys.md": lambda _: "# Toys\n\nA number and its square.\n"},
    "config/": {
        "config/ci.yaml": lambda text: f"{text}toys:\n  study: ci\n",
        "config/publish.yaml": lambda text: f"{text}toys:\n  study: default\n",
    },
    "tests/workflow/tiny.yaml": {
        "tests/workflow/tiny.yaml": lambda text: f"{text}toys: {{study: tiny, report: {{number: 2}}}}\n"
    },
    "dvc.yaml": {
        "dvc.yaml": replaced(
            ("  report:\n    cmd", f"{STAGE}  report:\n    cmd"),
            (
                "    params:\n      - config/default.yaml:\n",  # of the report, which needs all chapters
                "      - results/toys/default\n    params:\n      - config/default.yaml:\n",
            ),
        ),
    },
    "README.md": {"README.md": in_the_table("| [toys](docs/toys.md) | none | whole |")},
    "data/README.md": {"data/README.md": lambda text: text},  # it makes nothing there
    "CHANGELOG.md": {
        "CHANGELOG.md": lambda text: text.replace("## Unreleased\n\n", "## Unreleased\n\n- **Toys**: new.\n")
    },
}
"""The toy chapter: by file or folder of the list, what the texts of its files become."""


@pytest.fixture(scope="module")
def with_chapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the toy chapter, fixed."""
    folder = copy_tree(tmp_path_factory.mktemp("contributing") / "copy")
    # not one of the five papers, whose places are there
    layers = {"pyproject.toml": replaced(('"interp | ', '"toys | interp | '))}
    for changes in (*CHAPTER_BY_HAND.values(), layers):
        for path, change in changes.items():
            file = folder / path
            file.parent.mkdir(exist_ok=True)
            before = file.read_text(encoding="utf-8") if file.exists() else ""
            file.write_text(change(before), encoding="utf-8")
    fixed = run(folder)
    assert fixed.returncode == 0, fixed.stderr
    return folder


def test_a_chapter_touches_at_most_twelve_files_or_folders() -> None:
    assert listed("Adding a chapter") == list(CHAPTER_BY_HAND)
    assert len(CHAPTER_BY_HAND) <= 12


def test_the_layers_and_tests_know_the_chapter(with_chapter: Path) -> None:
    chosen = (
        "toys or test_square or steps_lie or default_file or stage_records or stage_depends or metrics_plots"
    )
    files = ["tests/test_layers.py", "tests/toys/test_report.py"]
    files += ["tests/workflow/test_configuration.py", "tests/workflow/test_dvc.py"]
    for command in (
        ["-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        ["-m", "snakefmt", "--check", "Snakefile", "rules"],
        ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *files, "-k", chosen],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=with_chapter,
            env=environment(warm=False) | {"PYTHONPATH": str(with_chapter)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr


def test_snakemake_runs_the_chapter_and_the_page_shows_it(with_chapter: Path, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    command = ["--snakefile", str(with_chapter / "Snakefile"), "--directory", str(tmp_path), "--cores", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *command, "--configfile", str(TINY), "--", "toys"],
        env=environment(warm=False) | {"PYTHONPATH": str(with_chapter)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results/toys/default/metrics.json").read_text()) == {"square": 9}
    report = tmp_path / "results/toys/default/report.json"
    page = Output(tmp_path / "page.html")
    report_page.main([report], report_page.Settings(), page)
    assert "The square is 9." in (tmp_path / "page.html").read_text(encoding="utf-8")
