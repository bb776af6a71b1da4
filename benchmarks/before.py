"""Is the workflow slower than at an earlier commit? The chapters that both have, from nothing to the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, in_turn, ratio

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "c81e89e"
"""The commit that is compared with: one chapter of a paper, before the house was rebuilt for five."""

TARGETS = ("corpus", "language_models", "neurons")
"""The chapters that were there."""

ROUNDS = 2
CORES = 2


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``workflow.demo_over_before``: wall time of ``TARGETS`` on two cores, here over ``BEFORE``.

    Each run starts in an empty folder. Both sides use this environment; ``quick`` only plans them.
    """
    earlier = folder / "before"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(earlier), BEFORE], check=True)
    try:
        sides = {"here": ROOT, "before": earlier}
        work = {name: lambda source=source: make(source, folder, quick) for name, source in sides.items()}
        seconds = in_turn(work, 1 if quick else ROUNDS, uncounted=0)
    finally:
        subprocess.run([*git, "remove", "--force", str(earlier)], check=True)
    yield ratio("workflow.demo_over_before", seconds, "at most 1.05")


def make(source: Path, folder: Path, plan_only: bool) -> None:
    """Make ``TARGETS`` of the checkout ``source`` in a new folder below ``folder``."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    directory = tempfile.mkdtemp(dir=folder)
    subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(source / "Snakefile")),
            *("--directory", directory, "--cores", str(CORES), "--quiet", "all"),
            *(["--dry-run"] if plan_only else []),
            *("--", *TARGETS),
        ],
        cwd=source,
        env=variables,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    shutil.rmtree(directory)
