"""The environment in which tests start other processes."""

from __future__ import annotations

import atexit
import functools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

WARM = Path(__file__).resolve().parent
ROOT = WARM.parents[1]


def environment(warm: bool = True) -> dict[str, str]:
    """Ours, with the project on the path and off the network, without what a test runner leaves behind.

    Steps start in a warm Python, unless what is tested is the process itself.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    kept |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return kept | {"PYTHONPATH": f"{WARM}:{ROOT}", "REPRISE_WARM": warm_server()} if warm else kept


@functools.cache
def warm_server() -> str:
    """The address of the server in which jobs start: one for each process that runs tests, while it lives."""
    folder = tempfile.TemporaryDirectory(prefix="warm")
    address = f"{folder.name}/socket"
    server = subprocess.Popen(
        [sys.executable, str(WARM / "server.py"), address],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return address


def command(step: str, *arguments: str | Path) -> list[str]:
    """The command line of a step (``fractal.train``)."""
    return [sys.executable, "-m", f"steps.{step}", *map(str, arguments)]


def run(step: str, *arguments: str | Path, expect: int = 0) -> str:
    """Run a step as a rule does, check its exit code and return what it says on standard error."""
    done = subprocess.run(command(step, *arguments), capture_output=True, text=True, env=environment())
    assert done.returncode == expect, done.stderr
    return done.stderr


def kill_after(calls: int, function: str, line: list[str], text: str = "") -> None:
    """Start a step that kills itself once a function of it was called so often; see ``dying.py``.

    Nothing depends on how fast the machine is.

    Args:
        calls: how many calls return; the one after them kills.
        function: its full name (``os.replace``).
        line: the command line of the step.
        text: the last argument of the calls that count; by default any.
    """
    python, option, step, *arguments = line
    planted = [python, option, "tests.warm.dying", function, text, str(calls), step, *arguments]
    variables = environment() | {"REPRISE_WARM_TOO": "tests.warm.dying"}
    done = subprocess.run(planted, capture_output=True, text=True, env=variables)
    assert done.returncode == 128 + signal.SIGKILL, done.stderr


def kill_at_the_next_state(line: list[str], state: Path) -> None:
    """Start a training, and kill it when it has written its state, or written it anew, in the next step."""
    kill_after(1, "os.replace", line, str(state))
