"""The chapter's pictures and figures, and the data behind each.

Reads the images' ledger, the samples of the first model, and the evaluations. Draws

- ``samples.png``: for each class (a column) samples of draw 0 at guidance 1, each above the training image
  nearest to it;
- ``guidance_sweep.png``: one sample of each class (a column) at every guidance weight (a row), from the same
  random numbers;
- ``guidance.svg``: Frechet distance and class accuracy against guidance;
- ``bits_by_position.svg``: bits per value at every pixel, of the model (null) and of the histogram of places.

``NAME.json`` beside them holds what they show; the pictures' JSON names the images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.figures import check_names, few_ticks, new_figure, save_figure
from steps.core.pictures import bytes_of, grid, save_png
from steps.core.runner import Output, run
from steps.core.stores import Folder, read_array, read_json, write_json
from steps.fractal.generators.shapes import Images, images_of
from steps.fractal.measures.quality import QUALITY, mean

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

SHOWN = 4
"""Samples of each class beside their nearest training images."""

WIDTH = 640
"""Of pictures in pixels, roughly."""

CLASSES = 10
"""Of which samples are shown, at most."""


def columns_of(labels: np.ndarray, rows: int) -> list[list[int]]:
    """The numbers of the first images of each class shown, ``[row][class]``."""
    import numpy as np

    found = [np.flatnonzero(labels == label)[:rows].tolist() for label in np.unique(labels)[:CLASSES]]
    return [list(row) for row in zip(*found, strict=False)]


def factor_of(columns: int, side: int) -> int:
    """How many times images are enlarged so that a row of them has about ``WIDTH`` pixels."""
    return max(1, round(WIDTH / (columns * side + columns - 1)))


def beside_nearest(
    samples: np.ndarray, train: np.ndarray, nearest: list[int], chosen: list[list[int]]
) -> Any:
    """Samples ``[row][class]``, each above the nearest training image, as ``[2 rows, classes, ...]``."""
    import numpy as np

    numbers = np.array(nearest)
    pairs = [images for row in chosen for images in (samples[row], train[numbers[row]])]
    return np.stack(pairs)


def draw_guidance(data: dict[str, Any]) -> Figure:
    """Frechet distance and class accuracy against guidance."""
    figure, (left, right) = new_figure(1, 2, width=3.6, height=2.8)
    weights = [point["guidance"] for point in data["points"]]
    for axes, name, label in (
        (left, "frechet_distance", "Frechet distance to test images"),
        (right, "class_accuracy", "class accuracy"),
    ):
        axes.plot(weights, [point[name] for point in data["points"]], marker="o", label="samples")
        for style, (what, value) in zip(("--", ":"), data["lines"][name].items(), strict=False):
            axes.axhline(value, color="#555555", linestyle=style, linewidth=1, label=what)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("guidance weight")
        axes.set_ylabel(label)
        axes.legend(fontsize=8)
        few_ticks(axes.xaxis)
    return figure


def draw_positions(data: dict[str, Any]) -> Figure:
    """Bits per value at every pixel, on one scale."""
    figure, both = new_figure(1, 2, width=3.4, height=3.0)
    most = max(max(map(max, rows)) for rows in data.values())
    for axes, (name, rows) in zip(both, data.items(), strict=True):
        axes.grid(visible=False)
        shown = axes.imshow(rows, vmin=0, vmax=most)
        mean = sum(map(sum, rows)) / sum(map(len, rows))
        axes.set_title(f"{name}: {mean:.2f} bits")
        axes.set_xlabel("column")
        axes.set_ylabel("row")
        few_ticks(axes.xaxis, axes.yaxis)
    figure.colorbar(shown, ax=both, label="bits per value")
    return figure


@dataclass(frozen=True)
class Study:
    """What is drawn, of the first model."""

    samples: Folder
    evaluations: dict[str, Any]
    shape: Images
    classes: list[str]
    """Their names."""
    labels: np.ndarray
    """Of the samples of a draw."""
    plain: np.ndarray
    """Samples of draw 0, as bytes."""
    train: np.ndarray
    """Training images, as bytes."""

    @property
    def first(self) -> dict[str, Any]:
        """The evaluation of the first model."""
        model: dict[str, Any] = self.evaluations["models"][0]
        return model

    def chosen(self) -> list[list[int]]:
        """The numbers of the samples shown, ``[row][class]``."""
        return columns_of(self.labels, SHOWN)

    def factor(self) -> int:
        """How many times images are enlarged."""
        return factor_of(len(self.chosen()[0]), self.shape.side)


def samples(study: Study, picture: Output) -> Any:
    """``samples``: the picture, and what it shows."""
    chosen, factor, first = study.chosen(), study.factor(), study.first
    within = max(1, factor // 3)
    gaps = [within, *(gap for _ in chosen[1:] for gap in (3 * factor, within))]
    save_png(grid(beside_nearest(study.plain, study.train, first["nearest"], chosen), factor, gaps), picture)
    return [
        {
            "class": study.classes[study.labels[number]],
            "image": number,
            "nearest_training_image": first["nearest"][number],
            "distance": first["nearest_distance"][number],
        }
        for row in chosen
        for number in row
    ]


def guidance_sweep(study: Study, picture: Output) -> Any:
    """``guidance_sweep``: the picture, and what it shows."""
    import numpy as np

    weights, row = study.samples.attributes["guidance"], study.chosen()[0]
    swept = [study.plain[row]]
    if weights:
        swept += [bytes_of(pixels[row], study.shape.values) for pixels in read_array(study.samples, "guided")]
    order = np.argsort([1.0, *weights], kind="stable")
    save_png(grid(np.stack(swept)[order], study.factor()), picture)
    return {
        "guidance": [[1.0, *weights][place] for place in order],
        "image": row,
        "class": [study.classes[study.labels[number]] for number in row],
    }


def guidance(study: Study, picture: Output) -> Any:
    """``guidance``: the figure, and what it shows."""
    found, first = study.evaluations, study.first
    plain_point = {"guidance": 1.0, **{name: mean(first[name]) for name in QUALITY}}
    data = {
        "points": sorted([plain_point, *first["guided"]], key=lambda point: point["guidance"]),
        "lines": {
            "frechet_distance": {
                "class-wise pixels": mean(found["classwise"]["frechet_distance"]),
                "training images": mean(found["real"]["frechet_distance"]),
            },
            "class_accuracy": {"test images": found["class_accuracy_test"]},
        },
    }
    save_figure(draw_guidance(data), picture)
    return data


def bits_by_position(study: Study, picture: Output) -> Any:
    """``bits_by_position``: the figure, and what it shows."""
    data = {
        "model (null)": study.first["by_position"],
        "histogram": study.evaluations["by_position"],
    }
    save_figure(draw_positions(data), picture)
    return data


FIGURES: dict[str, tuple[str, Callable[[Study, Output], Any]]] = {
    "samples": ("png", samples),
    "guidance_sweep": ("png", guidance_sweep),
    "guidance": ("svg", guidance),
    "bits_by_position": ("svg", bits_by_position),
}
"""The kind of file of each, and what draws it and gives its data."""


def main(
    images: Path, samples: Path, evaluations: Path, figures: dict[str, Output], data: dict[str, Output]
) -> None:
    """Draw what ``figures`` names."""
    check_names(figures, data, list(FIGURES))
    store, drawn = Folder(images, "images"), Folder(samples, "fractal_samples")
    shape = images_of(store.attributes)
    study = Study(
        samples=drawn,
        evaluations=read_json(evaluations),
        shape=shape,
        classes=store.attributes["classes"],
        labels=read_array(drawn, "label"),
        plain=bytes_of(read_array(drawn, "plain")[0], shape.values),
        train=bytes_of(read_array(store, "train"), shape.values),
    )
    for name, picture in figures.items():
        write_json(data[name], FIGURES[name][1](study, picture))


if __name__ == "__main__":
    run(main)
