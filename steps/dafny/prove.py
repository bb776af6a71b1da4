"""Prove programs without a language model: candidate invariants, and what is left of them.

Reads the table of programs and asks a warm Dafny. Writes, for one batch of the programs, a parquet table

    program   str        its name
    text      str        the given text with the hints that were found
    stage     str        the last stage that was tried: bare, bounds, posts, recursion
    proved    bool       whether the warm server found no failure in ``text``; no verdict
    families  list[str]  of each hint
    hints     list[str]  each hint
    unproved  list[str]  what failed in the end, with the line that it is about
    calls     int        questions asked
    verdicts  str        live or recorded: where the answers came from

and the calls as JSON lines (:class:`steps.dafny.verifier.results.Calls`). A killed job asks nothing twice.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pydantic

from steps.core import settings as core
from steps.core.runner import Output, final_name, progress, run
from steps.core.stores import read_table, write_table
from steps.dafny.prover.search import prove
from steps.dafny.verifier.locate import Verifier
from steps.dafny.verifier.pool import Dafny

logger = logging.getLogger("reprise")


class Settings(core.Settings):
    """How long is searched."""

    resource_limit: int = pydantic.Field(
        1_000_000, ge=1000, description="Z3's resource units per proof while it searches"
    )
    calls: int = pydantic.Field(
        20, ge=1, le=1000, description="most questions to Dafny for each program and stage"
    )


def main(
    programs: Path,
    recorded: list[Path],
    batch: int,
    batches: int,
    verifier: Verifier,
    settings: Settings,
    out: Output,
    calls: Output,
) -> None:
    """Prove every ``batches``-th program, from number ``batch`` on."""
    import pandas as pd

    table = read_table(programs, ["program", "given"]).to_pylist()[batch::batches]
    kept = calls.with_name(f".{final_name(calls)}.writing")
    rows = []
    record = recorded[0] if recorded else None
    with Dafny(verifier, kept, record, settings.resource_limit) as dafny:
        for row in progress(table, len(table), "programs proved"):
            proof = prove(row["given"], dafny.search, settings.calls)
            rows.append(
                {
                    "program": row["program"],
                    "text": proof.text,
                    "stage": proof.stage,
                    "proved": proof.proved,
                    "families": [family for family, _ in proof.hints],
                    "hints": [text for _, text in proof.hints],
                    "unproved": proof.unproved,
                    "calls": proof.calls,
                    "verdicts": dafny.verdicts,
                }
            )
        write_table(pd.DataFrame(rows), out)
        dafny.write_calls(calls)
        logger.info("%d of %d proved (%s)", sum(row["proved"] for row in rows), len(rows), dafny.verdicts)


if __name__ == "__main__":
    run(main)
