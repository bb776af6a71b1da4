"""What the models reach: bits per value beside histograms, quality of samples beside real images and a rival.

Reads the images' ledger and, for each model in turn, its likelihoods and samples. Test images are what all is
measured on; nothing is chosen by them. Writes JSON:

``bits_per_dim``
    ``uniform``, ``histogram`` (places by themselves), ``class_mixture`` and ``class_conditional`` (histograms
    by class); what was added to their counts.
``by_position``
    of the histogram, ``[row][column]``, bits per value, mean over channels.
``real``, ``classwise``
    Training images, and images of class-wise independent pixels: draws as large as those of the models,
    without replacement for the former. ``frechet_distance`` to the test images and ``class_accuracy``, a list
    each.
``class_accuracy_test``
    of the classifier, on the test images.
``nearest_distance_test``
    of test images to the nearest training image: ``median``, and ``close``, below which 5 % of them are.
``models``
    a list: ``null``, ``mixture``, ``conditional`` (bits per value), ``by_position`` (null),
    ``frechet_distance`` and ``class_accuracy`` (lists, a draw each), ``guided`` (a list of ``guidance``,
    ``frechet_distance``, ``class_accuracy``), ``nearest`` (numbers of the training images nearest to the
    images of draw 0), ``nearest_distance`` (of them), ``memorised_share`` (of the images of each draw those
    nearer to a training image than ``close``).

Distances are in pixel values (``measures/quality.py``). Also ``versions`` of libraries.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.core.digest import seed as derive
from steps.core.errors import UserError
from steps.core.provenance import versions
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Folder, read_array, write_json
from steps.core.tensors import read_tensors
from steps.fractal.generators.shapes import images_of
from steps.fractal.measures.likelihoods import Histograms, conditional_bits, mixture_bits
from steps.fractal.measures.quality import CLOSE, class_accuracy, classifier, frechet_distance, nearest
from steps.fractal.measures.rivals import classwise_pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

STEP = "fractal.evaluate"


class Settings(BaseSettings):
    """How real images and the rival are drawn."""

    seed: int = Field(0, ge=0, description="of the draws of training images and of class-wise pixels")
    threads: int = Field(1, ge=1, le=1024, description="arithmetic threads")


def by_position(nats: np.ndarray) -> list[list[float]]:
    """Mean bits per value of ``[image, row, column, channel]`` at each pixel."""
    rows: list[list[float]] = (nats.astype(float).mean((0, 3)) / math.log(2)).tolist()
    return rows


def histograms(store: Folder) -> dict[str, Any]:
    """``bits_per_dim`` and ``by_position``, as in the module's docstring."""
    shape = images_of(store.attributes)
    train, labels = read_array(store, "train"), read_array(store, "train_label")
    test, truth = read_array(store, "test"), read_array(store, "test_label")
    alone = Histograms(train, 0 * labels, shape.values, 1)
    classes = Histograms(train, labels, shape.values, shape.classes)
    nats, by_class = alone.nats(test, 0 * truth), classes.by_class(test)
    values = test[0].size
    return {
        "bits_per_dim": {
            "uniform": math.log2(shape.values),
            "histogram": float(nats.mean() / math.log(2)),
            "class_mixture": mixture_bits(by_class, values),
            "class_conditional": conditional_bits(by_class, truth, values),
            "added_to_counts": alone.added,
            "added_to_counts_by_class": classes.added,
        },
        "by_position": by_position(nats),
    }


def drawn(
    store: Folder, labels: np.ndarray, draws: int, seed: int, quality: Callable[..., dict[str, float]]
) -> dict[str, Any]:
    """``real`` and ``classwise``, as in the module's docstring.

    Args:
        store: the images.
        labels: of the models' images of a draw.
        draws: how many.
        seed: of them.
        quality: of images and what they are meant to be.
    """
    import numpy as np

    train, truth = read_array(store, "train"), read_array(store, "train_label")
    found: dict[str, list[dict[str, float]]] = {"real": [], "classwise": []}
    for number in progress(range(draws), draws, "draws of real images and the rival"):
        generator = np.random.default_rng(derive(seed, STEP, number))
        chosen = generator.permutation(len(train))[: len(labels)]
        found["real"].append(quality(train[chosen], truth[chosen]))
        found["classwise"].append(quality(classwise_pixels(train, truth, labels, generator), labels))
    return {name: _by_name(each) for name, each in found.items()}


def _by_name(each: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [one[name] for one in each] for name in each[0]}


def main(images: Path, likelihoods: list[Path], samples: list[Path], settings: Settings, out: Output) -> None:
    """Evaluate models by their likelihoods and samples."""
    import numpy as np

    if not likelihoods or len(likelihoods) != len(samples):
        raise UserError(
            f"--likelihoods: found {len(likelihoods)}, and {len(samples)} --samples, expected one of each for"
            " every model"
        )
    store = Folder(images, "images")
    shape = images_of(store.attributes)
    train, train_labels = read_array(store, "train"), read_array(store, "train_label")
    test, truth = read_array(store, "test"), read_array(store, "test_label")
    scores = []
    opened = [Folder(path, "fractal_samples") for path in samples]
    for path, folder in zip(likelihoods, opened, strict=True):
        arrays, facts = read_tensors(path, kind="fractal_likelihood")
        made_from = facts["made_from"]
        if (made_from["images"], made_from["model"]) != (store.fingerprint, folder.made_from["model"]):
            raise UserError(
                f"{path}: of other images than {images} or another model than {folder.path}; give those of"
                " one study, or delete it and run snakemake again"
            )
        scores.append(arrays)
    judge = classifier(train, train_labels, shape.values)
    new = nearest(test, train)[1]
    close = float(np.quantile(new, CLOSE))

    def quality(pixels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {
            "frechet_distance": frechet_distance(pixels, test),
            "class_accuracy": class_accuracy(judge, pixels, labels, shape.values),
        }

    models = []
    for arrays, folder in progress(zip(scores, opened, strict=True), len(opened), "models evaluated"):
        plain, labels = read_array(folder, "plain"), read_array(folder, "label")
        weights = folder.attributes["guidance"]
        guided = read_array(folder, "guided") if weights else plain[:0]
        found = [nearest(pixels, train) for pixels in plain]
        numbers, distances = found[0]
        models.append(
            {
                "null": float(arrays["null"].astype(float).mean() / math.log(2)),
                "mixture": mixture_bits(arrays["by_class"], test[0].size),
                "conditional": conditional_bits(arrays["by_class"], truth, test[0].size),
                "by_position": by_position(arrays["null"]),
                **_by_name([quality(pixels, labels) for pixels in plain]),
                "guided": [
                    {"guidance": weight, **quality(pixels, labels)}
                    for weight, pixels in zip(weights, guided, strict=True)
                ],
                "nearest": numbers.tolist(),
                "nearest_distance": distances.tolist(),
                "memorised_share": [float((each < close).mean()) for _, each in found],
            }
        )
    labels, draws = read_array(opened[0], "label"), opened[0].attributes["draws"]
    write_json(
        out,
        {
            **histograms(store),
            **drawn(store, labels, draws, settings.seed, quality),
            "class_accuracy_test": class_accuracy(judge, test, truth, shape.values),
            "nearest_distance_test": {"median": float(np.median(new)), "close": close},
            "models": models,
            "versions": versions(("numpy", "scikit-learn", "scipy", "zarr")),
        },
    )


if __name__ == "__main__":
    run(main)
