"""The chapter's headline figures and its part of the report page (docs/skills.md).

Reads evaluations, downstream results and the ledgers of skills. Writes ``metrics.json``, where b is ``vic``
or ``diayn``, everything is measured from home, and a mean is one over seeds:

=======================================  ============================================================
name                                     contents
=======================================  ============================================================
``fourrooms_b_side_effects_focused``     side effects of focused skills, mean over skills and seeds
``fourrooms_b_side_effects_worst``       of the worst skill, mean over seeds
``fourrooms_b_control_min``              G of an object by its own skills, the worst object's mean
``fourrooms_b_auc_focused``              area under terminal coverage, focused skills
``fourrooms_b_auc_unfocused``            unfocused skills
``fourrooms_b_auc_difference_low``       lower end of the interval of focused less unfocused, paired by seed
``fourrooms_b_steps_to_goal_focused``    downstream, over skills alone, from Q-values of 0
``fourrooms_b_steps_to_goal_unfocused``  likewise
``fourrooms_steps_to_goal_primitives``   without skills, the better of all starts of Q-values
``fourrooms_random_auc``                 area under the coverage of sixteen uniform policies
``seeds``                                how many
=======================================  ============================================================

and ``report.json``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.digest import seed as derive
from steps.core.errors import UserError
from steps.core.provenance import card, provenance
from steps.core.runner import Output, run
from steps.core.statistics import Interval, bootstrap_interval, paired_difference
from steps.core.stores import Folder, read_json, write_json
from steps.skills.learning.bases import BASES, MODES, PRIMITIVES, RANDOM, SKILLS, TITLES
from steps.skills.measures.coverage import PUBLISHED_AUC
from steps.skills.worlds.grids import four_rooms

if TYPE_CHECKING:
    import numpy as np

PUBLISHED_STEPS = {"vic": 93, "diayn": 106}
"""Steps to the goal of focused skills as the paper's figure has them."""

PUBLISHED_CAP = 320
"""Of the paper's episodes; what its unfocused skills and its learner without skills come to."""

PUBLISHED_EPISODES = 20_000
"""Through which the paper's learners went, by the same figure."""

HEADLINE = (SKILLS, 0.0)
"""The learner of whom headline figures speak: its choices, and the Q-values that it started from."""

Data = dict[str, Any]


class Results:
    """What the steps before found, by base and mode."""

    def __init__(self, evaluations: Sequence[Data], downstream: Sequence[Data]) -> None:
        """Take results of every seed: of every base and mode, and of what stands beside them.

        Raises:
            UserError: one is missing, or there twice, so that seeds could not be paired.
        """
        self.evaluations, self.downstream = evaluations, downstream
        self.seeds = sorted({one["seed"] for one in [*evaluations, *downstream]})
        for flag, found, beside in (
            ("--evaluations", evaluations, RANDOM),
            ("--downstream", downstream, PRIMITIVES),
        ):
            sets = [*((base, mode) for base in BASES for mode in MODES), (beside, beside)]
            expected = Counter((*one, seed) for one in sets for seed in self.seeds)
            given = Counter((one["base"], one["mode"], one["seed"]) for one in found)
            if given != expected:
                base, mode, seed = min((given - expected) or (expected - given))
                raise UserError(
                    f"{flag}: found {given[base, mode, seed]} results of {base}, {mode}, seed {seed},"
                    f" expected {expected[base, mode, seed]}; pass one of every set of skills and seed"
                )

    def judged(self, base: str, mode: str) -> list[Data]:
        """Evaluations in the order of the seeds."""
        found = [one for one in self.evaluations if (one["base"], one["mode"]) == (base, mode)]
        return sorted(found, key=lambda one: one["seed"])

    def auc(self, base: str, mode: str) -> list[float]:
        """Areas under terminal coverage, by seed."""
        return [one["coverage"]["auc"] for one in self.judged(base, mode)]

    def side_effects(self, base: str, mode: str, start: str = "home") -> list[list[float]]:
        """Side effects ``[seeds, skills]``."""
        return [one[start]["side_effects"] for one in self.judged(base, mode)]

    def object_control(self, base: str, start: str = "home") -> dict[str, float]:
        """G of each object by its own skills, mean over seeds."""
        found: dict[str, list[float]] = {}
        for one in self.judged(base, "focused"):
            groups = list(dict.fromkeys(skill["group"] for skill in one["skills"]))
            for index, group in enumerate(groups):
                if group.startswith("object"):
                    found.setdefault(group, []).append(one[start]["control"][index][index])
        return {group: mean(values) for group, values in found.items()}

    def steps(self, base: str, mode: str, choices: str, initial: float) -> list[float]:
        """Steps to the goal at the end of learning, by seed."""
        found = [one for one in self.downstream if (one["base"], one["mode"]) == (base, mode)]
        return [
            learner["curve"][-1]["steps"]
            for one in sorted(found, key=lambda one: one["seed"])
            for learner in one["learners"]
            if (learner["choices"], learner["initial"]) == (choices, initial)
        ]

    def kinds(self, base: str, mode: str) -> list[tuple[str, float]]:
        """The learners that there are: choices and first Q-values."""
        found = [one for one in self.downstream if (one["base"], one["mode"]) == (base, mode)]
        return [(learner["choices"], learner["initial"]) for learner in found[0]["learners"]]


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def flat(rows: Sequence[Sequence[float]]) -> list[float]:
    """All values of all rows."""
    return [value for row in rows for value in row]


def interval(values: Sequence[float], what: str) -> Interval:
    """The mean over seeds with its interval."""
    return bootstrap_interval(_array(values), derive("skills.report", what))


def difference(results: Results, base: str) -> Interval:
    """Coverage of focused skills less that of unfocused ones, paired by seed."""
    focused, unfocused = (_array(results.auc(base, mode)) for mode in MODES)
    return paired_difference(focused, unfocused, derive("skills.report", base, "difference"))


def _array(values: Sequence[float]) -> np.ndarray:
    import numpy as np

    return np.array(values, float)


def metrics(results: Results) -> dict[str, float]:
    """The headline figures; see the module's docstring."""
    found: dict[str, float] = {}
    for base in BASES:
        effects = results.side_effects(base, "focused")
        found |= {
            f"fourrooms_{base}_side_effects_focused": mean(flat(effects)),
            f"fourrooms_{base}_side_effects_worst": mean([max(skills) for skills in effects]),
            f"fourrooms_{base}_control_min": min(results.object_control(base).values()),
            f"fourrooms_{base}_auc_focused": mean(results.auc(base, "focused")),
            f"fourrooms_{base}_auc_unfocused": mean(results.auc(base, "unfocused")),
            f"fourrooms_{base}_auc_difference_low": difference(results, base).low,
            f"fourrooms_{base}_steps_to_goal_focused": mean(results.steps(base, "focused", *HEADLINE)),
            f"fourrooms_{base}_steps_to_goal_unfocused": mean(results.steps(base, "unfocused", *HEADLINE)),
        }
    alone = results.kinds(PRIMITIVES, PRIMITIVES)
    return found | {
        "fourrooms_steps_to_goal_primitives": min(
            mean(results.steps(PRIMITIVES, PRIMITIVES, *kind)) for kind in alone
        ),
        "fourrooms_random_auc": mean(results.auc(RANDOM, RANDOM)),
        "seeds": len(results.seeds),
    }


def shown(value: Interval) -> str:
    """A mean and its interval, as text."""
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"


def tables(results: Results, settings: Data) -> list[Data]:
    """The tables of the report page."""
    return [
        coverage_table(results, settings),
        effects_table(results),
        skills_table(results),
        control_table(results),
        downstream_table(results, settings),
    ]


def coverage_table(results: Results, settings: Data) -> Data:
    """Area under coverage, ours and published."""
    rows: list[list[Any]] = []
    for base, title in TITLES.items():
        algorithm = settings["train"][base]
        for mode in MODES:
            warm = algorithm["temperatures"]
            told = (
                f"{warm['state']:g}"
                if mode == "unfocused"
                else f"{warm['binary']:g}, {warm['categorical']:g}"
            )
            judged = results.judged(base, mode)
            rows.append(
                [
                    *(title, mode, shown(interval(results.auc(base, mode), f"{base} {mode}"))),
                    *(PUBLISHED_AUC[f"{mode} {base}"], mean([_visited(one) for one in judged])),
                    *(mean([one["action_entropy"] for one in judged]), told),
                ]
            )
    chance = results.judged(RANDOM, RANDOM)
    rows.append(
        [
            *("none", "random policies", shown(interval(results.auc(RANDOM, RANDOM), RANDOM)), None),
            *(mean([_visited(one) for one in chance]), mean([one["action_entropy"] for one in chance]), ""),
        ]
    )
    return {
        "title": "Coverage by chains of skills",
        "caption": "Area under the share of 1,664 states in which chains of 1 to 5 skills end, at most 4;"
        " mean over seeds with a 95 % bootstrap interval, which is too narrow where seeds are few. Visited:"
        " of all states on the way. Entropy is that of policies, in nats: 1.61 for random actions."
        " Temperatures: of objects and position, or of all skills. The published policies' randomness is not"
        " known.",
        "columns": ["base", "skills", "area", "published", "visited", "entropy", "temperatures"],
        "rows": rows,
    }


def _visited(one: Data) -> float:
    curve = one["coverage"]["visited"]
    return float(sum(curve) - (curve[0] + curve[-1]) / 2)


def effects_table(results: Results) -> Data:
    """Side effects by base and mode, and of random policies."""
    rows: list[list[Any]] = []
    for base, mode in [*((base, mode) for base in BASES for mode in MODES), (RANDOM, RANDOM)]:
        title, name = (TITLES[base], mode) if base in BASES else ("none", "random policies")
        for start in ("home", "pooled"):
            effects, judged = results.side_effects(base, mode, start), results.judged(base, mode)
            further = [
                mean(flat([one[start][what] for one in judged])) if mode == "focused" else None
                for what in ("transient", "irreversible")
            ]
            rows.append(
                [
                    *(title, name if mode == "focused" else f"{name}: changed variables less 1", start),
                    shown(interval([mean(skills) for skills in effects], f"{base} {mode} {start} effects")),
                    *(mean([max(skills) for skills in effects]), *further),
                ]
            )
    return {
        "title": "Side effects",
        "caption": "Variables outside a skill's target that differ from the start when it ends. Unfocused"
        " skills and random policies have no target: one change is free, so their rows are not comparable"
        " with those of focused ones. Pooled: from states drawn uniformly from all that can be reached, where"
        " objects may be too far away to be fetched and brought home in time.",
        "columns": [
            *("base", "skills", "starts", "mean over skills", "worst skill"),
            *("share of steps that differ", "of those permanent"),
        ],
        "rows": rows,
    }


def skills_table(results: Results) -> Data:
    """Side effects and reliability of each focused skill, from home."""
    rows = []
    for base, title in TITLES.items():
        judged = results.judged(base, "focused")
        for index, skill in enumerate(judged[0]["skills"]):
            group = list(dict.fromkeys(one["group"] for one in judged[0]["skills"])).index(skill["group"])
            rows.append(
                [
                    *(title, skill["name"]),
                    mean([one["home"]["change"][index][group] for one in judged]),
                    mean([one["home"]["side_effects"][index] for one in judged]),
                    max(one["home"]["side_effects"][index] for one in judged),
                ]
            )
    return {
        "title": "Every focused skill",
        "caption": "From home: how often its own variable differs at the end, its side effects, and those of"
        " its worst seed.",
        "columns": ["base", "skill", "target changed", "side effects", "worst seed"],
        "rows": rows,
    }


def control_table(results: Results) -> Data:
    """Control of each object from home and from pooled starts."""
    rows = []
    for base, title in TITLES.items():
        home, pooled = (results.object_control(base, start) for start in ("home", "pooled"))
        rows += [[title, group, home[group], pooled[group]] for group in home]
    return {
        "title": "Control of objects",
        "caption": "Share of what could be known about which of an object's two skills ran that its end value"
        " tells. From pooled starts it is often held already.",
        "columns": ["base", "object", "from home", "from pooled starts"],
        "rows": rows,
    }


def shortest() -> int:
    """The fewest single actions with which the goal can be reached."""
    world = four_rooms()
    return int(world.distances(world.home)[world.goal])


def downstream_table(results: Results, settings: Data) -> Data:
    """Steps to the goal."""
    rows = []
    task, length = settings["downstream"], settings["train"]["length"]
    for base, mode in [*((b, m) for b in BASES for m in MODES), (PRIMITIVES, PRIMITIVES)]:
        for choices, initial in results.kinds(base, mode):
            steps = results.steps(base, mode, choices, initial)
            title = f"{TITLES[base]}, {mode}" if base in BASES else "no skills"
            rows.append(
                [title, choices, initial, shown(interval(steps, f"{base} {mode} {choices} {initial}"))]
            )
    return {
        "title": "Downstream: hold all objects and stand at home",
        "caption": "Steps to the goal of the best choices at the end of learning,"
        f" {task['cap']} where it was missed; mean over seeds with a 95 % bootstrap interval. Four skills,"
        f" one for each object, take {4 * length} steps, the shortest way of single actions {shortest()}."
        " Published for focused skills:"
        f" {', '.join(f'{title} {PUBLISHED_STEPS[base]}' for base, title in TITLES.items())}; for unfocused"
        f" ones and without skills {PUBLISHED_CAP}. The budgets differ: {task['episodes']:,} episodes here,"
        f" {task['at_once']:,} at a time over the same Q-values; {PUBLISHED_EPISODES:,} there.",
        "columns": ["skills", "choices", "Q-values start from", "steps to the goal"],
        "rows": rows,
    }


def summary(results: Results, numbers: dict[str, float], settings: Data) -> str:
    """What was found, in sentences."""
    chance = numbers["fourrooms_random_auc"]
    parts = [
        f"Skills of {settings['train']['length']} steps are learned in FourRooms, a map with four objects:"
        " eight for the position and two for each object when focused, sixteen that see the whole state when"
        " not. A focused skill is rewarded for one variable and charged for each other that differs when it"
        f" ends. Seeds: {len(results.seeds)}; figures are means over them, from home where nothing else is"
        " said."
    ]
    for base, title in TITLES.items():
        effects, worst = (numbers[f"fourrooms_{base}_side_effects_{name}"] for name in ("focused", "worst"))
        reach, other = (numbers[f"fourrooms_{base}_auc_{mode}"] for mode in MODES)
        gap = difference(results, base)
        pooled = results.side_effects(base, "focused", "pooled")
        control = results.object_control(base)
        hardest = min(control, key=lambda name: control[name])
        verdict = (
            "more than unfocused ones"
            if gap.low > 0
            else "less than unfocused ones"
            if gap.high < 0
            else "as much as unfocused ones, as far as these seeds can tell"
        )
        steps, plain = (numbers[f"fourrooms_{base}_steps_to_goal_{mode}"] for mode in MODES)
        parts.append(
            f"{title}. Focused skills change {effects:.3f} variables that they should leave alone, the worst"
            f" skill {worst:.3f}; from starts drawn from all states that can be reached"
            f" {mean(flat(pooled)):.3f}, the worst skill {mean([max(skills) for skills in pooled]):.3f}."
            f" Whether {hardest} is held at the end gives {100 * control[hardest]:.0f} % of the information"
            f" on which of its two skills ran, the least of all objects. Chains of focused skills cover"
            f" {verdict}: an area of {reach:.2f} against {other:.2f}"
            f" (published: {PUBLISHED_AUC[f'focused {base}']:.2f} against"
            f" {PUBLISHED_AUC[f'unfocused {base}']:.2f}), a paired difference of {gap.mean:.2f}"
            f" [{gap.low:.2f}, {gap.high:.2f}]. Sixteen random policies have {chance:.2f}. Fetching all"
            f" objects takes {steps:.0f} steps over focused skills, {plain:.0f} over unfocused ones,"
            f" {settings['downstream']['cap']} standing for a miss (published: {PUBLISHED_STEPS[base]} and"
            f" {PUBLISHED_CAP})."
        )
    parts.append(f"First Q-values. {first_values(results)}")
    return "\n\n".join(parts)


def first_values(results: Results) -> str:
    """What the first Q-values do to the task, in a sentence."""
    sets = [(PRIMITIVES, PRIMITIVES, "single actions alone")]
    sets += [(base, "focused", f"focused {title} skills") for base, title in TITLES.items()]
    told = []
    for base, mode, name in sets:
        kinds = results.kinds(base, mode)
        steps = [
            f"{mean(results.steps(base, mode, *kind)):.0f} from {kind[1]:g}"
            for kind in kinds
            if kind[0] == kinds[0][0]
        ]
        told.append(f"{name} {' and '.join(steps)}")
    return (
        f"Steps to the goal, by the Q-values that learning starts from: {'; '.join(told)}. The fewest"
        f" possible are {shortest()} with single actions; the published learner without skills stays at"
        f" {PUBLISHED_CAP}."
    )


def main(
    study: str,
    section: str,
    skills: list[Path],
    evaluations: list[Path],
    downstream: list[Path],
    metrics_out: Output,
    report: Output,
) -> None:
    """Write the chapter's results; ``section`` is its configuration as JSON."""
    for path in skills:
        Folder(path, "skills")
    settings = json.loads(section)
    results = Results([read_json(path) for path in evaluations], [read_json(path) for path in downstream])
    numbers = metrics(results)
    write_json(metrics_out, numbers)

    def headline(name: str, key: str, note: str, step: str = "skills.evaluate") -> list[Data]:
        inputs = downstream if step == "skills.downstream" else evaluations
        return [
            card(
                f"{title}: {name}",
                round(numbers[key.replace("BASE", base)], 3),
                "",
                note.replace("RIVAL", f"{numbers.get(f'fourrooms_{base}_auc_unfocused', 0):.2f}"),
                step=step,
                study=study,
                inputs=inputs,
            )
            for base, title in TITLES.items()
        ]

    write_json(
        report,
        {
            "chapter": "skills",
            "study": study,
            "title": "Focused skill discovery",
            "summary": summary(results, numbers, settings),
            "cards": [
                *headline(
                    "side effects",
                    "fourrooms_BASE_side_effects_focused",
                    "variables changed that should not be",
                ),
                *headline(
                    "control of the hardest object",
                    "fourrooms_BASE_control_min",
                    "1 if its skills do what they say",
                ),
                *headline(
                    "coverage", "fourrooms_BASE_auc_focused", "of focused skills, at most 4; unfocused RIVAL"
                ),
                *headline(
                    "steps to the goal",
                    "fourrooms_BASE_steps_to_goal_focused",
                    f"over focused skills; {settings['downstream']['cap']} where it is missed",
                    "skills.downstream",
                ),
            ],
            "figures": [
                {"file": f"figures/{name}.svg", "data": f"figures/{name}.json", "caption": caption}
                for name, caption in CAPTIONS.items()
            ],
            "tables": tables(results, settings),
            "provenance": provenance(
                [f"skills.{step}" for step in ("train", "evaluate", "downstream", "figure", "report")],
                settings,
                [*skills, *evaluations, *downstream],
            ),
        },
    )


CAPTIONS = {
    "animation": "Focused VIC skills of the first seed, one run each from home (H). Circles mark objects. Of"
    " an object's two skills, one should leave it, the other take it and come home.",
    "paths": "Runs from home on the map, first seed: a colour for each skill, dots where runs end. Position"
    " skills should end in places of their own, object skills at home.",
    "control": "Control from home, means over seeds: how much the end value of a variable tells about which"
    " of a group's skills ran. Focused skills should fill the diagonal and nothing else; below the line, all"
    " unfocused skills together, and sixteen random policies.",
    "coverage": "Share of states in which chains of skills end, one line for each seed, beside the published"
    " curves.",
    "downstream": "Learning to fetch all objects: steps to the goal of the best choices, means over seeds."
    " Solid: from Q-values of 0; dashed: from others. Thick: skills and single actions.",
    "learning": "What discriminators tell apart while skills are learned, first seed; at most log 2 = 0.69"
    " for an object, log 8 = 2.08 for the position, log 16 = 2.77 for unfocused skills.",
}


if __name__ == "__main__":
    run(main)
