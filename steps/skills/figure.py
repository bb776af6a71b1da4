"""The figures of the chapter, drawn from what the other steps wrote (docs/skills.md).

Reads evaluations and downstream results, JSON, and the learning curves beside the ledgers of skills. Writes a
picture (SVG) for each name in ``FIGURES``, and beside it the data that it shows (JSON).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, check_names, legend_below, new_figure, save_figure, whole_numbers
from steps.core.pictures import Mark, Panel, animation
from steps.core.runner import Output, run
from steps.core.stores import Folder, read_json, write_json
from steps.skills.learning.bases import BASES, BOTH, MODES, PRIMITIVES, RANDOM, TITLES
from steps.skills.learning.focus import STATE
from steps.skills.measures.coverage import PUBLISHED, PUBLISHED_AUC
from steps.skills.worlds.grids import FOUR_ROOMS, OBJECTS, START, four_rooms, free_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WALL, FLOOR, OBJECT, HOME = "#4a4a4a", "#f6f6f6", "#ffd98a", "#cfe8ff"
SECONDS = 8.0
"""Of a round of the animation."""

Data = dict[str, Any]


def cells() -> list[list[str]]:
    """The colours of the map."""
    colours = [[WALL if mark == "#" else FLOOR for mark in row] for row in FOUR_ROOMS]
    for y, x in OBJECTS:
        colours[y][x] = OBJECT
    colours[START[0]][START[1]] = HOME
    return colours


def way(states: Sequence[int]) -> list[tuple[int, int]]:
    """The cells of a run."""
    free, values = free_cells(), four_rooms().schema.values
    return [free[values[state, 0]] for state in states]


def mean_over_seeds(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each column."""
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def of(evaluations: Sequence[Data], base: str, mode: str) -> list[Data]:
    """The results of a base and mode, one for each seed."""
    return [one for one in evaluations if (one["base"], one["mode"]) == (base, mode)]


def paths_data(evaluations: list[Data], downstream: list[Data], curves: list[Data]) -> Data:
    """The runs from home of the first seed, by base and group: states."""
    return {
        base: {
            mode: {
                group: [
                    {"skill": skill["name"], "runs": runs}
                    for skill, runs in zip(one["skills"], one["paths"], strict=True)
                    if skill["group"] == group
                ]
                for group in dict.fromkeys(skill["group"] for skill in one["skills"])
            }
            for mode in MODES
            for one in of(evaluations, base, mode)[:1]
        }
        for base in BASES
    }


def draw_paths(data: Data) -> Figure:
    """Runs on the map: a row for each base, a panel for each group of skills."""
    import matplotlib.colors
    import numpy as np

    panels = {
        base: [(mode, group) for mode, groups in data[base].items() for group in groups] for base in BASES
    }
    columns = max(map(len, panels.values()))
    figure, axes = new_figure(len(BASES), columns, width=2.1, height=2.3, squeeze=False)
    shown = np.array([[matplotlib.colors.to_rgb(colour) for colour in row] for row in cells()])
    for base, row in zip(BASES, axes, strict=True):
        for ax, (mode, group) in zip(row, panels[base], strict=True):
            ax.imshow(shown)
            skills = data[base][mode][group]
            colours = COLOURS if len(skills) <= len(COLOURS) else _many(len(skills))
            for number, skill in enumerate(skills):
                shift = 0.5 * ((number + 0.5) / len(skills) - 0.5)
                for states in skill["runs"]:
                    y, x = np.array(way(states), float).T
                    ax.plot(x + shift, y + shift, color=colours[number], linewidth=0.7, alpha=0.7)
                    ax.plot(x[-1:] + shift, y[-1:] + shift, "o", color=colours[number], markersize=2.5)
            name = "unfocused" if group == STATE else group
            ax.set_title(f"{TITLES[base]}: {name}", fontsize=8)
            ax.set_axis_off()
    return figure


def _many(count: int) -> list[Any]:
    import matplotlib

    return [matplotlib.colormaps["turbo"](index / (count - 1)) for index in range(count)]


def control_data(evaluations: list[Data], downstream: list[Data], curves: list[Data]) -> Data:
    """Control from home, means over seeds: rows are groups of skills, columns variables."""

    def mean(found: list[Data]) -> Data:
        return {
            "groups": list(dict.fromkeys(skill["group"] for skill in found[0]["skills"])),
            "control": [
                mean_over_seeds(rows) for rows in zip(*(one["home"]["control"] for one in found), strict=True)
            ],
        }

    return {base: {mode: mean(of(evaluations, base, mode)) for mode in MODES} for base in BASES} | {
        RANDOM: mean(of(evaluations, RANDOM, RANDOM)),
        "variables": [variable.name for variable in four_rooms().schema.variables],
    }


def draw_control(data: Data) -> Figure:
    """Control matrices side by side: all groups of focused skills, unfocused ones, random policies."""
    import numpy as np

    figure, axes = new_figure(1, len(BASES), width=4.4, height=4.1)
    names = [name.replace("object ", "") for name in data["variables"]]
    for base, ax in zip(BASES, axes, strict=True):
        matrix = np.array(
            [row for mode in MODES for row in data[base][mode]["control"]] + data[RANDOM]["control"]
        )
        labels = [
            "unfocused" if group == STATE else group.replace("object ", "")
            for mode in MODES
            for group in data[base][mode]["groups"]
        ] + ["random policies"]
        ax.imshow(matrix, vmin=0, vmax=1)
        for (y, x), value in np.ndenumerate(matrix):
            colour = "white" if value < 0.6 else "black"
            ax.text(x, y, f"{round(value, 2) + 0:.2f}", ha="center", va="center", color=colour, fontsize=8)
        ax.axhline(len(data[base]["focused"]["groups"]) - 0.5, color="white", linewidth=2)
        ax.set_xticks(range(len(names)), names)
        ax.set_yticks(range(len(labels)), labels)
        ax.grid(False)
        ax.set_xlabel("variable at the end")
        ax.set_ylabel("skills for")
        ax.set_title(TITLES[base])
    return figure


def coverage_data(evaluations: list[Data], downstream: list[Data], curves: list[Data]) -> Data:
    """Terminal coverage by chain length, by seed, and as published."""
    ours = {
        f"{mode} {base}".strip(): [one["coverage"]["terminal"] for one in found]
        for base, mode in [(b, m) for b in BASES for m in MODES] + [(RANDOM, RANDOM)]
        if (found := of(evaluations, base, mode))
    }
    return {
        "ours": ours,
        "published": {name: list(curve) for name, curve in PUBLISHED.items()},
        "published_auc": PUBLISHED_AUC,
    }


def draw_coverage(data: Data) -> Figure:
    """Coverage against chain length, beside the published curves."""
    figure, axes = new_figure(1, len(BASES), width=4.4, height=3.6, sharey=True)
    for base, ax in zip(BASES, axes, strict=True):
        for mode, colour in zip((*MODES, RANDOM), COLOURS, strict=False):
            name = f"{mode} {RANDOM if mode == RANDOM else base}"
            for number, curve in enumerate(data["ours"].get(name, ())):
                ax.plot(
                    range(1, len(curve) + 1),
                    curve,
                    color=colour,
                    linewidth=1,
                    label=None if number else ("random policies" if mode == RANDOM else f"{mode}, ours"),
                )
        for mode, colour in (("focused", COLOURS[0]), ("unfocused", COLOURS[1]), ("dusdi", COLOURS[3])):
            curve = [float("nan") if v is None else v for v in data["published"][f"{mode} {base}"]]
            named = "DUSDi" if mode == "dusdi" else mode
            ax.plot(
                range(1, len(curve) + 1), curve, "o:", color=colour, markersize=3, label=f"{named}, published"
            )
        ax.xaxis.set_major_locator(whole_numbers())
        ax.set_xlabel("skills in the chain, at most")
        ax.set_title(TITLES[base])
        legend_below(ax)
    axes[0].set_ylabel("share of states reached")
    return figure


def downstream_data(evaluations: list[Data], downstream: list[Data], curves: list[Data]) -> Data:
    """Steps to the goal by episodes, means over seeds, of every kind of learner."""
    found: dict[str, list[list[Data]]] = {}
    for one in downstream:
        for learner in one["learners"]:
            name = f"{one['mode']} {one['base']}" if one["mode"] != one["base"] else ""
            key = ", ".join(filter(None, [name, learner["choices"], f"from {learner['initial']:g}"]))
            found.setdefault(key, []).append(learner["curve"])
    return {
        name: {
            "episodes": [point["episodes"] for point in seeds[0]],
            "steps": mean_over_seeds([[point["steps"] for point in curve] for curve in seeds]),
        }
        for name, seeds in found.items()
    }


def draw_downstream(data: Data) -> Figure:
    """Steps to the goal against episodes: a panel for each base."""
    figure, axes = new_figure(1, len(BASES), width=4.6, height=4.2, sharey=True)
    colours = {"focused": COLOURS[0], "unfocused": COLOURS[1], PRIMITIVES: COLOURS[6]}
    for base, ax in zip(BASES, axes, strict=True):
        for name, curve in data.items():
            kind = name.partition(" ")[0].rstrip(",")
            if kind != PRIMITIVES and f" {base}," not in name:
                continue
            style = "-" if name.endswith("from 0") else "--"
            width = 2.2 if f"{BOTH}," in name else 1.1
            label = name.replace(f" {base}", "")
            ax.plot(
                curve["episodes"], curve["steps"], style, color=colours[kind], linewidth=width, label=label
            )
        ax.set_xlabel("episodes")
        ax.set_title(TITLES[base])
        legend_below(ax, 1)
    axes[0].set_ylabel("steps to the goal")
    return figure


def learning_data(evaluations: list[Data], downstream: list[Data], curves: list[Data]) -> Data:
    """What discriminators tell apart, by steps in the world: the first seed of every base and mode."""
    found: Data = {}
    for one in curves:
        found.setdefault(f"{one['mode']} {one['base']}", one["curve"])
    return found


def draw_learning(data: Data) -> Figure:
    """Learning curves: information about the skill, in nats, by group."""
    figure, axes = new_figure(1, len(BASES), width=4.4, height=3.6, sharey=True)
    for base, ax in zip(BASES, axes, strict=True):
        for mode in MODES:
            curve = data[f"{mode} {base}"]
            steps = [point["steps"] / 1e6 for point in curve]
            for group in curve[0]["reward"]:
                label = "unfocused" if group == STATE else group
                style = "--" if group == STATE else "-"
                ax.plot(steps, [point["reward"][group] for point in curve], style, label=label)
        ax.set_xlabel("steps in the world (millions)")
        ax.set_title(TITLES[base])
        legend_below(ax, 3)
    axes[0].set_ylabel("log q(skill | value) - log p(skill), nats")
    return figure


def animation_data(evaluations: list[Data], downstream: list[Data], curves: list[Data]) -> Data:
    """One run from home of each focused VIC skill of the first seed, by group: cells."""
    focused = paths_data(evaluations, downstream, curves)["vic"]["focused"]
    return {
        group: [{"skill": skill["skill"], "cells": way(skill["runs"][0])} for skill in skills]
        for group, skills in focused.items()
    }


def draw_animation(data: Data) -> str:
    """All groups at once, skill by skill."""
    signs = [(y, x, "○") for y, x in OBJECTS] + [(*START, "H")]
    panels = [
        Panel(
            group,
            cells(),
            signs,
            [
                Mark([(y, x) for y, x in skill["cells"]], (*COLOURS, "#a6761d", "#e7298a")[number % 9])
                for number, skill in enumerate(skills)
            ],
        )
        for group, skills in data.items()
    ]
    caption = "Focused VIC skills moving on the map of four rooms, one panel for each variable"
    return animation(panels, caption, SECONDS)


FIGURES: dict[str, tuple[Callable[..., Data], Callable[[Data], Any]]] = {
    "animation": (animation_data, draw_animation),
    "control": (control_data, draw_control),
    "coverage": (coverage_data, draw_coverage),
    "downstream": (downstream_data, draw_downstream),
    "learning": (learning_data, draw_learning),
    "paths": (paths_data, draw_paths),
}
"""What is drawn: the data of each figure, and how it is drawn from them."""


def main(
    skills: list[Path],
    evaluations: list[Path],
    downstream: list[Path],
    figures: dict[str, Output],
    data: dict[str, Output],
) -> None:
    """Draw figures, each known by the name of its file."""
    check_names(figures, data, tuple(FIGURES))
    folders = [Folder(path, "skills") for path in skills]
    curves = [
        {
            "base": f.attributes["base"],
            "mode": f.attributes["mode"],
            "curve": read_json(f.check("curve.json")),
        }
        for f in folders
    ]
    judged, learned = [read_json(path) for path in evaluations], [read_json(path) for path in downstream]
    for name, out in figures.items():
        collect, draw = FIGURES[name]
        shown = collect(judged, learned, curves)
        write_json(data[name], shown)
        drawn = draw(shown)
        if isinstance(drawn, str):
            out.write_text(drawn, encoding="utf-8")
        else:
            save_figure(drawn, out)


if __name__ == "__main__":
    run(main)
