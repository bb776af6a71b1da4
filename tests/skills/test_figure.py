"""Every figure is drawn, with the data behind it, whatever the results say."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.skills import figure
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


@pytest.mark.parametrize("name", figure.FIGURES)
def test_it_is_a_picture_of_its_data(drawn: Path, name: str) -> None:
    root = ElementTree.parse(drawn / f"{name}.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    shown = json.loads((drawn / f"{name}.json").read_text())
    assert shown
    again = figure.FIGURES[name][1](shown)  # from the file alone
    if isinstance(again, str):
        assert again == (drawn / f"{name}.svg").read_text()


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
