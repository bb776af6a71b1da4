"""Grids: every pixel where it belongs. Animations: whole SVG without a script, still where that is wished."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steps.core.pictures import CELL, Mark, Panel, animation, bytes_of, grid, save_png

SVG = "{http://www.w3.org/2000/svg}"
WAY = [(0, 0), (0, 1), (1, 1)]


def test_values_fill_the_bytes() -> None:
    assert bytes_of(np.arange(17), 17)[[0, 1, 8, 16]].tolist() == [0, 16, 128, 255]
    assert bytes_of(np.arange(256), 256).tolist() == list(range(256))


def test_images_lie_in_rows_and_columns_with_gaps() -> None:
    images = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2, 1).astype(np.uint8)
    picture = grid(images, 3)
    assert picture.shape == (2 * 6 + 3, 3 * 6 + 2 * 3, 1)
    for row, column in np.ndindex(2, 3):
        top, left = row * 9, column * 9
        part = picture[top : top + 6, left : left + 6, 0]
        assert (part == images[row, column, :, :, 0].repeat(3, 0).repeat(3, 1)).all()
    assert (picture[6:9] == 255).all()
    assert (picture[:, 6:9] == 255).all()


def test_gaps_before_rows() -> None:
    images = np.zeros((3, 1, 1, 1, 1), np.uint8)
    picture = grid(images, 2, gaps=[1, 4], background=9)
    assert picture[:, 0, 0].tolist() == [0, 0, 9, 0, 0, 9, 9, 9, 9, 0, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_read_back(tmp_path: Path, channels: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    save_png(picture, tmp_path / ".a.png.part")  # as outputs are called until they are whole
    with Image.open(tmp_path / ".a.png.part") as image:
        assert image.format == "PNG"
        assert (np.asarray(image).reshape(picture.shape) == picture).all()
    first = (tmp_path / ".a.png.part").read_bytes()
    save_png(picture, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == first


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
