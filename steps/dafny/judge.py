"""Judge answers: which solve their program, by the benchmark's rule and by ours.

Reads the programs, the proofs, the answers and the verdicts. Writes a parquet table with one row per
generator and program: ``bare`` (the given text), ``ground_truth`` (the program with its hints), ``prover``,
and whose answers are replayed:

    generator        str
    program          str
    attempt          str        the attempt that succeeded by the record, failed, or empty
    sha256           str        of the text
    text             str        the whole text
    verdict          str        Dafny's, see ``steps.dafny.verifier.results``
    failures         list[str]  Dafny's errors
    official         list[str]  why the benchmark's rule refuses it (section 3.4); none where it does not
    strict           list[str]  why ours does
    solved           bool       verified, and ``official`` is empty
    solved_strict    bool       verified, and ``strict`` is empty
    verdicts         str        live or recorded
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps.core.errors import UserError
from steps.core.runner import Output, progress, run
from steps.core.stores import read_table, write_table
from steps.dafny.judges import official, strict
from steps.dafny.verifier.results import LASTING, text_digest

logger = logging.getLogger("reprise")


def answers(
    programs: list[dict[str, Any]], proofs: list[Path], attempts: Path
) -> Iterator[tuple[str, str, str, str]]:
    """Generator, program, attempt and text of all that is judged, in a fixed order."""
    for row in programs:
        yield "bare", row["program"], "", row["given"]
    for row in programs:
        yield "ground_truth", row["program"], "", row["ground_truth"]
    proved = {row["program"]: row["text"] for path in proofs for row in read_table(path).to_pylist()}
    for row in programs:
        if row["program"] not in proved:
            raise UserError(f"--proofs: found none of {row['program']}; name those of all batches")
        yield "prover", row["program"], "", proved[row["program"]]
    for line in attempts.read_text(encoding="utf-8").split("\n"):
        if line:
            found = json.loads(line)
            yield found["generator"], found["program"], found["attempt"], found["text"]


def main(programs: Path, proofs: list[Path], attempts: Path, verdicts: list[Path], out: Output) -> None:
    """Judge everything."""
    import pandas as pd

    table = read_table(programs, ["program", "given", "ground_truth"]).to_pylist()
    given = {row["program"]: row["given"] for row in table}
    truth = {row["program"]: row["ground_truth"] for row in table}
    said = {row["sha256"]: row for path in verdicts for row in read_table(path).to_pylist()}
    whole = list(answers(table, proofs, attempts))
    rows = []
    for generator, program, attempt, text in progress(whole, len(whole), "answers judged"):
        digest = text_digest(text)
        before = text_digest(given[program])
        missing = next((one for one in (digest, before) if one not in said), None)
        if missing is not None:
            raise UserError(
                f"--verdicts: found none of {program} ({missing[:12]}); name those of all batches"
            )
        verdict = said[digest]
        by_benchmark = official.refusals(given[program], text)
        by_us = strict.refusals(given[program], text)
        if (
            said[before]["verdict"] not in LASTING
        ):  # it ended before it warned of what the program itself assumes
            before = text_digest(truth[program])
        known = said[before]["warnings"] if before in said else []
        by_us += strict.new_warnings(known, verdict["warnings"])
        verified = verdict["verdict"] == "verified"
        rows.append(
            {
                "generator": generator,
                "program": program,
                "attempt": attempt,
                "sha256": digest,
                "text": text,
                "verdict": verdict["verdict"],
                "failures": verdict["failures"],
                "official": by_benchmark,
                "strict": by_us,
                "solved": verified and not by_benchmark,
                "solved_strict": verified and not by_us,
                "verdicts": verdict["verdicts"],
            }
        )
    write_table(pd.DataFrame(rows), out)
    logger.info("%d answers judged, %d solve strictly", len(rows), sum(row["solved_strict"] for row in rows))


if __name__ == "__main__":
    run(main)
