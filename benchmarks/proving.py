"""What a warm server saves over a process per program."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure
from steps.dafny.verifier.locate import Verifier, find, missing
from steps.dafny.verifier.pool import Server
from steps.dafny.verifier.process import dafny_verify

PROGRAMS = Path(__file__).resolve().parents[1] / "steps/dafny/embedded/programs"


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``dafny.process_over_pool``: a fresh ``dafny verify`` per program over the warm server.

    All embedded programs with their hints, by turns on one core, equal limits; the geometric mean over
    programs. A round of the server warms it up and does not count. Programs on which the two differ (the
    server reports every failure, for which Dafny proves each assertion without those before it) are named
    and left out. Nothing where there is no Dafny.
    """
    verifier = Verifier()
    tools = find(verifier)
    if tools is None:
        print(f"dafny.process_over_pool: not measured, {missing()}", flush=True)
        return
    paths = sorted(PROGRAMS.glob("*.dfy"))
    paths, runs = (paths[:2], 1) if quick else (paths, 3)
    texts = {path.name: path.read_text("utf-8") for path in paths}
    differ = set()
    values, seconds = [], {"process": [0.0] * runs, "pool": [0.0] * runs}
    with Server(tools, verifier) as server:
        for text in texts.values():
            server.ask(text)
        for run in range(runs):
            ratios = []
            for name, text in texts.items():
                verdict, alone = _timed(lambda text: dafny_verify(text, tools, verifier), text)
                answer, warm = _timed(server.ask, f"{text}// {run}\n")  # never the same document twice
                if (verdict.verdict == "verified") != (answer.state == "proved"):
                    differ.add(name)
                    continue
                seconds["process"][run] += alone
                seconds["pool"][run] += warm
                ratios.append(alone / warm)
            values.append(statistics.geometric_mean(ratios))
    if differ:
        print(f"dafny.process_over_pool: without {', '.join(sorted(differ))}", flush=True)
    sides = {name: statistics.median(taken) for name, taken in seconds.items()}
    spread = min(values), max(values)
    yield Figure("dafny.process_over_pool", statistics.median(values), "ratio", spread, sides, runs)


def _timed(work: Callable[[str], Any], text: str) -> tuple[Any, float]:
    start = time.perf_counter()
    made = work(text)
    return made, time.perf_counter() - start
