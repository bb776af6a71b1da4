"""Measuring two sides in turn, and what is said about the result."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RUNS = 5
"""How often each side runs, in turn, after one run that does not count."""


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
    """

    name: str
    value: float
    unit: str
    spread: tuple[float, float]
    sides: dict[str, float]
    runs: int
    bound: str = ""
    device: str = "cpu"

    def line(self) -> str:
        """The figure as one line."""
        low, high = self.spread
        sides = ", ".join(f"{side} {value:.4g}" for side, value in self.sides.items())
        expected = f" [expected {self.bound}]" if self.bound else ""
        return (
            f"{self.name} = {self.value:.4g} {self.unit} ({low:.4g} to {high:.4g}"
            f" in {self.runs} runs; {sides}){expected}"
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
        }


def in_turn(
    sides: Mapping[str, Callable[[], Any]], runs: int, before: Callable[[], Any] | None = None
) -> dict[str, list[float]]:
    """Seconds of each side, measured A B A B ... after a first round that does not count.

    Args:
        sides: what is measured, by name.
        runs: how often.
        before: what is done, unmeasured, before each measurement.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs + 1):
        for name, work in sides.items():
            if before is not None:
                before()
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def ratio(name: str, seconds: Mapping[str, list[float]], bound: str) -> Figure:
    """The first side over the second: the median of the ratios of runs that followed each other."""
    (first, a), (second, b) = seconds.items()
    values = [x / y for x, y in zip(a, b, strict=True)]
    sides = {first: statistics.median(a), second: statistics.median(b)}
    return Figure(
        name, statistics.median(values), "ratio", (min(values), max(values)), sides, len(values), bound
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
