"""The chapter's part of the report page, and its figure.

Reads everything that the study made. Writes ``figures/solved.svg`` with the data behind it, and
``report.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, new_figure, save_figure
from steps.core.provenance import card, provenance
from steps.core.runner import Output, run
from steps.core.stores import read_json, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"bare": "without hints", "ground_truth": "own hints", "models_together": "models together"}


def bars(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """What the figure shows: of each generator both shares and their standard errors."""
    return [
        {
            "generator": NAMES.get(name, name.replace("_", " ")),
            **{
                f"{key}{suffix}": row[key][value]
                for key in ("solved", "solved_strict")
                for suffix, value in (("", "share"), ("_standard_error", "standard_error"))
            },
        }
        for name, row in scores.items()
    ]


def draw(data: list[dict[str, Any]]) -> Figure:
    """Shares of solved programs by generator, by the benchmark's rule and by insertions alone."""
    figure, axes = new_figure(width=6.4, height=0.9 + 0.42 * len(data))
    for offset, key, label, colour in (
        (-0.19, "solved", "the benchmark's rule", COLOURS[5]),
        (0.19, "solved_strict", "insertions alone", COLOURS[0]),
    ):
        places = [index + offset for index in range(len(data))]
        values = [100 * row[key] for row in data]
        errors = [100 * row[f"{key}_standard_error"] for row in data]
        axes.barh(places, values, height=0.36, xerr=errors, label=label, color=colour, error_kw={"lw": 0.8})
    axes.set_yticks(range(len(data)), [row["generator"] for row in data])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("programs solved (%)")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.4, -0.28 if len(data) < 6 else -0.16), ncols=2, fontsize=8
    )
    return figure


def tables(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The generators, and the programs that the prover misses."""
    rows = [
        [
            NAMES.get(name, name.replace("_", " ")),
            row.get("answers"),
            row.get("verdicts", {}).get("verified"),
            row["solved"]["programs"],
            row["solved_strict"]["programs"],
            100 * row["solved_strict"]["share"],
            100 * row["solved_strict"]["standard_error"],
        ]
        for name, row in scores["generators"].items()
    ]
    found = [
        {
            "title": "What solves how many programs",
            "caption": "Answers, those that Dafny verifies, and those that solve their program: by the"
            " benchmark's rule, and where only hints were inserted.",
            "columns": [
                "generator",
                "answers",
                "verified",
                "benchmark's rule",
                "insertions",
                "%",
                "standard error",
            ],
            "rows": rows,
        }
    ]
    if scores["misses"]:
        found.append(
            {
                "title": "What the prover misses",
                "caption": "The last stage that it tried, and the obligation on which it stops.",
                "columns": ["program", "stage", "obligation"],
                "rows": [[one["program"], one["stage"], one["obligations"][0]] for one in scores["misses"]],
            }
        )
    return found


def main(
    study: str,
    section: str,
    programs: Path,
    proofs: list[Path],
    verdicts: list[Path],
    attempts: Path,
    judgements: Path,
    metrics: Path,
    scores: Path,
    page: Path,
    report: Output,
    figure: Output,
    data: Output,
) -> None:
    """Write figure and report."""
    numbers, found = read_json(metrics), read_json(scores)
    shown = bars(found["generators"])
    write_json(data, shown)
    save_figure(draw(shown), figure)
    solved = found["generators"]["prover"]["solved_strict"]
    write_json(
        report,
        {
            "chapter": "dafny",
            "study": study,
            "title": "DafnyBench",
            "summary": "\n\n".join(found["findings"]),
            "cards": [
                card(
                    "Solved by the prover",
                    round(100 * solved["share"], 1),
                    "%",
                    f"{solved['programs']} of {numbers['programs']} programs, by insertions alone and"
                    " without a language model",
                    step="dafny.prove",
                    study=study,
                    inputs=proofs,
                ),
                card(
                    "Verified without hints",
                    round(100 * numbers["bare_share"], 1),
                    "%",
                    f"{numbers['needing_hints']} of {numbers['programs']} programs need hints",
                    step="dafny.verify",
                    study=study,
                    inputs=verdicts,
                ),
                card(
                    "Verdicts",
                    numbers["verdicts"],
                    "",
                    f"Dafny {numbers['verifier']} with Z3 {numbers['z3']}",
                    step="dafny.score",
                    study=study,
                    inputs=[metrics],
                ),
            ],
            "figures": [
                {
                    "file": "figures/solved.svg",
                    "caption": "Share of the programs that each solves; bars show one standard error.",
                    "data": "figures/solved.json",
                }
            ],
            "tables": tables(found),
            "pages": [
                {
                    "file": "programs.html",
                    "title": "All programs and answers",
                    "note": "verdicts, what each answer put in, and what fails",
                }
            ],
            "provenance": provenance(
                [
                    f"dafny.{step}"
                    for step in ("programs", "generate", "prove", "verify", "judge", "score", "report")
                ],
                json.loads(section),
                [programs, attempts, *proofs, *verdicts, judgements, metrics, page],
                {"dafny": numbers["verifier"], "z3": numbers["z3"]},
            ),
        },
    )


if __name__ == "__main__":
    run(main)
