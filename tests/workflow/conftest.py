"""Running the workflow for real, at a scale of seconds."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    return output is not None and "{" not in output[1]


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
    """SHA-256 of everything kept under data/ and results/, the report page excepted."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for top in ("data", "results")
        for path in sorted((directory / top).rglob("*"))
        if path.is_file() and "results/report/" not in path.as_posix()
    }


class Workspace:
    """A folder in which the tiny workflow runs on one core, beside the tests that do not need it yet.

    Args:
        folder: where it runs.
        calls: a folder for the names of the functions that each job calls.
    """

    def __init__(self, folder: Path, calls: Path) -> None:
        self.folder, self.calls = folder, calls
        write_texts(folder / "texts")
        self._process = subprocess.Popen(
            command(folder, "--cores", "1", "--", *EVERYTHING),
            env=environment() | {"REPRISE_CALLS": str(calls)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finished(self) -> Path:
        """The folder, once the workflow has ended."""
        output, _ = self._process.communicate() if self._process.returncode is None else ("", "")
        assert self._process.returncode == 0, output
        return self.folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The tiny workflow from nothing to the end, in a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("undisturbed with spaces & 'quotes'")
    workspace = Workspace(folder, tmp_path_factory.mktemp("calls"))
    yield workspace
    workspace.finished()
