"""Scores: which share of the programs each generator solves.

Reads the table of programs, the proofs (of all batches) and the judgements. Writes ``metrics.json``:

=========================  =======================================================================
name                       contents
=========================  =======================================================================
``programs``               how many
``needing_hints``          of these, without hints not verified
``test_json_sha256``       of the benchmark's file, null for other programs
``bare_share``             share of the programs that verify without hints
``ground_truth_share``     share that verify with theirs: the ceiling
``solved_share``           by generator: verified, and the benchmark's own rule does not refuse the answer
``solved_share_strict``    by generator: verified, and the answer only inserts hints
``verifier``, ``z3``       versions
``verdicts``               ``live``: all of Dafny here; ``recorded``: some from the record
=========================  =======================================================================

Shares are of all programs. Where several models' answers are replayed, ``models_together`` counts programs
that one of them solves.

``scores.json`` has ``generators`` (for each, counts, both shares with their standard errors sqrt(p (1 - p)
/ n), the verdicts, and the programs by recorded attempt), ``misses`` (the programs that need hints and that
the prover does not solve, the stage that it reached and what fails there) and ``findings``, the same in
sentences.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps.core.provenance import versions
from steps.core.runner import Output, run
from steps.core.stores import read_table, write_json
from steps.dafny.verifier.locate import Verifier

OURS = ("bare", "ground_truth", "prover")
"""Generators that are no recorded answers."""

PROOF = ["program", "stage", "unproved", "verdicts"]
"""Columns of the proofs that are read."""

TOGETHER = "models_together"


def share(solved: int, programs: int) -> dict[str, float]:
    """A share and its standard error."""
    p = solved / programs
    return {"share": p, "standard_error": math.sqrt(p * (1 - p) / programs)}


def together(judged: Iterable[dict[str, Any]], key: str) -> set[str]:
    """The programs that any recorded answer solves."""
    return {row["program"] for row in judged if row["generator"] not in OURS and row[key]}


def scores(judged: list[dict[str, Any]], programs: int) -> dict[str, dict[str, Any]]:
    """What each generator reaches, by name.

    Args:
        judged: rows of the judgements.
        programs: how many there are in all.
    """
    found: dict[str, dict[str, Any]] = {}
    for generator in dict.fromkeys(row["generator"] for row in judged):
        rows = [row for row in judged if row["generator"] == generator]
        found[generator] = {
            "answers": len(rows),
            "verdicts": dict(sorted(Counter(row["verdict"] for row in rows).items())),
            "refused": sum(row["verdict"] == "verified" and not row["solved_strict"] for row in rows),
        }
        for key in ("solved", "solved_strict"):
            solved = [row for row in rows if row[key]]
            found[generator][key] = {"programs": len(solved), **share(len(solved), programs)}
            by_attempt = Counter(row["attempt"] for row in solved if row["attempt"])
            found[generator][key]["by_attempt"] = dict(sorted(by_attempt.items()))
    if len(found) > len(OURS) + 1:
        found[TOGETHER] = {
            key: {"programs": len(solved), **share(len(solved), programs)}
            for key in ("solved", "solved_strict")
            for solved in [together(judged, key)]
        }
    return found


def misses(judged: list[dict[str, Any]], proofs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The programs that the prover does not solve, and the obligations on which it stops."""
    missed = {
        row["program"]: row for row in judged if row["generator"] == "prover" and not row["solved_strict"]
    }
    found = []
    for proof in sorted(proofs, key=lambda row: row["program"]):
        if proof["program"] in missed:
            row = missed[proof["program"]]
            obligations = (
                list(row["failures"]) or list(row["strict"]) or list(proof["unproved"]) or [row["verdict"]]
            )
            found.append({"program": proof["program"], "stage": proof["stage"], "obligations": obligations})
    return found


def findings(numbers: dict[str, Any], found: dict[str, Any], missed: list[dict[str, Any]]) -> list[str]:
    """What was found, in sentences."""
    total, needing = numbers["programs"], numbers["needing_hints"]
    said = [
        f"Of {total} programs {total - needing} verify without hints and"
        f" {round(numbers['ground_truth_share'] * total)} with their own."
    ]
    solved = found["prover"]["solved_strict"]["programs"]
    said.append(
        f"The prover, which uses no language model and only inserts hints, solves {solved} of {total}"
        f" ({100 * solved / total:.0f} %): {solved - (total - needing)} of the {needing} that need some."
    )
    if missed:
        names = ", ".join(f"{one['program']} ({one['obligations'][0]})" for one in missed[:3])
        more = f" and {len(missed) - 3} more" if len(missed) > 3 else ""
        said.append(f"It misses {len(missed)}: {names}{more}.")
    for name, row in found.items():
        if name in (*OURS, TOGETHER):
            continue
        said.append(
            f"Of {row['answers']} answers by {name.replace('_', ' ').removeprefix('by ')} Dafny verifies"
            f" {row['verdicts'].get('verified', 0)};"
            f" {row['solved_strict']['programs']} of these only insert hints, {row['refused']} do something"
            f" else, and the benchmark's own rule accepts {row['solved']['programs']}."
        )
    if TOGETHER in found:
        both = found[TOGETHER]
        said.append(
            f"All models together solve {both['solved']['programs']} by the benchmark's rule,"
            f" {both['solved_strict']['programs']} by insertions alone."
        )
    if numbers["verdicts"] == "recorded":
        said.append("Verdicts are recorded ones of an earlier run: there was no Dafny here.")
    return said


def main(
    programs: Path, proofs: list[Path], judgements: Path, verifier: Verifier, metrics: Output, out: Output
) -> None:
    """Count and write down."""
    table = read_table(programs, ["program", "source_sha256"]).to_pylist()
    judged = read_table(judgements).to_pylist()
    found = scores(judged, len(table))
    sources = {row["verdicts"] for row in judged}
    proved = [row for path in proofs for row in read_table(path, PROOF).to_pylist()]
    sources |= {row["verdicts"] for row in proved}
    verified = sum(row["generator"] == "bare" and row["verdict"] == "verified" for row in judged)
    truths = sum(row["generator"] == "ground_truth" and row["verdict"] == "verified" for row in judged)
    answering = [name for name in found if name not in ("bare", "ground_truth")]
    numbers = {
        "programs": len(table),
        "needing_hints": len(table) - verified,
        "test_json_sha256": table[0]["source_sha256"] or None,
        "bare_share": verified / len(table),
        "ground_truth_share": truths / len(table),
        "solved_share": {name: found[name]["solved"]["share"] for name in answering},
        "solved_share_strict": {name: found[name]["solved_strict"]["share"] for name in answering},
        "verifier": verifier.dafny,
        "z3": verifier.z3,
        "verdicts": "live" if sources == {"live"} else "recorded",
    }
    write_json(metrics, numbers)
    missed = misses(judged, proved)
    made = versions() | {"dafny": verifier.dafny, "z3": verifier.z3}
    said = findings(numbers, found, missed)
    write_json(out, {"versions": made, "findings": said, "generators": found, "misses": missed})


if __name__ == "__main__":
    run(main)
