"""Measuring several sides in turn, by the clock or in CPU time, and what is said about the result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from steps.core.records import cpu_seconds as cpu_seconds

RUNS = 5
"""How often each side runs, in turn, after one run that does not count."""

LOOK = 0.05
"""Seconds between two looks at a side that has a cap."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One named result.

    Attributes:
        name: as in ``results/benchmarks.json``.
        value: the headline figure, the median over runs.
        unit: of the value.
        spread: smallest and largest value over the runs.
        sides: median seconds (or bytes) of each side.
        runs: how many values there are.
        bound: what is expected, such as ``at most 1.25``; empty where nothing is.
        device: where it was measured.
        capped: how many runs of a side were stopped at its cap: it would have taken longer.
    """

    name: str
    value: float
    unit: str
    spread: tuple[float, float]
    sides: dict[str, float]
    runs: int
    bound: str = ""
    device: str = "cpu"
    capped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def line(self) -> str:
        """The figure as one line."""
        low, high = self.spread
        sides = ", ".join(f"{side} {value:.4g}" for side, value in self.sides.items())
        stopped = "".join(f"; {side} stopped at its cap {n} times" for side, n in self.capped.items())
        expected = f" [expected {self.bound}]" if self.bound else ""
        return (
            f"{self.name} = {self.value:.4g} {self.unit} ({low:.4g} to {high:.4g}"
            f" in {self.runs} runs; {sides}{stopped}){expected}"
        )

    def entry(self) -> dict[str, Any]:
        """What ``results/benchmarks.json`` says about it."""
        return {
            "value": self.value,
            "unit": self.unit,
            "spread": list(self.spread),
            "sides": self.sides,
            "runs": self.runs,
            "machine": machine(self.device),
            **({"capped": dict(self.capped)} if self.capped else {}),
        }


class Capped(float):
    """Seconds after which a side was stopped."""


class _Stop(BaseException):
    """A side is over its cap; no ``except Exception`` of its own holds it up."""


def in_turn(
    sides: Mapping[str, Callable[[], Any]],
    runs: int,
    before: Callable[[], Any] | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    caps: Mapping[str, float] | None = None,
    uncounted: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each side, measured A B C A B C ... after a first round that does not count.

    Args:
        sides: what is measured, by name; two or more.
        runs: how often.
        before: what is done, unmeasured, before each measurement.
        clock: what tells the seconds; ``cpu_seconds`` counts those of processors, of all threads and of
            processes that a side starts.
        caps: after how many seconds of the clock a side is stopped, where it has a limit; what it took until
            then is a :class:`Capped`. It is stopped between two steps of Python: a call into a library ends
            first, a process that :func:`subprocess.run` waits for is killed.
        uncounted: how many rounds do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(uncounted + runs):
        for name, work in sides.items():
            if before is not None:
                before()
            stopped, start = False, clock()
            try:
                with _stopped_at(caps[name], clock) if caps and name in caps else contextlib.nullcontext():
                    work()
            except _Stop:
                stopped = True
            taken = clock() - start
            seconds[name].append(Capped(taken) if stopped else taken)
    return {name: values[uncounted:] for name, values in seconds.items()}


@contextlib.contextmanager
def _stopped_at(cap: float, clock: Callable[[], float]) -> Iterator[None]:
    """Raise :class:`_Stop` in the body, once, when it has taken longer than ``cap``."""
    start, over = clock(), False

    def look(number: int, frame: Any) -> None:
        nonlocal over
        if not over and clock() - start > cap:
            over = True
            raise _Stop

    earlier = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK, LOOK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def ratio(
    name: str, seconds: Mapping[str, list[float]], bound: str, of: tuple[str, str] | None = None
) -> Figure:
    """One side over another: the median of the ratios of runs that followed each other.

    Args:
        name: of the figure.
        seconds: of each side, run by run.
        bound: what is expected; empty where nothing is.
        of: which side over which; the first over the second where there are only two.
    """
    first, second = of or seconds
    values = [x / y for x, y in zip(seconds[first], seconds[second], strict=True)]
    sides = {side: float(statistics.median(taken)) for side, taken in seconds.items()}
    stopped = Counter(side for side, taken in seconds.items() for value in taken if isinstance(value, Capped))
    return Figure(
        *(name, statistics.median(values), "ratio", (min(values), max(values)), sides, len(values), bound),
        capped=dict(stopped),
    )


def slope(name: str, seconds: Mapping[int, list[float]], bound: str) -> Figure:
    """The slope of log seconds against log size, least squares, for each run; the median over runs."""
    import numpy as np

    sizes = np.log(list(seconds))
    values = [float(np.polyfit(sizes, np.log(run), 1)[0]) for run in zip(*seconds.values(), strict=True)]
    sides = {str(size): statistics.median(times) for size, times in seconds.items()}
    return Figure(
        name, statistics.median(values), "exponent", (min(values), max(values)), sides, len(values), bound
    )


def in_child(function: str, arguments: dict[str, Any]) -> Any:
    """Call a function of this package in a fresh process.

    Args:
        function: ``module.function``, such as ``memory.peak``.
        arguments: JSON, passed by name.

    Returns:
        what it returned, which must be JSON.
    """
    command = [sys.executable, "-m", "benchmarks.measure", function, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one_thread() -> None:
    """Compute with one thread; to be called before numpy and torch are imported."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    import torch

    torch.set_num_threads(1)


def machine(device: str = "cpu") -> dict[str, Any]:
    """Where this was measured."""
    import numpy
    import torch

    accelerator = {} if device == "cpu" else {"accelerator": torch.cuda.get_device_name(device)}
    return {
        **accelerator,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    import importlib

    module, called = sys.argv[1].split(".")
    one_thread()
    answer = getattr(importlib.import_module(f"benchmarks.{module}"), called)(**json.loads(sys.argv[2]))
    print(json.dumps(answer))
