"""What a job took: wall time, CPU time and peak memory, measured by the job and kept beside its log.

The runner writes ``X.json`` beside the log ``X.log`` when a job ends, however it ends::

    {"step": "neurons.correlate", "host": "node7", "process": 4711, "started": "2026-05-01T12:00:00+00:00",
     "outcome": "done",                  or "failed", "interrupted" (SIGINT), "terminated" (SIGTERM)
     "exit_code": 0,
     "wall_seconds": 12.5,               since the process was started, imports included
     "cpu_seconds": 23.1,                of all threads and of all processes that the job started
     "peak_bytes": 1234567890,           own_peak_bytes + children_peak_bytes
     "own_peak_bytes": 1034567890,       the largest resident size of the job's own process
     "children_peak_bytes": 200000000,   the largest sum over processes that ran at one time; null: unknown
     "memory_from": "VmHWM"}             or what stood in for it

A job that was killed (SIGKILL) leaves none: that of an earlier run is removed when a job starts. Records are
no results, and no input of any rule.

``VmHWM`` of ``/proc/self/status`` is the kernel's own high-water mark, so nothing is missed between two
looks. ``ru_maxrss`` is not used where it can be helped: it keeps what a process was before ``exec``, so that
whatever is started from a large process looks large. The high-water marks of processes that the job starts
are read several times a second until they end; memory that two of them share counts twice.
"""

from __future__ import annotations

import contextlib
import datetime
import glob
import json
import math
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps.core.stores import write_json

PROC = Path("/proc")
"""Where Linux tells of processes; other systems have no such folder."""

VM_HWM = "VmHWM"
MAXRSS = "ru_maxrss, which may be larger than the job ever was; processes that it started are not in it"
"""What ``memory_from`` says."""

INTERVAL = 0.05
"""Seconds between two looks at processes that the job started."""

PATIENCE = 1.0
"""Seconds without any such process after which nobody looks until one is started again."""

_NEAR = 2**20
"""Bytes by which the kernel's figures for one memory may differ from one look to the next."""

_LOADED = time.monotonic()
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
"""Audit events of a process that is about to be started."""
_START_UNSEEN = {"multiprocessing.popen_spawn_posix", "multiprocessing.popen_forkserver"}
"""Modules that start processes without an event; once they are there, so is their resource tracker."""


def path_of(log: Path) -> Path:
    """Where the record of the job with this log lies."""
    return log.with_suffix(".json") if log.suffix == ".log" else log.with_name(f"{log.name}.json")


class Watch:
    """What this process takes, from its start on, and the processes that it starts from now on."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.children_peak = 0
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._looking: threading.Thread | None = None
        self._last_start = 0.0
        self._ended = threading.Event()
        if _children(self._process) is not None:
            sys.addaudithook(self._notice)

    def _notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Begin to look when a process is about to be started (called for every audit event)."""
        if event in _STARTS or (event == "import" and arguments[0] in _START_UNSEEN):
            if os.getpid() != self._process or self._ended.is_set():
                return  # a fork, or after the job's end
            with self._lock:
                self._last_start = time.monotonic()
                if self._looking is None:
                    looking = threading.Thread(target=self._look, name="memory", daemon=True)
                    with contextlib.suppress(RuntimeError):  # no thread to be had: the job matters more
                        looking.start()
                        self._looking = looking

    def _look(self) -> None:
        while True:
            if self.look():
                self._last_start = time.monotonic()
            with self._lock:
                if time.monotonic() - self._last_start > PATIENCE:
                    self._looking = None
                    return
            if self._ended.wait(INTERVAL):
                return

    def look(self) -> bool:
        """Take the sizes of the processes that run now into account; returns whether there are any."""
        self.children_peak = max(self.children_peak, sum(_peaks_below(self._process)))
        return bool(_children(self._process))

    def end(self, outcome: str, exit_code: int) -> dict[str, Any]:
        """Stop watching and return the record."""
        self._ended.set()
        counted = _children(self._process) is not None
        if counted:
            self.look()
        wall = _age()
        own, source = peak_of(self._process), VM_HWM
        if own is None:
            source = MAXRSS
            # bytes on macOS, KiB elsewhere
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
                1 if sys.platform == "darwin" else 1024
            )
        started = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=wall)
        return {
            "step": self.step,
            "host": socket.gethostname(),
            "process": self._process,
            "started": started.isoformat(timespec="seconds"),
            "outcome": outcome,
            "exit_code": exit_code,
            "wall_seconds": round(wall, 3),
            "cpu_seconds": round(cpu_seconds(), 3),
            "peak_bytes": own + self.children_peak,
            "own_peak_bytes": own,
            "children_peak_bytes": self.children_peak if counted else None,
            "memory_from": source,
        }


def cpu_seconds() -> float:
    """Seconds of processors that this process, its threads and all that it started have used so far."""
    total = 0.0
    for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):  # the latter: those that have ended
        usage = resource.getrusage(whose)
        total += usage.ru_utime + usage.ru_stime
    for process in _descendants(os.getpid()):
        if (stat := _stat(process)) is not None:
            total += sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def peak_of(process: int) -> int | None:
    """The largest resident size in bytes that a process has had; nothing where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in (PROC / str(process) / "status").read_bytes().splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def _age() -> float:
    """Seconds since this process was started."""
    loaded = time.monotonic() - _LOADED
    stat = _stat(os.getpid())
    if stat is None:
        return loaded
    started = int(stat[19]) / os.sysconf("SC_CLK_TCK")
    return max(loaded, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def _stat(process: int) -> list[bytes] | None:
    """``/proc/PID/stat`` from the third field on: the name before may hold anything."""
    with contextlib.suppress(OSError):
        return (PROC / str(process) / "stat").read_bytes().rpartition(b") ")[2].split()
    return None


def _children(process: int) -> list[int] | None:
    """The processes that a process has started; nothing where the system does not tell."""
    found: list[int] = []
    try:
        threads = os.listdir(PROC / str(process) / "task")
    except OSError:
        return None
    for thread in threads:
        try:
            found += map(int, (PROC / str(process) / "task" / thread / "children").read_bytes().split())
        except FileNotFoundError:
            if (PROC / str(process) / "task" / thread).exists():
                return None  # a kernel without CONFIG_PROC_CHILDREN
        except OSError:
            continue  # it ended meanwhile
    return found


def _descendants(process: int) -> Iterator[int]:
    for child in _children(process) or ():
        yield child
        yield from _descendants(child)


def _peaks_below(process: int) -> Iterator[int]:
    """High-water marks of all that a process has started and that runs now.

    Between ``vfork`` and ``exec`` a new process has the memory of the one that started it, which is left out:
    the stack is then at the same place, and the mark is the same but for what other threads do meanwhile.
    """
    before, stack = peak_of(process) or 0, _stack(process)
    for child in _children(process) or ():
        same_stack = _stack(child) == stack  # before the mark: ``exec`` may come in between
        peak = peak_of(child)
        if peak is not None:
            after = peak_of(process) or 0
            if not (same_stack and before - _NEAR <= peak <= after + _NEAR):
                yield peak
            yield from _peaks_below(child)


def _stack(process: int) -> bytes | None:
    """Where the stack of a process starts: another place after each ``exec``."""
    stat = _stat(process)
    return None if stat is None else stat[25]


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record; a full disk must not fail a job whose results are whole."""
    with contextlib.suppress(OSError):
        write_json(path, record)


def read(pattern: str) -> list[dict[str, Any]]:
    """The records of jobs that were done, of all files that a pattern finds, in the order of their names.

    What is no whole record is passed over: other JSON, what failed, what is being replaced.
    """
    found = []
    for name in sorted(glob.glob(pattern, recursive=True)):
        try:
            record = json.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(record, dict) and record.get("outcome") == "done" and _is_whole(record):
            found.append(record)
    return found


def _is_whole(record: dict[str, Any]) -> bool:
    values = [record.get(name) for name in ("wall_seconds", "cpu_seconds", "peak_bytes")]
    return all(
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= 1e18
        and math.isfinite(value)
        for value in values
    )
