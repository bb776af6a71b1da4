"""Animations are whole SVG without a script, whatever their texts hold, and move nobody who asks for rest."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from steps.core.pictures import CELL, Mark, Panel, animation

SVG = "{http://www.w3.org/2000/svg}"
WAY = [(0, 0), (0, 1), (1, 1)]


def drawn(title: str = "a <b> & \"c\" 'd'", columns: int = 3) -> str:
    marks = [Mark(WAY, "#00f"), Mark(WAY, "#f00")]
    panel = Panel(title, [["#fff", "#eee"], ["#ddd", "#ccc"]], [(1, 0, "<")], marks)
    return animation([panel, panel], title, seconds=5, columns=columns)


def test_it_is_xml_with_all_texts_as_they_are() -> None:
    root = ElementTree.fromstring(drawn())
    assert root.tag == f"{SVG}svg"
    texts = [node.text for node in root.iter(f"{SVG}text")]
    assert texts == ["a <b> & \"c\" 'd'", "<"] * 2
    assert root.get("aria-label") == "a <b> & \"c\" 'd'"
    assert not list(root.iter(f"{SVG}script"))
    assert len(list(root.iter(f"{SVG}rect"))) == 2 * 4 + 1


def test_marks_move_through_their_places_and_stand_at_the_last() -> None:
    text = drawn()
    root = ElementTree.fromstring(text)
    circles = list(root.iter(f"{SVG}circle"))
    assert len({circle.get("id") for circle in circles}) == len(circles) == 4
    last = f"translate({1.5 * CELL:g} {1.5 * CELL:g})"
    assert {circle.get("transform") for circle in circles} == {last}
    places = re.search(r"@keyframes m1-0\{(.*?\})\}", text)
    assert places is not None
    percents = re.findall(r"([\d.]+)%\{transform:translate\((\d+)px,(\d+)px\)\}", places[1])
    assert [float(percent) for percent, _, _ in percents] == [0, 40, 80, 100]
    assert [(int(y) // CELL, int(x) // CELL) for _, x, y in percents] == [*WAY, WAY[-1]]


def test_motion_is_for_those_who_have_not_asked_for_less() -> None:
    style = ElementTree.fromstring(drawn()).find(f"{SVG}style")
    assert style is not None
    assert style.text is not None
    before, moving = style.text.split("@media (prefers-reduced-motion: no-preference)")
    assert "animation" not in before
    assert moving.count("animation:") == 4


def test_panels_fill_rows() -> None:
    wide, high = (ElementTree.fromstring(drawn(columns=n)) for n in (2, 1))
    assert float(wide.get("width") or 0) == 2 * float(high.get("width") or 0)
    assert float(high.get("height") or 0) == 2 * float(wide.get("height") or 0)
