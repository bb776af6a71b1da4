"""Measure everything: ``python -m benchmarks [--quick] [--only PART ...] [--out FILE]``.

Prints one line per figure and writes ``results/benchmarks.json``::

    {name: {"value", "unit", "spread": [smallest, largest],
            "sides": {side: seconds or bytes}, "runs", "machine"}}
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from pathlib import Path

from benchmarks.measure import one_thread

PARTS = {
    "dump": "dumping.figures",
    "correlate": "correlating.over_matmul",
    "growth": "correlating.growth",
    "two_pass": "two_pass.figures",
    "explain": "explaining.figures",
    "memory": "memory.figures",
    "training": "training.figures",
    "fractal": "fractal.figures",
    "skills": "skills.figures",
    "proving": "proving.figures",
    "audit": "auditing.figures",
    "reruns": "reruns.figures",
    "device": "device.figures",
    "before": "before.figures",
}
"""What is measured, in this order, each in a folder of its own: module and function."""

ANYWHERE = [part for part in PARTS if part not in ("device", "before")]
"""What is measured unless somebody names parts: `device` needs an accelerator, `before` half an hour."""


def main() -> None:
    """Measure the chosen parts and write what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, not how fast")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=ANYWHERE, help="some parts")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks.json"), metavar="FILE")
    arguments = parser.parse_args()
    one_thread()
    from steps.core.stores import write_json

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    entries = {}
    for part in arguments.only:
        module, function = PARTS[part].split(".")
        figures = getattr(importlib.import_module(f"benchmarks.{module}"), function)
        with tempfile.TemporaryDirectory(prefix="reprise-bench-") as folder:
            for figure in figures(Path(folder), arguments.quick):
                print(figure.line(), flush=True)
                entries[figure.name] = figure.entry()
        write_json(arguments.out, entries)  # a run that is stopped keeps what it measured
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
