"""Killed in every rule, and on other cores: the same results to the last byte."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from tests.warm.start import environment
from tests.workflow.conftest import (
    EVERYTHING,
    ROOT,
    TINY,
    Workspace,
    command,
    hashes,
    snakemake,
    write_texts,
)
from tests.workflow.test_listed_models import save_models

ELSEWHERE = {
    "corpus.freeze": "test_killed_while_freezing",
    "language_models.import": "test_killed_while_importing",
}
"""Steps that the tiny workflow has no job for, and where they are killed."""


def steps_of_rules() -> set[str]:
    rules = set()
    for path in (ROOT / "rules").glob("*.smk"):
        rules |= set(re.findall(r"python -m steps\.(\w+\.\w+)", path.read_text(encoding="utf-8")))
    return rules


def test_killed_while_freezing(tmp_path: Path) -> None:
    target = ("--", "data/raw/embedded/stdlib.parquet")
    snakemake(tmp_path / "a", "--cores", "1", *target, config=None)
    assert kill_at_first({"corpus.freeze"}, tmp_path / "b", 0.4, *target, config=None)
    snakemake(tmp_path / "b", "--cores", "1", *target, config=None)
    assert hashes(tmp_path / "b") == hashes(tmp_path / "a")


def test_killed_while_importing(tmp_path: Path) -> None:
    config = ROOT / "config/own_models.yaml"
    for folder in ("a", "b"):
        save_models(tmp_path / folder / "models", dict.fromkeys(("first", "second"), (2, 64)), context=64)
        write_texts(tmp_path / folder / "texts")
    target = ("--", "data/models/own_models/first/ledger.json")
    snakemake(tmp_path / "a", "--cores", "1", *target, config=config)
    for after in (0.0, 0.1, 0.2, 0.3):
        assert kill_at_first({"language_models.import"}, tmp_path / "b", after, *target, config=config)
    snakemake(tmp_path / "b", "--cores", "1", *target, config=config)
    assert hashes(tmp_path / "b") == hashes(tmp_path / "a")


def at_work(group: int) -> dict[int, str]:
    """The processes of the group that are at work on a step."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[1:2] == [b"-m"] and os.getpgid(int(entry.name)) == group:
                    found[int(entry.name)] = words[2].decode().removeprefix("steps.")
            except (OSError, IndexError):
                continue  # it ended meanwhile
    return found


def start(directory: Path, *arguments: str, config: Path | None = TINY) -> subprocess.Popen[bytes]:
    directory.mkdir(exist_ok=True)
    with (directory / "said").open("wb") as said:
        return subprocess.Popen(
            command(
                directory, "--cores", "2", "--nolock", *arguments, config=config
            ),  # a kill leaves it locked
            env=environment(),
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def kill_at_first(
    steps: set[str], directory: Path, after: float, *arguments: str, config: Path | None = TINY
) -> set[str]:
    """Start the workflow, and kill all of it up to ``after`` seconds into the first job of ``steps``."""
    process = start(directory, *arguments, config=config)
    hit: set[str] = set()
    while process.poll() is None and not hit:
        hit = set(at_work(process.pid).values()) & steps
        time.sleep(0.02)
    until = time.monotonic() + after
    while time.monotonic() < until and set(at_work(process.pid).values()) >= hit:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return hit


def kill_jobs(steps: set[str], directory: Path, latest: float, *arguments: str) -> set[str]:
    """Run the workflow, which starts failed jobs again, and kill a job of each of the steps.

    Each a little later than the one before, up to ``latest`` seconds into it. Returns the steps of which one
    was killed: what ends earlier is not.
    """
    process = start(directory, "--retries", "1", *arguments)
    due: dict[int, float] = {}
    killed: dict[str, int] = {}
    while process.poll() is None:
        jobs = at_work(process.pid)
        for job, step in jobs.items():
            if job not in due and step in steps - killed.keys() - {jobs.get(other) for other in due}:
                due[job] = time.monotonic() + latest * (len(due) % 6) / 5
            if due.get(job, math.inf) <= time.monotonic() and step not in killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job, signal.SIGKILL)
                    killed[step] = job
        time.sleep(0.01)
    assert process.returncode == 0, (directory / "said").read_text()
    return set(killed)


def test_killed_in_every_rule_and_on_two_cores(workspace: Workspace, tmp_path: Path) -> None:
    left = steps_of_rules() - ELSEWHERE.keys()
    expected = hashes(workspace.finished())
    assert len(expected) > 50
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        write_texts(folder / "texts")
    for step in ("language_models.train", "neurons.dump", "neurons.correlate"):
        left -= kill_at_first({step}, first, 0.5, "--", *EVERYTHING)
    left -= kill_jobs(left, first, 0.5, "--", *EVERYTHING)
    assert hashes(first) == expected
    left -= kill_jobs(left, second, 0, "--", *EVERYTHING)  # what was made before a kill, or was too quick
    assert hashes(second) == expected
    assert not left


def test_nothing_is_left_to_do(workspace: Workspace, tmp_path: Path) -> None:
    folder = workspace.copy(tmp_path / "copy")
    before = hashes(folder)
    assert "Nothing to be done" in snakemake(folder, "--cores", "1").stderr
    assert hashes(folder) == before


def test_settings_without_influence_rerun_nothing(workspace: Workspace) -> None:
    workspace.finished()
    changed = (
        "corpus={documents: {threads: 1}}",
        "language_models={tokenizer: {threads: 1}, rows: {threads: 1}, train: {save_seconds: 7}}",
    )
    done = snakemake(workspace.folder, "--dry-run", "--config", *changed)
    assert "Nothing to be done" in done.stdout + done.stderr
    done = snakemake(workspace.folder, "--dry-run", "--config", "language_models={train: {clip: 0.5}}")
    assert "language_models_train" in done.stdout + done.stderr


def test_the_remedy_for_a_damaged_shard_is_one(workspace: Workspace, tmp_path: Path) -> None:
    folder = workspace.copy(tmp_path / "copy")
    before = hashes(folder)
    counts = "results/language_models/tiny/ngrams.json"
    shard = folder / "data/models/tiny/rows/tiny/train/c/0/0"
    shard.write_bytes(bytes(byte ^ 1 for byte in shard.read_bytes()))
    (folder / counts).unlink()
    said = snakemake(folder, "--cores", "1", "--", counts, expect=1)
    [message] = {line for line in (said.stdout + said.stderr).splitlines() if "rebuild it with" in line}
    assert "train/c/0/0: its contents differ from the hash in ledger.json" in message
    [remedy] = re.findall(r"snakemake (--force \S+) \(and the --configfile", message)
    snakemake(folder, "--cores", "1", *remedy.split())
    snakemake(folder, "--cores", "1", "--", counts)
    assert hashes(folder) == before


def test_a_result_that_was_deleted_is_made_again(workspace: Workspace, tmp_path: Path) -> None:
    folder = workspace.copy(tmp_path / "copy")
    for name in ("excess.parquet", "clusters.parquet", "examples.parquet", "interventions.parquet"):
        path = folder / "results/neurons/tiny" / name
        path.rename(tmp_path / name)
        try:
            done = snakemake(folder, "--dry-run")
        finally:
            (tmp_path / name).rename(path)
        assert "Nothing to be done" not in done.stdout + done.stderr, name
    assert "Nothing to be done" in snakemake(folder, "--dry-run").stdout
