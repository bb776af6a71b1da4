"""Answers to the programs: recorded ones, replayed.

Reads the table of programs, and answers as JSON lines (those that come with this chapter) or the benchmark's
published ones (``NAME_outputs.json`` beside ``NAME_results.csv``).

Writes JSON lines, sorted by generator and program, of answers to programs of the study:

    generator  who answered
    program    which program
    attempt    the attempt that succeeded by the record, ``failed``, or empty where nothing is recorded
    text       the whole answer
"""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import pydantic

from steps.core import settings as core
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.stores import read_table
from steps.dafny.generators.replay import OUTPUTS, RESULTS, Attempt, of_benchmark, of_lines

logger = logging.getLogger("reprise")


class Settings(core.Settings):
    """Whose answers are replayed."""

    replay: str | None = pydantic.Field(
        None,
        min_length=1,
        description="folder with the benchmark's model outputs and"
        " results_summary; null: those of the embedded programs",
    )


def attempts(answers: list[Path], programs: set[str]) -> list[Attempt]:
    """The answers in files to some programs; those to others are named in the log.

    Raises:
        UserError: a file is none of these, or an answer is there twice.
    """
    found: list[Attempt] = []
    tables = {path.name.removesuffix(RESULTS): path for path in answers if path.name.endswith(RESULTS)}
    for path in sorted(answers):
        if path.name.endswith(OUTPUTS):
            name = path.name.removesuffix(OUTPUTS)
            if name not in tables:
                raise UserError(f"{path}: found no {name}{RESULTS} for it; put it into results_summary")
            found += of_benchmark(path, tables[name])
        elif not path.name.endswith(RESULTS):
            found += of_lines(path)
    others = sorted({one.program for one in found if one.program not in programs})
    if others:
        logger.log(
            logging.INFO if any(one.program in programs for one in found) else logging.WARNING,
            "%d answers are to %d programs that are not in the study, and left out: %s",
            sum(one.program not in programs for one in found),
            len(others),
            ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else ""),
        )
    found = sorted(one for one in found if one.program in programs)
    for one, other in itertools.pairwise(found):
        if one[:2] == other[:2]:
            raise UserError(
                f"answers: found two of {one.generator} to {one.program}, expected one; remove one"
            )
    return found


def main(programs: Path, answers: list[Path], settings: Settings, out: Output) -> None:
    """Write the answers down."""
    names = set(read_table(programs, ["program"]).column("program").to_pylist())
    found = attempts(answers, names)
    lines = [json.dumps(one._asdict(), ensure_ascii=True) for one in found]
    out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    logger.info("%d answers of %d generators", len(found), len({one.generator for one in found}))


if __name__ == "__main__":
    run(main)
