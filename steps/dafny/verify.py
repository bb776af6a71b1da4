"""Verdicts: a fresh Dafny for every text that somebody claims something about, each text once.

Reads the table of programs (bare and with their hints), the proofs and the answers. Of all texts those are
verified whose SHA-256 falls to this batch. Writes a parquet table

    sha256       str        of the text in UTF-8
    verdict      str        see ``steps.dafny.verifier.results``; ``verified`` alone solves
    proofs       int        proof obligations verified, by symbol
    errors       int        errors
    message      str        what ended a crash or timeout
    failures     list[str]  messages of errors, with the line that they are about
    warnings     list[str]  messages of warnings
    clock        bool       whether the text carries a limit in seconds, so that the machine's speed decides
    verdicts     str        live or recorded: where the verdict came from

and the calls as JSON lines.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from steps.core.runner import Output, final_name, progress, run
from steps.core.stores import read_table, write_table
from steps.dafny.syntax.tokens import Lines
from steps.dafny.verifier.locate import Verifier
from steps.dafny.verifier.pool import Dafny
from steps.dafny.verifier.results import ERROR, WARNING, Verdict, clock_bound, text_digest

logger = logging.getLogger("reprise")

COLUMNS = ("sha256", "verdict", "proofs", "errors", "message", "failures", "warnings", "clock", "verdicts")


def texts_of(programs: Path, proofs: Iterable[Path], attempts: Path) -> dict[str, str]:
    """All texts about which there is a claim, by digest, sorted."""
    table = read_table(programs, ["given", "ground_truth"])
    found = [text for name in ("given", "ground_truth") for text in table.column(name).to_pylist()]
    for path in proofs:
        found += read_table(path, ["text"]).column("text").to_pylist()
    for line in attempts.read_text(encoding="utf-8").split("\n"):
        if line:
            found.append(json.loads(line)["text"])
    return dict(sorted((text_digest(text), text) for text in found))


def failures(text: str, verdict: Verdict) -> list[str]:
    """The errors of a verdict in words, each with the line that it is about."""
    lines, found = Lines(text), []
    for one in verdict.diagnostics:
        if one.severity == ERROR:
            line = one.related[0][0] if one.related else one.line
            found.append(f"{one.summary}: {text[lines.offset(line, 0) : lines.offset(line + 1, 0)].strip()}")
    return list(dict.fromkeys(found))


def main(
    programs: Path,
    proofs: list[Path],
    attempts: Path,
    recorded: list[Path],
    batch: int,
    batches: int,
    verifier: Verifier,
    out: Output,
    calls: Output,
) -> None:
    """Verify the texts of a batch."""
    import pandas as pd

    whole = texts_of(programs, proofs, attempts)
    mine = {digest: text for digest, text in whole.items() if int(digest[:8], 16) % batches == batch}
    kept = calls.with_name(f".{final_name(calls)}.writing")
    rows = []
    with Dafny(verifier, kept, recorded[0] if recorded else None) as dafny:
        for digest, text in progress(mine.items(), len(mine), "texts verified"):
            verdict = dafny.verify(text)
            rows.append(
                {
                    "sha256": digest,
                    "verdict": verdict.verdict,
                    "proofs": verdict.proofs,
                    "errors": verdict.errors,
                    "message": verdict.message,
                    "failures": failures(text, verdict),
                    "warnings": [one.message for one in verdict.diagnostics if one.severity == WARNING],
                    "clock": clock_bound(text),
                    "verdicts": dafny.verdicts,
                }
            )
        write_table(pd.DataFrame(rows, columns=list(COLUMNS)), out)
        dafny.write_calls(calls)
    logger.info("%d of %d texts verified", sum(row["verdict"] == "verified" for row in rows), len(rows))


if __name__ == "__main__":
    run(main)
