"""The chapter's pictures and figures, and the data behind each.

Reads the images' ledger, the samples of the first model, and the evaluations. Draws

- ``samples.png``: for each class (a column) samples of draw 0 at guidance 1, each above the training image
  nearest to it;
- ``guidance_sweep.png``: one sample of each class (a column) at every guidance weight (a row), from the same
  random
  numbers;
- ``guidance.svg``: Frechet distance and class accuracy against guidance;
- ``bits_by_position.svg``: bits per value at every pixel, of the model (null) and of the histogram of places.

``NAME.json`` beside them holds what they show; the pictures' JSON names the images.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.core.figures import few_ticks, new_figure, save_figure
from steps.core.pictures import bytes_of, grid, save_png
from steps.core.runner import Output, run
from steps.core.stores import Folder, read_array, read_json, write_json
from steps.fractal.generators.shapes import images_of

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


def main(
    images: Path, samples: Path, evaluations: Path, pictures: dict[str, Output], data: dict[str, Output]
) -> None:
    """Draw everything."""
    import numpy as np

    names = ["bits_by_position", "guidance", "guidance_sweep", "samples"]
    for flag, given in (("--pictures", pictures), ("--data", data)):
        if sorted(given) != names:
            raise UserError(f"{flag}: found {', '.join(given)}, expected {', '.join(names)}")
    store, drawn = Folder(images, "images"), Folder(samples, "fractal_samples")
    shape, classes = images_of(store.attributes), store.attributes["classes"]
    found = read_json(evaluations)
    first = found["models"][0]
    labels, plain = read_array(drawn, "label"), bytes_of(read_array(drawn, "plain")[0], shape.values)
    train = bytes_of(read_array(store, "train"), shape.values)

    chosen = columns_of(labels, SHOWN)
    factor = factor_of(len(chosen[0]), shape.side)
    within = max(1, factor // 3)
    gaps = [within, *(gap for _ in chosen[1:] for gap in (3 * factor, within))]
    save_png(grid(beside_nearest(plain, train, first["nearest"], chosen), factor, gaps), pictures["samples"])
    write_json(
        data["samples"],
        [
            {
                "class": classes[labels[number]],
                "image": number,
                "nearest_training_image": first["nearest"][number],
                "distance": first["nearest_distance"][number],
            }
            for row in chosen
            for number in row
        ],
    )

    weights = drawn.attributes["guidance"]
    row = chosen[0]
    swept = [plain[row]]
    if weights:
        swept += [bytes_of(pixels[row], shape.values) for pixels in read_array(drawn, "guided")]
    order = np.argsort([1.0, *weights], kind="stable")
    save_png(grid(np.stack(swept)[order], factor), pictures["guidance_sweep"])
    write_json(
        data["guidance_sweep"],
        {
            "guidance": [[1.0, *weights][place] for place in order],
            "image": row,
            "class": [classes[labels[number]] for number in row],
        },
    )

    plain_point = {"guidance": 1.0, **{name: _mean(first[name]) for name in QUALITY}}
    points = sorted([plain_point, *first["guided"]], key=lambda point: point["guidance"])
    lines = {
        "frechet_distance": {
            "class-wise pixels": _mean(found["classwise"]["frechet_distance"]),
            "training images": _mean(found["real"]["frechet_distance"]),
        },
        "class_accuracy": {"test images": found["class_accuracy_test"]},
    }
    curves = {"points": points, "lines": lines}
    write_json(data["guidance"], curves)
    save_figure(draw_guidance(curves), pictures["guidance"])

    positions = {"model (null)": first["by_position"], "histogram": found["by_position"]}
    write_json(data["bits_by_position"], positions)
    save_figure(draw_positions(positions), pictures["bits_by_position"])


QUALITY = ("frechet_distance", "class_accuracy")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    run(main)
