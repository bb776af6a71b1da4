"""The profiles: keys that Snakemake knows, the same shared keys in both, and a plugin that nobody needs."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEFAULT, SLURM = ROOT / "profiles/default/config.yaml", ROOT / "profiles/slurm/config.yaml"
PLUGIN = "snakemake_executor_plugin_slurm"

ONLY_HERE = {"cores", "resources"}
"""Keys of the default profile that are about this machine alone."""

SNAKEFILE = """
rule all:
    input: "small.txt", "heavy.txt"
rule small:
    output: "small.txt"
    params: memory=lambda wildcards, resources: f"{resources.mem_mb} MB {resources.runtime} min"
    shell: "echo {params.memory} > {output}"
rule heavy:
    output: "heavy.txt"
    threads: 64
    resources: mem_mb=lambda wildcards, attempt: 3000 * attempt
    shell: "echo {threads} threads {resources.mem_mb} MB > {output}; test {resources.mem_mb} -gt 8000"
"""


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run snakemake on the Snakefile in ``folder``, with no profile but those that are named."""
    command = [sys.executable, "-m", "snakemake", *options]
    environment = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("profile", [DEFAULT, SLURM], ids=["default", "slurm"])
def test_snakemake_knows_every_key(profile: Path) -> None:
    from snakemake.cli import get_argument_parser

    known = {option for action in get_argument_parser()._actions for option in action.option_strings}
    from_plugin = {"slurm-" + key.removeprefix("slurm-") for key in read(profile) if key.startswith("slurm-")}
    if importlib.util.find_spec(PLUGIN) is not None:
        from_plugin = set()
    assert {f"--{key}" for key in read(profile).keys() - from_plugin} <= known


def test_slurm_repeats_what_it_replaces() -> None:
    default, slurm = read(DEFAULT), read(SLURM)
    shared = default.keys() - ONLY_HERE
    assert shared
    assert {key: slurm.get(key) for key in shared} == {key: default[key] for key in shared}
    assert not ONLY_HERE & slurm.keys()


def test_slurm_cannot_wait_for_ever() -> None:
    slurm = read(SLURM)
    assert slurm["executor"] == "slurm"
    assert slurm["slurm-status-command"] == "squeue"
    # SLURM's own MinJobAge is 300 s; the plugin drops squeue unless it is three times these seconds
    assert 3 * slurm["slurm-init-seconds-before-status-checks"] <= 300
    # two processes of Snakemake run inside each job and need about 180 MB each
    assert int(str(slurm["default-resources"]["mem_mb"]).split()[0]) >= 500


ON_A_GPU = """
rule all:
    input: "a.txt", "b.txt"
rule work:
    output: "{name}.txt"
    resources: gpu=1
    shell: "COMMAND"
"""

ALONE = "mkdir busy && sleep 1 && rmdir busy && touch {output}"
"""Fails where another job is at work."""

MEET = "touch {wildcards.name}.here; until test -e a.here -a -e b.here; do sleep 0.1; done; touch {output}"
"""Ends only where the other job is at work."""


@pytest.mark.parametrize(("options", "work"), [((), ALONE), (("--resources", "gpu=2"), MEET)])
def test_one_job_at_a_time_has_the_gpu_unless_more_are_named(
    tmp_path: Path, options: tuple[str, ...], work: str
) -> None:
    (tmp_path / "Snakefile").write_text(ON_A_GPU.replace("COMMAND", work))
    done = run(tmp_path, "--workflow-profile", str(DEFAULT.parent), "--cores", "4", *options)
    assert done.returncode == 0, done.stderr


def test_every_attempt_gets_more_memory_and_all_its_threads(tmp_path: Path) -> None:
    """The profile without its plugin: run by the local executor, in place of SLURM."""
    slurm = {key: value for key, value in read(SLURM).items() if not key.startswith("slurm-")}
    slurm |= {"executor": "local", "jobs": 64}
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text(yaml.safe_dump(slurm))
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    done = run(tmp_path, "--workflow-profile", "profile")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "small.txt").read_text() == "1000 MB 30 min\n"
    assert (tmp_path / "heavy.txt").read_text() == "64 threads 9000 MB\n"
    assert done.stderr.count("Error in rule heavy") == 2


KILLED = """
rule all:
    output: "out.txt"
    log: "logs/step.log", "logs/cluster.log"
    shell: "echo the reason > {log[1]}; python step.py --out {output} --log {log[0]}"
"""

KILLED_STEP = """
import os, signal
from steps.core.runner import Output, run

def main(out: Output) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

run(main)
"""


@pytest.mark.parametrize("line", [True, False], ids=["as it is", "without a first line"])
def test_the_logs_of_a_job_that_was_killed_at_once_are_shown(tmp_path: Path, line: bool) -> None:
    """Snakemake shows the logs up to the first that is empty; that of the cluster comes after the step's."""
    (tmp_path / "Snakefile").write_text(KILLED)
    emptied = "" if line else "import logging\nlogging.FileHandler.emit = lambda self, record: None\n"
    (tmp_path / "step.py").write_text(emptied + KILLED_STEP)
    (tmp_path / "steps").symlink_to(ROOT / "steps")
    done = run(tmp_path, "--workflow-profile", str(DEFAULT.parent), "--cores", "1")
    assert done.returncode == 1
    assert (tmp_path / "logs/cluster.log").read_text() == "the reason\n"
    assert ("\nthe reason\n" in done.stderr) is line
    assert ("__main__ started on " in done.stderr) is line


def test_rules_leave_retries_to_the_profile() -> None:
    """A rule's own retries would run again inside the same allocation, with the same memory."""
    for rules in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]:
        assert "retries:" not in rules.read_text(encoding="utf-8"), rules


def test_nothing_needs_the_plugin(tmp_path: Path) -> None:
    runs_snakemake = ROOT / "steps/workflow/versions.py"
    for path in set((ROOT / "steps").rglob("*.py")) - {runs_snakemake}:
        names = [
            name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        ]
        assert not [name for name in names if name.startswith("snakemake")], path
    assert not [key for key in read(DEFAULT) if key.startswith("slurm-") or key == "executor"]
    (tmp_path / "Snakefile").write_text('rule all:\n    output: "x"\n    shell: "touch {output}"\n')
    assert run(tmp_path, "--workflow-profile", str(DEFAULT.parent)).returncode == 0


@pytest.mark.skipif(importlib.util.find_spec(PLUGIN) is not None, reason="the slurm plugin is installed")
def test_without_the_plugin_the_profile_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text("rule all:\n    input: []\n")
    done = run(tmp_path, "--workflow-profile", str(SLURM.parent), "--dry-run")
    assert done.returncode != 0
    assert "invalid choice: 'slurm'" in done.stderr.splitlines()[-1]
