"""Measure everything: ``python -m benchmarks [--quick] [--only PART ...] [--out FILE]``.

Prints one line per figure and writes ``results/benchmarks.json``::

    {name: {"value", "unit", "spread": [smallest, largest],
            "sides": {side: seconds or bytes}, "runs", "machine"}}
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measure import Figure, one_thread

Part = Callable[[Path, bool], Iterator[Figure]]


def parts() -> dict[str, Part]:
    """What is measured, in this order, each in a folder of its own."""
    from benchmarks import correlating, dumping, memory, training, two_pass

    return {
        "dump": dumping.figures,
        "correlate": correlating.over_matmul,
        "growth": correlating.growth,
        "two_pass": two_pass.figures,
        "memory": memory.figures,
        "training": training.figures,
    }


def main() -> None:
    """Measure the chosen parts and write what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, not how fast")
    parser.add_argument("--only", nargs="+", metavar="PART", help="some parts: dump, correlate, growth, ...")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks.json"), metavar="FILE")
    arguments = parser.parse_args()
    one_thread()
    from steps.core.stores import write_json

    known = parts()
    unknown = set(arguments.only or []) - set(known)
    if unknown:
        parser.error(f"--only: found {', '.join(sorted(unknown))}, expected some of {', '.join(known)}")
    entries = {}
    for name in arguments.only or known:
        with tempfile.TemporaryDirectory(prefix="reprise-bench-") as folder:
            for figure in known[name](Path(folder), arguments.quick):
                print(figure.line(), flush=True)
                entries[figure.name] = figure.entry()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, entries)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
