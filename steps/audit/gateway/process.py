"""The processes of an audit: the gateway and the auditor, children of the step that supervises them.

A child inherits its standard streams and no other descriptor, is told what to do in one line on its standard
input, and ends when that ends: with its parent, even where the parent is killed.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO

import pydantic

from steps.audit.gateway import server
from steps.audit.gateway.client import CLOSE
from steps.core.errors import UserError

SECONDS_TO_END = 60.0
"""That a child is given when it is told to end: on a busy machine a second's work takes long."""

SECONDS_WHEN_STOPPED = 4.0
"""The same where all of us were told to: nobody waits for longer."""

LAST_LINES = 3
"""Of a child's log, in the message about its end."""


class Child:
    """A Python module that runs in a process of its own."""

    def __init__(self, module: ModuleType, configuration: pydantic.BaseModel, log: Path) -> None:
        """Start a module that has a ``main``.

        Args:
            module: of ``steps``.
            configuration: one line of JSON on its standard input.
            log: what it says on standard error is added to this file.
        """
        self.name = module.__name__.rpartition(".")[2]
        self._log = log
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module.__name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                close_fds=True,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; whoever waits for it will see
            self._process.stdin.write(configuration.model_dump_json() + "\n")
            self._process.stdin.flush()

    @property
    def process(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def said(self) -> IO[str]:
        """Its standard output."""
        assert self._process.stdout is not None
        return self._process.stdout

    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The end of its log, in one line."""
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return "; ".join(lines[-LAST_LINES:]) or "it said nothing"

    def end(self, seconds: float = SECONDS_TO_END) -> int:
        """Let it finish the call in progress and end, or kill it after ``seconds``; returns its exit code."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(CLOSE)
            self._process.stdin.flush()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()
        return self._process.returncode

    def stop(self) -> None:
        """Send it SIGKILL."""
        self._process.kill()

    def kill(self) -> None:
        """End it at once, and wait until it is gone."""
        self.stop()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def started_gateway(configuration: server.Config, log: Path, seconds: float) -> Child:
    """A gateway that can be called.

    Args:
        configuration: what it serves, where.
        log: for what it says.
        seconds: that it is given.

    Raises:
        UserError: it ended, or was not ready in time; with the end of its log.
    """
    child = Child(server, configuration, log)
    timer = threading.Timer(seconds, child.stop)
    start = time.monotonic()
    timer.start()
    try:
        ready = child.said.readline() == "ready\n"
    except BaseException:
        child.kill()
        raise
    finally:
        timer.cancel()
    if not ready:
        late = time.monotonic() - start >= seconds
        child.kill()
        what = f"was not ready in {seconds:.0f} s; raise audit.run.start_seconds" if late else "ended at once"
        raise UserError(f"the gateway {what} ({child.last_words()})")
    return child


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A fresh folder under ``TMPDIR`` that others cannot enter, gone after the body."""
    with tempfile.TemporaryDirectory(prefix="audit-") as folder:
        yield Path(folder)
