"""Killed in every rule, and on other cores: the same results to the last byte."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.workflow.conftest import command, environment, hashes, snakemake, write_texts

STEPS = [
    *("corpus.documents", "language_models.tokenizer", "language_models.rows", "language_models.ngrams"),
    *("language_models.train", "neurons.dump", "neurons.moments", "neurons.products", "neurons.correlate"),
    *("neurons.baseline", "neurons.clusters", "neurons.table", "neurons.figure", "neurons.report"),
    *("language_models.report", "report.page"),
]


def runs(step: str, group: int) -> bool:
    """Whether a process of the group is at work on ``step``."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if f"steps.{step}".encode() in arguments and os.getpgid(int(entry.name)) == group:
                    return True
            except OSError:
                continue  # it ended meanwhile
    return False


def kill_during(step: str, directory: Path, after: float) -> bool:
    """Start the workflow, and kill all of it ``after`` seconds into the first job of ``step``."""
    process = subprocess.Popen(
        command(directory, "--cores", "2"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not runs(step, process.pid):
        time.sleep(0.02)
    hit = process.poll() is None
    if hit:
        time.sleep(after)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    snakemake(directory, "--unlock")
    return hit


def test_killed_in_every_rule_and_on_two_cores(undisturbed: Path, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    for number, step in enumerate(STEPS):
        # Later each time, so that jobs are hit while they start, work and write.
        assert kill_during(step, tmp_path, after=0.3 * (number % 5)), f"{step} never ran"
    snakemake(tmp_path, "--cores", "2")
    expected = hashes(undisturbed)
    assert len(expected) > 50
    assert hashes(tmp_path) == expected


def test_nothing_is_left_to_do(undisturbed: Path) -> None:
    before = hashes(undisturbed)
    assert "Nothing to be done" in snakemake(undisturbed, "--cores", "1").stderr
    assert hashes(undisturbed) == before
