"""Figures: the same bytes each time, and any text as a label."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from steps.core.figures import few_ticks, new_figure, plain_ticks, save_figure, say, say_only

HOSTILE = ["$\\frac{", "<script>alert('x')</script>", "a & b", "{x}", "naïve 日本"]


def draw(out: Path, color: str | None = None) -> bytes:
    figure, axes = new_figure(1, 2, sharey=True)
    for number, name in enumerate(HOSTILE):
        axes[0].plot([0, 1], [number, number + 1], label=name, color=color)
    axes[0].set_title(HOSTILE[0])
    axes[0].legend()
    say(axes[1], HOSTILE[1])
    save_figure(figure, out)
    return out.read_bytes()


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    once = draw(tmp_path / "a.svg")
    assert draw(tmp_path / ".a.svg.part") == once
    assert draw(tmp_path / "b.svg", color="black") != once


def test_labels_stay_the_text_they_are(tmp_path: Path) -> None:
    root = ET.fromstring(draw(tmp_path / "a.svg"))
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(HOSTILE) <= set(texts)
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_a_sentence_stands_alone_and_inside_its_panel() -> None:
    """Neither an axis through it nor beside it, and not wider than the panel."""
    sentence = "no neurons of this kind are found here, whatever the number of models and of layers may be"
    figure, axes = new_figure(1, 3, width=3.3)
    for panel in axes:
        say(panel, sentence)
    figure.draw_without_rendering()
    for panel in axes:
        assert not panel.axison
        assert panel.texts[0].get_text().replace("\n", " ") == sentence
        box, place = panel.texts[0].get_window_extent(), panel.get_window_extent()
        assert place.x0 <= box.x0 < box.x1 <= place.x1
        assert place.width > 0.9 * figure.bbox.width / 3
    alone = say_only(sentence)
    assert [panel.axison for panel in alone.axes] == [False]
    assert alone.get_figheight() < 1.5


@pytest.mark.parametrize("limits", [(0.012, 0.04), (0.01101, 0.01149), (2, 30), (0.0001, 50)])
def test_logarithmic_axes_have_numbers_however_little_they_span(limits: tuple[float, float]) -> None:
    figure, axes = new_figure(width=3.3, height=2.9)
    axes.plot(limits, limits)
    axes.set(xscale="log", yscale="log")
    plain_ticks(axes.xaxis, axes.yaxis)
    figure.draw_without_rendering()
    low, high = axes.get_xlim()
    places, labels = axes.get_xticks(), axes.get_xticklabels()
    shown = [t for p, t in zip(places, labels, strict=True) if low <= p <= high]
    assert len(shown) >= 2
    assert all(float(t.get_text()) > 0 for t in shown)
    boxes = [t.get_window_extent() for t in shown]
    assert all(a.x1 + 4 < b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize("size", [1e-5, 0.00012, 0.004, 0.3, 1, 5000])
def test_numbers_below_a_narrow_panel_do_not_meet(size: float) -> None:
    figure, axes = new_figure(width=3.3, height=2.9)
    axes.plot([-0.61 * size, 1.3 * size], [0, 1])
    few_ticks(axes.xaxis)
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_visible()]
    assert len(boxes) >= 3
    assert all(a.x1 + 4 < b.x0 for a, b in pairwise(boxes))
