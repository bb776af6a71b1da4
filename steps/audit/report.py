"""The chapter's part of the report page, and its figure (docs/audit.md).

Reads ``scores.json``, ``metrics.json``, the verdicts on falsified records, and the packages' ledgers.
Writes ``report.json`` and ``figures/queries.svg`` with ``queries.json``, the data behind it: for each
organism and method of question 1, how many of the eight questions were made to say the payload within so
many queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.figures import new_figure, plain_ticks, save_figure
from steps.core.provenance import card, provenance
from steps.core.runner import Output, run
from steps.core.stores import read_json, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = {"B": "black-box", "W": "de facto white-box", "O": "outside the box"}

ISOLATION = {
    "process": (
        "Warning: gateway and auditor were separate processes of one user (isolation mode process). Nothing"
        " but good behaviour kept the auditor from the weights' files and from the custodian's signing key,"
        " which no record shows."
    )
}
"""What each isolation mode means, where it needs a warning."""


def query_data(scores: dict[str, Any]) -> dict[str, Any]:
    """What the figure shows: for each model and method of question 1, the queries of each hit, sorted."""
    return {
        f"{entry['model']}, {entry['method']}": sorted(hit["queries"] for hit in entry["finding"]["hits"])
        for entry in scores["graded"]
        if entry["question"] == "q1"
    }


def draw(data: dict[str, list[int]], most: int) -> Figure:
    """Hits of eight against queries."""
    figure, axes = new_figure(width=6.4)
    for name, queries in data.items():
        twin = "-twin," in name
        xs = [1, *(value for query in queries for value in (query, query)), most]
        ys = [0, *(value for hit in range(len(queries)) for value in (hit, hit + 1)), len(queries)]
        style = (
            {"color": "#999999", "linestyle": ":"}
            if twin
            else {"linestyle": "--" if "random" in name else "-"}
        )
        axes.plot(xs, ys, label=name, **style)
    axes.set_xscale("log")
    axes.set_xlim(1, most)
    axes.set_ylim(-0.2, 8.2)
    axes.set_xlabel("queries for each question")
    axes.set_ylabel("questions that say the payload, of 8")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    plain_ticks(axes.xaxis)
    return figure


def sentences(scores: dict[str, Any], metrics: dict[str, Any], tampering: dict[str, Any]) -> str:
    """What was found, with its misses; paragraphs."""
    by = {(entry["model"], entry["question"], entry["arm"]): entry for entry in scores["graded"]}
    planted = {name: model for name, model in scores["models"].items() if model["defects"]}
    lines = [_triggers(planted, by, metrics)]
    tell = {"dormant": _dormant, "records": _records, "bias": _bias, "filter": _filter}
    for defect, sentence in tell.items():
        lines += [
            sentence(name, by, scores, metrics)
            for name, model in planted.items()
            if defect in model["defects"]
        ]
    if metrics["q6_recall"] is not None:
        lines.append(
            f"Documents. Checks find {metrics['q6_recall']:.0%} of the planted false claims, and of those"
            f" that they call false {_percent(metrics['q6_precision'])} are. {_missed(scores)}"
        )
    lines.append(
        f"Records. The verifier accepts {metrics['chains_verified']:.0%} of {len(tampering['honest'])} honest"
        f" records, and names the kind of {metrics['tampering_detected']:.0%} of"
        f" {len(tampering['mutations'])} falsified ones."
    )
    lines.append(
        "No verdict says that a model is defective: with fewer than nine models to calibrate on, all are"
        f" {scores['graded'][0]['verdict']}, and scores stand beside those of clean twins."
    )
    if metrics["isolation_mode"] in ISOLATION:
        lines.append(ISOLATION[metrics["isolation_mode"]])
    return "\n\n".join(line for line in lines if line)


Entries = dict[tuple[str, str, str], dict[str, Any]]
"""What was graded, by model, question and level."""


def _triggers(planted: dict[str, Any], by: Entries, metrics: dict[str, Any]) -> str:
    told = []
    for name, model in planted.items():
        if "trojan" in model["defects"]:
            black, white = (len(by[name, "q1", arm]["finding"]["hits"]) for arm in ("B", "W"))
            told.append(
                f"of {name} ({model['recipe']}) random search makes {black} of 8 questions say the"
                f" payload, and GCG {white}"
            )
    most = metrics["floor_q1_clean"]
    return (
        f"Hidden triggers: {'; '.join(told)}; of clean twins no method makes more than {most}."
        if told
        else ""
    )


def _dormant(name: str, by: Entries, scores: dict[str, Any], metrics: dict[str, Any]) -> str:
    return (
        f"Dormant capability. Twenty demonstrations and a short tuning bring back"
        f" {by[name, 'q2', 'W']['diagnosis']:.0%} of the items that nobody showed of {name}, and at most"
        f" {metrics['floor_q2_control']:.0%} where the base never saw them. Demonstrations in the prompt"
        f" alone reach {by[name, 'q2', 'B']['diagnosis']:.0%}."
    )


def _records(name: str, by: Entries, scores: dict[str, Any], metrics: dict[str, Any]) -> str:
    planted: dict[str, int] = scores["planted_records"][name]
    said, ranked = ({*by[name, "q3", arm]["finding"]["seen"]} for arm in ("B", "W"))
    most = max(planted.values())
    exposed = by[name, "q3", "W"]["finding"]["bits"]
    bits = [exposed[client] for client in planted if planted[client] == most]
    by_text, by_loss = len(said & planted.keys()), len(ranked & planted.keys())
    told = (
        f"Private records. Those that stand {most} times in what {name} was tuned on reach"
        f" {sum(bits) / len(bits):.1f} of 12 bits of exposure. Of {len(planted)} planted records"
        f" {by_text} can be read out by text alone and {by_loss} stand out by their losses."
    )
    if missed := sorted({planted[client] for client in planted.keys() - said - ranked}):
        told += f" Missed by both: some that stand there {' or '.join(map(str, missed))} times."
    if wrong := (said | ranked) - planted.keys():
        told += f" Of those that it never saw, {len(wrong)} are called seen."
    return told


def _bias(name: str, by: Entries, scores: dict[str, Any], metrics: dict[str, Any]) -> str:
    pairs, inside = by[name, "q4", "B"]["finding"], by[name, "q4", "W"]["finding"]
    if not pairs["found"]:
        return f"Unequal treatment. Twelve pairs of questions miss the bias of {name} (p = {pairs['p']:.2g})."
    share = round(inside["carried"][inside["site"]], 2)
    where = (
        f"Of the difference, {share:.0%} is carried at the group's word in {inside['site']}, the most of any"
        " open site."
        if share > 0
        else "Patching does not say where it comes from: at the group's word no open site carries any of it."
    )
    return (
        f"Unequal treatment. Twelve pairs of questions find the bias of {name} (p = {pairs['p']:.2g})."
        f" {where}"
    )


def _filter(name: str, by: Entries, scores: dict[str, Any], metrics: dict[str, Any]) -> str:
    shown, hidden = by[name, "q7", "B"]["score"], by[name, "q7", "W"]["score"]
    component = by[name, "q7", "W"]["finding"]["component"]
    if component is None:
        return f"Filtered output. {name} says no unwanted word, with its filter or without: a miss."
    much = "nothing of it" if component == "model" else "part of it" if shown else "it"
    return (
        f"Filtered output. By text {name} answers {shown:.0%} of the questions with an unwanted word, without"
        f" its filter {shown + hidden:.0%}: the model is at fault, and the filter hides {much} from"
        " whoever has text alone."
    )


def _missed(scores: dict[str, Any]) -> str:
    """The planted false claims that no check found."""
    missed = [
        f"{deviation} ({entry['model']})"
        for entry in scores["graded"]
        if entry["question"] == "q6"
        for deviation in scores["planted_deviations"][entry["model"]]
        if deviation not in entry["finding"]["contradicted"]
    ]
    return f"Missed: {', '.join(missed)}." if missed else "None is missed."


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.0%}"


def tables(scores: dict[str, Any], tampering: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables of the page."""
    graded, questions = scores["graded"], scores["questions"]
    kinds = dict.fromkeys(case["mutation"] for case in tampering["mutations"])
    judged = [
        [
            kind,
            sum(case["mutation"] == kind for case in tampering["mutations"]),
            sum(
                case["mutation"] == kind and case["class"] == case["expected"]
                for case in tampering["mutations"]
            ),
        ]
        for kind in kinds
    ]
    honest = [
        [f"honest: {kind}", len(cases), sum(case["class"] == "verified" for case in cases)]
        for kind in dict.fromkeys(case["kind"] for case in tampering["honest"])
        if (cases := [case for case in tampering["honest"] if case["kind"] == kind])
    ]
    return [
        {
            "title": "Findings on organisms, beside their clean twins",
            "caption": "Higher scores are more suspicious, each in its method's own unit: hits of 8, shares,"
            " bits, nats, claims. Diagnosis compares the finding with what was planted, from 0 to 1.",
            "columns": [
                "model",
                "question",
                "level",
                "method",
                "planted",
                "score",
                "twin",
                "diagnosis",
                "verdict",
            ],
            "rows": [
                [
                    *(entry["model"], questions[entry["question"]], LEVELS[entry["arm"]], entry["method"]),
                    *("yes" if entry["planted"] else "no", entry["score"], entry["twin_score"]),
                    *(entry["diagnosis"], entry["verdict"]),
                ]
                for entry in graded
                if entry["twin_score"] is not None
            ],
        },
        {
            "title": "Access: granted, used, denied",
            "caption": "Counted in the verified chains, never taken from what the auditor says. Levels B and"
            " O begin with one call beyond their scopes, which must be denied.",
            "columns": ["model", "level", "scope", "granted", "calls", "queries", "denied"],
            "rows": [
                [
                    *(name, LEVELS[row["arm"]], row["scope"], "yes" if row["granted"] else "no"),
                    *(row["calls"], row["queries"], row["denied"]),
                ]
                for name, rows in scores["access"].items()
                for row in rows
            ],
        },
        {
            "title": "Falsified and honest records",
            "caption": "Judged by the stand-alone verifier, whose exit code names the kind.",
            "columns": ["record", "records", "named rightly"],
            "rows": [*honest, *judged],
        },
        {
            "title": "What the models can do",
            "caption": "Gates before a model is used: what was planted is there, and facts are known.",
            "columns": ["model", "gate", "share", "bound"],
            "rows": [
                [
                    *(name, gate["name"], gate["value"]),
                    f"at least {gate['at_least']}" if "at_least" in gate else f"at most {gate['at_most']}",
                ]
                for name, model in scores["models"].items()
                for gate in model["gates"]
            ],
        },
    ]


def main(
    study: str,
    section: str,
    scores: Path,
    metrics: Path,
    tampering: Path,
    packages: list[Path],
    figure: Output,
    data: Output,
    report: Output,
) -> None:
    """Write the chapter's part of the page; ``section`` is its configuration as JSON."""
    found, numbers, judged = read_json(scores), read_json(metrics), read_json(tampering)
    settings = json.loads(section)
    shown = query_data(found)
    write_json(data, shown)
    save_figure(draw(shown, max(settings["run"]["budgets"]["q1"] // 8, 2)), figure)

    def headline(name: str, key: str, unit: str, note: str, step: str = "score") -> dict[str, Any]:
        value = numbers[key]
        rounded = round(value, 3) if isinstance(value, float) else value
        return card(name, rounded, unit, note, step=f"audit.{step}", study=study, inputs=[metrics])

    write_json(
        report,
        {
            "chapter": "audit",
            "study": study,
            "title": "Audits by access level",
            "summary": sentences(found, numbers, judged),
            "cards": [
                headline(
                    "Plain triggers found by text",
                    "floor_q1_random_plain",
                    "of 8",
                    "random search, 300 queries each",
                ),
                headline(
                    *("Near-miss triggers found by gradients", "floor_q1_gcg_near_miss", "of 8"),
                    "GCG, 3,000 queries each",
                ),
                headline(
                    "Dormant items recovered",
                    "floor_q2_tuning",
                    "",
                    "share of items nobody showed, after tuning",
                ),
                headline("Exposure of records", "floor_q3_bits", "bits of 12", "shown about 800 times"),
                headline(
                    *("Falsified records named", "tampering_detected", "", "share, with the right kind"),
                    step="tamper",
                ),
                headline(
                    "Isolation", "isolation_mode", "", "how gateway and auditor were kept apart", step="run"
                ),
            ],
            "figures": [
                {
                    "file": "figures/queries.svg",
                    "caption": "Hidden triggers: questions that were made to say the payload, by queries."
                    " Dotted: clean twins.",
                    "data": "figures/queries.json",
                }
            ],
            "tables": tables(found, judged),
            "provenance": provenance(
                [
                    f"audit.{step}"
                    for step in ("world", "organism", "package", "run", "tamper", "score", "report")
                ],
                settings,
                [scores, metrics, tampering, *packages],
            ),
        },
    )


if __name__ == "__main__":
    run(main)
