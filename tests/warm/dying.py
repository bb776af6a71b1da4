"""Run a step that kills itself at a planted point: ``python -m tests.warm.dying FUNCTION TEXT CALLS STEP``.

It runs as ``python -m STEP`` with the arguments that follow, until FUNCTION (``os.replace``) was called CALLS
times with TEXT as its last argument, or with any where TEXT is empty. The next such call only kills the
process, with SIGKILL.
"""

from __future__ import annotations

import os
import pkgutil
import runpy
import signal
import sys
from typing import Any


def plant(function: str, text: str, calls: int) -> None:
    """Replace the function by one that counts its calls, and kills the process in the one after them."""
    owner_name, _, name = function.rpartition(".")
    owner = pkgutil.resolve_name(owner_name)
    real, done = getattr(owner, name), 0

    def counting(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        if not text or str(arguments[-1]) == text:
            if done == calls:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
        return real(*arguments, **named)

    setattr(owner, name, counting)


if __name__ == "__main__":
    _, function, text, calls, step, *arguments = sys.argv
    plant(function, text, int(calls))
    sys.argv = [step, *arguments]
    runpy.run_module(step, run_name="__main__", alter_sys=True)
