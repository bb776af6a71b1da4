"""Run a command in a process group of its own, within limits, and leave nothing behind.

``python -I -S guard.py LIFELINE STATUS SECONDS MEGABYTES COMMAND...``: started in a session of its own. The
group is killed when the command ends (its Z3 may work on), when SECONDS are over (0: never), when the
resident memory of the group passes MEGABYTES, and when LIFELINE, the reading end of a pipe, is closed at
the other end: that is when the step ends, by SIGKILL, too. STATUS gets one line: ``itself CODE``, ``time``,
``memory`` or
``closed``.

Memory is watched and not limited: .NET reserves hundreds of GB of addresses and ends at once where it may
not.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

LOOK = 0.25
"""Seconds between two looks at the memory."""


def main() -> None:
    lifeline, status = int(sys.argv[1]), int(sys.argv[2])
    seconds, megabytes = float(sys.argv[3]), float(sys.argv[4])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker)
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for descriptor in (lifeline, status, wake, waker):
            os.close(descriptor)
        try:
            os.execv(sys.argv[5], sys.argv[5:])
        finally:
            os._exit(127)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # whichever comes first
    for descriptor in (0, 1):
        os.close(descriptor)  # so that the ends of the command's pipes are seen
    said = _watch(child, lifeline, wake, seconds, megabytes)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not said.startswith("itself"):
        os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        os.write(status, said.encode())


def _watch(child: int, lifeline: int, wake: int, seconds: float, megabytes: float) -> str:
    """How the command ended, or why it must."""
    until = time.monotonic() + seconds if seconds else float("inf")
    while True:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            return f"itself {os.waitstatus_to_exitcode(code)}"
        ready, _, _ = select.select([lifeline, wake], [], [], max(0, min(LOOK, until - time.monotonic())))
        if wake in ready:
            os.read(wake, 512)
        if lifeline in ready and not os.read(lifeline, 1):
            return "closed"
        if time.monotonic() >= until:
            return "time"
        if _resident(child) > megabytes * 1e6:
            return "memory"


def _resident(group: int) -> int:
    """Resident bytes of all processes of a group; 0 where the system does not tell (macOS)."""
    total, page = 0, os.sysconf("SC_PAGE_SIZE")
    if not os.path.isdir("/proc"):
        return 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"/proc/{name}/stat", "rb") as file,
            ):
                fields = file.read().rpartition(b") ")[2].split()
                if int(fields[2]) == group:
                    total += int(fields[21]) * page
    return total


if __name__ == "__main__":
    main()
