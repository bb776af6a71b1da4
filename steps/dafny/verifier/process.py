"""One `dafny verify` per claim: a clean process group, a name that we made, limits, JSON.

What a text deserves is decided by Z3's resource count; the clock is off (``--verification-time-limit 0``)
and an outer limit of time and memory ends the whole group.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import IO

from steps.dafny.verifier import results
from steps.dafny.verifier.locate import Tools, Verifier, environment
from steps.dafny.verifier.results import Verdict

GUARD = Path(__file__).with_name("guard.py")

MOST_OUTPUT = 20_000_000
"""Bytes of what Dafny says that are read; one that says more is ended."""


class Guarded:
    """A command that ends with us, however we end.

    Args:
        command: the program and its arguments.
        folder: where it runs, and its home.
        seconds: until it is ended; 0 for no limit.
        memory_mb: resident memory of its group.
        heap_mb: of .NET.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, seconds: float, memory_mb: int, heap_mb: int
    ) -> None:
        self._lifeline: int | None
        lifeline, self._lifeline = os.pipe()
        self._status, status = os.pipe()
        try:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(GUARD)),
                    *(str(lifeline), str(status), str(seconds), str(memory_mb)),
                    *command,
                ],
                cwd=folder,
                env=environment(heap_mb, folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(lifeline, status),
                start_new_session=True,
            )
        finally:
            os.close(lifeline)
            os.close(status)

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> BufferedReader:
        assert isinstance(self.process.stdout, BufferedReader)
        return self.process.stdout

    def kill(self) -> None:
        """Let the guard kill it; its output then ends."""
        if self._lifeline is not None:
            lifeline, self._lifeline = self._lifeline, None
            os.close(lifeline)

    def end(self) -> str:
        """Kill what is left of it, and say how it ended, as the guard does."""
        self.kill()
        with os.fdopen(self._status, "rb") as file:
            said = file.read()
        self.process.wait()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        return said.decode() or "closed"


def options(tools: Tools, verifier: Verifier) -> list[str]:
    """What every call of Dafny is told."""
    return [
        *("--solver-path", str(tools.z3), "--cores", "1"),
        *("--resource-limit", str(verifier.resource_limit), "--verification-time-limit", "0"),
    ]


def said(guarded: Guarded) -> Iterator[bytes]:
    """What a command writes, up to ``MOST_OUTPUT`` bytes."""
    left = MOST_OUTPUT
    while left > 0 and (part := guarded.stdout.read1(1 << 16)):
        left -= len(part)
        yield part


def dafny_verify(text: str, tools: Tools, verifier: Verifier) -> Verdict:
    """What a fresh Dafny says of a text.

    Args:
        text: the program, exactly as it was judged.
        tools: Dafny and Z3.
        verifier: the limits.

    Raises:
        UserError: Dafny cannot use its Z3.
    """
    if (refused := results.unsupported(text)) is not None:
        return refused
    with tempfile.TemporaryDirectory(prefix="reprise-dafny-") as name:
        folder = Path(name)
        (folder / "program.dfy").write_bytes(text.encode("utf-8"))
        guarded = Guarded(
            [
                *(str(tools.dafny), "verify", "--allow-warnings", "--json-output"),
                *(*options(tools, verifier), "program.dfy"),
            ],
            folder,
            verifier.seconds,
            verifier.memory_mb,
            verifier.heap_mb,
        )
        guarded.stdin.close()
        output = b"".join(said(guarded))
        if len(output) >= MOST_OUTPUT:
            guarded.end()
            return Verdict("crash", message="it wrote without end")
        ended = _ended(guarded)
    return results.of_process(output, ended)


def _ended(guarded: Guarded) -> str:
    """How a command ended that closed its output; it may still be at work on its end."""
    guarded.process.wait()
    return guarded.end()
