"""Running the workflow for real, at a scale of seconds."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steps.core.stores import write_json
from tests.warm.start import environment

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).with_name("tiny.yaml")
RULES = {
    name: body
    for path in sorted((ROOT / "rules").glob("*.smk"))
    for name, body in re.findall(r"^ *rule (\w+):\n((?: .*\n|\n)+)", path.read_text("utf-8"), re.MULTILINE)
}
"""The text of every rule."""

LIGHT = {
    name
    for path in (ROOT / "rules").glob("*.smk")
    for block in re.findall(r"^localrules:\n((?:    .*\n)+)", path.read_text("utf-8"), re.MULTILINE)
    for name in re.findall(r"\w+", block)
}
"""Rules that ask for no resources."""


def _single(body: str) -> bool:
    """Whether a rule makes the same files whatever is asked for, so that its name is a target."""
    output = re.search(r"    output:\n((?:        .*\n)+)", body)
    return output is None or "{" not in output[1]


EVERYTHING = (
    "all",
    # What is built only on request; the tiny workflow freezes no text.
    *(name for name, body in RULES.items() if _single(body) and name != "corpus_freeze"),
    *(f"results/neurons/tiny/{name}/seed-1.safetensors" for name in ("composition", "cosines")),
)
"""What the tiny workflow can make."""


def command(directory: Path, *arguments: str, config: Path | None = TINY) -> list[str]:
    """The command line of Snakemake in ``directory``."""
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(directory), "--quiet", "progress"),
        *(("--configfile", str(config)) if config else ()),
        *arguments,
    ]


def snakemake(
    directory: Path, *arguments: str, config: Path | None = TINY, expect: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in ``directory`` and check its exit code."""
    variables = environment() | {"REPRISE_WARM_TOO": "snakemake"}
    done = subprocess.run(
        command(directory, *arguments, config=config), capture_output=True, text=True, env=variables
    )
    assert done.returncode == expect, f"{done.stdout}\n{done.stderr}"
    return done


def write_texts(folder: Path, seed: int = 0, files: int = 24, words: int = 700) -> None:
    """Texts of a small made-up language: topics that come in runs, so that there is something to learn."""
    generator = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    lexicon = [
        ["".join(generator.choices(syllables, k=generator.randint(1, 3))) for _ in range(40)]
        for _ in range(4)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        topic = number % 4
        lines = []
        for _ in range(words // 10):
            sentence = [
                generator.choice(lexicon[topic if generator.random() < 0.8 else 0]) for _ in range(10)
            ]
            lines.append(" ".join(sentence).capitalize() + ".")
        (folder / f"text {number}.txt").write_text("\n".join(lines), encoding="utf-8")


def hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of everything kept under data/ and results/, the report page and what audits sign excepted."""
    return {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest()
        for top in ("data", "results")
        for path in sorted((directory / top).rglob("*"))
        if path.is_file() and not DIFFERS.match(name := path.relative_to(directory).as_posix())
    }


DIFFERS = re.compile(r"results/(report/|audit/[^/]+/runs/(?!.*/findings\.json$))")
"""Files that differ from run to run: the page names times, records of audits hold keys and times."""


class Workspace:
    """A folder in which the tiny workflow runs on one core, beside the tests that do not need it yet.

    One serves all processes that run tests (pytest-xdist): the first that needs it starts it. So no test
    changes it, each takes a :meth:`copy`.

    Args:
        folder: where it runs; made here, unless another process has made it.
        calls: a folder for the names of the functions that each job calls.
        said: a file for what Snakemake says.
    """

    def __init__(self, folder: Path, calls: Path, said: Path) -> None:
        self.folder, self.calls, self._said = folder, calls, said
        self._ended = said.with_suffix(".code")
        try:
            folder.mkdir()
        except FileExistsError:
            return
        write_texts(folder / "texts")
        calls.mkdir()
        variables = environment() | {"REPRISE_CALLS": str(calls)}
        line = command(folder, "--cores", "1", "--", *EVERYTHING)
        with said.open("wb") as file:
            process = subprocess.Popen(line, env=variables, stdout=file, stderr=file)
        threading.Thread(target=lambda: write_json(self._ended, process.wait())).start()

    def finished(self) -> Path:
        """The folder, once the workflow has ended."""
        while not self._ended.exists():
            time.sleep(0.1)
        assert json.loads(self._ended.read_text()) == 0, self._said.read_text()
        return self.folder

    def copy(self, folder: Path) -> Path:
        """A copy of the folder, as it was at the end: Snakemake finds nothing to do there."""
        logs = shutil.ignore_patterns("log")  # of Snakemake: others may look at the folder meanwhile
        shutil.copytree(self.finished(), folder, symlinks=True, ignore=logs)
        return folder


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The tiny workflow from nothing to the end, in a folder with an awkward name."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # where the folders of all workers are
    made = Workspace(shared / "undisturbed with spaces & 'quotes'", shared / "calls", shared / "said.txt")
    yield made
    made.finished()


@pytest.fixture(scope="session", autouse=True)
def _workspace_from_the_start(request: pytest.FixtureRequest) -> None:
    """Start the tiny workflow with the first test here, if one will want it: it takes minutes."""
    if any("workspace" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("workspace")
