"""Every figure is drawn, with the data behind it, whatever the results say."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.core.figures import save_figure
from steps.core.runner import Output
from steps.skills import figure
from steps.skills.learning.bases import BASES
from tests.skills.conftest import TINY


@pytest.fixture(scope="module")
def drawn(
    ledgers: list[Path], results: tuple[list[Path], list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    pictures = {name: Output(folder / f"{name}.svg") for name in figure.FIGURES}
    data = {name: Output(folder / f"{name}.json") for name in figure.FIGURES}
    figure.main(ledgers, *results, pictures, data)
    return folder


def read(drawn: Path, name: str) -> Any:
    return json.loads((drawn / f"{name}.json").read_text())


WORDS = {
    "animation": {"position", "object 5,5"},
    "control": {"VIC", "DIAYN", "unfocused", "random policies", "variable at the end"},
    "coverage": {"VIC", "DIAYN", "focused, ours", "focused, published", "share of states reached"},
    "downstream": {"VIC", "DIAYN", "primitives, from 1", "steps to the goal"},
    "learning": {"VIC", "DIAYN", "object 5,5", "steps in the world (millions)"},
    "paths": {"VIC: object 5,5", "DIAYN: unfocused"},
}


@pytest.mark.parametrize("name", figure.FIGURES)
def test_it_is_a_picture_of_its_data(drawn: Path, tmp_path: Path, name: str) -> None:
    """The data alone give the same bytes, in which the words are found that a reader needs."""
    picture = drawn / f"{name}.svg"
    root = ElementTree.parse(picture).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    again = figure.FIGURES[name][1](read(drawn, name))
    if isinstance(again, str):
        (tmp_path / "again.svg").write_text(again, encoding="utf-8")
    else:
        save_figure(again, Output(tmp_path / "again.svg"))
    assert (tmp_path / "again.svg").read_bytes() == picture.read_bytes()
    said = {text.strip() for text in root.itertext()}
    assert said >= WORDS[name]


def lines(ax) -> dict[str, list[float]]:  # type: ignore[no-untyped-def]
    """The heights of labelled lines."""
    return {str(line.get_label()): list(line.get_ydata()) for line in ax.lines}


def test_lines_have_the_heights_of_the_data(drawn: Path) -> None:
    data = read(drawn, "coverage")
    for ax, base in zip(figure.draw_coverage(data).axes, BASES, strict=True):
        found = lines(ax)
        assert [found["focused, ours"]] == data["ours"][f"focused {base}"]
        assert [found["unfocused, ours"]] == data["ours"][f"unfocused {base}"]
        assert [found["random policies"]] == data["ours"]["random random"]
        assert found["DUSDi, published"] == data["published"][f"dusdi {base}"]
        assert len(found) == 6
    data = read(drawn, "downstream")
    for number, curve in enumerate(data.values()):  # which in so short a task are all alike
        curve["steps"] = [number + 0.5, number]
    for ax, base in zip(figure.draw_downstream(data).axes, BASES, strict=True):
        names = {
            name: name.replace(f" {base}", "")
            for name in data
            if base in name or name.startswith("primitives")
        }
        assert lines(ax) == {label: data[name]["steps"] for name, label in names.items()}
        assert len(names) == 2 * 2 * 2 + 2
        dashed = {line.get_label() for line in ax.lines if line.get_linestyle() == "--"}
        assert dashed == {label for label in names.values() if label.endswith("from 1")}
    data = read(drawn, "learning")
    for ax, base in zip(figure.draw_learning(data).axes, BASES, strict=True):
        found = lines(ax)
        assert found["object 5,5"] == [p["reward"]["object 5,5"] for p in data[f"focused {base}"]]
        assert found["unfocused"] == [p["reward"]["state"] for p in data[f"unfocused {base}"]]
        assert len(found) == 6


def test_matrices_have_the_numbers_of_the_data(drawn: Path) -> None:
    """Rows of focused groups, unfocused skills and random policies."""
    data = read(drawn, "control")
    for ax, base in zip(figure.draw_control(data).axes, BASES, strict=True):
        rows = (
            data[base]["focused"]["control"] + data[base]["unfocused"]["control"] + data["random"]["control"]
        )
        assert ax.images[0].get_array().tolist() == rows
        assert [text.get_text() for text in ax.texts] == [
            f"{v + 0:.2f}" for row in np.round(rows, 2) for v in row
        ]
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert labels == ["position", "5,5", "7,5", "6,7", "8,7", "unfocused", "random policies"]


def test_ways_are_those_of_the_runs(drawn: Path) -> None:
    data = read(drawn, "paths")
    panels = {ax.get_title(): ax for ax in figure.draw_paths(data).axes}
    for base in BASES:
        [*_, skill] = data[base]["focused"]["object 6,7"]
        ax = panels[f"{base.upper()}: object 6,7"]
        assert len(ax.lines) == 2 * 2 * 2  # skills, runs, the way and its end
        line, end = ax.lines[-2:]
        shift = 0.5 * (0.75 - 0.5)
        expected = np.array(figure.way(skill["runs"][-1])) + shift
        assert np.stack([line.get_ydata(), line.get_xdata()], axis=1).tolist() == expected.tolist()
        assert [end.get_ydata()[0], end.get_xdata()[0]] == expected[-1].tolist()


def test_the_animation_follows_the_runs(drawn: Path, results: tuple[list[Path], list[Path]]) -> None:
    shown = json.loads((drawn / "animation.json").read_text())
    assert [len(skills) for skills in shown.values()] == [8, 2, 2, 2, 2]
    evaluation = json.loads(results[0][0].read_text())
    expected = [list(cell) for cell in figure.way(evaluation["paths"][9][0])]
    assert shown["object 5,5"][1]["cells"] == expected
    assert len(expected) == TINY.length + 1
    assert expected[0] == list(figure.START)


def test_a_cell_is_where_the_state_is() -> None:
    assert figure.way([864, 879]) == [figure.START, figure.START]  # home, with nothing and everything held


def test_an_unknown_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found 'maps', expected some of animation"):
        figure.main([], [], [], {"maps": Output(tmp_path / "maps.svg")}, {})
