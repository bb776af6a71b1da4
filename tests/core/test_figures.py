"""Figures: the same bytes each time, and any text as a label."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from steps.core.figures import new_figure, save_figure, say

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
