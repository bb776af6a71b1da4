"""The chapter's headline figures and its part of the report page.

Reads the ledgers of images and models (in the order of the evaluations: all seeds of the first model, then
those of the next) and the evaluations. Writes ``metrics.json``, which is about the first model, as means over
its seeds:

===============================  =============================================================================
name                             contents
===============================  =============================================================================
``models``, ``seeds``            how many models; how many seeds of each
``parameters``                   of the first model
``training_images``              trained on
``test_images``                  measured on
``bits_per_dim``                 bits per value of the test images, the class not said (null)
``bits_per_dim_mixture``         the same where each class is as likely as the others
``bits_per_dim_conditional``     the same given the class
``uniform_bits_per_dim``         of values that are all alike
``histogram_bits_per_dim``       of a histogram for each place
``class_mixture_bits_per_dim``   of a histogram for each place and class, each class as likely as the others
``frechet_distance``             of samples to the test images, in pixel values; mean over draws
``frechet_distance_real``        of training images
``frechet_distance_classwise``   of class-wise independent pixels
``class_accuracy``               share of samples that a classifier takes for their class; mean over draws
``class_accuracy_real``          the classifier's own, on the test images
===============================  =============================================================================

and ``report.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steps.core.errors import UserError
from steps.core.provenance import card, provenance
from steps.core.runner import Output, run
from steps.core.stores import Folder, read_json, write_json
from steps.core.text import plural
from steps.fractal.measures.quality import CLOSE, QUALITY, mean

STEPS = ("images", "train", "likelihood", "sample", "evaluate", "figure", "report")


def of_first(found: dict[str, Any], names: list[str]) -> list[dict[str, Any]]:
    """The evaluations of the first model, one for each seed; arguments as in :func:`metrics`."""
    return [model for model, name in zip(found["models"], names, strict=True) if name == names[0]]


def metrics(found: dict[str, Any], names: list[str], sizes: dict[str, int]) -> dict[str, Any]:
    """The headline figures.

    Args:
        found: the evaluations.
        names: of the models evaluated, in their order; each as often as it has seeds.
        sizes: ``parameters``, ``training_images`` and ``test_images``.
    """
    first = of_first(found, names)
    bits = found["bits_per_dim"]
    return {
        "models": len(set(names)),
        "seeds": len(first),
        **sizes,
        "bits_per_dim": mean([model["null"] for model in first]),
        "bits_per_dim_mixture": mean([model["mixture"] for model in first]),
        "bits_per_dim_conditional": mean([model["conditional"] for model in first]),
        "uniform_bits_per_dim": bits["uniform"],
        "histogram_bits_per_dim": bits["histogram"],
        "class_mixture_bits_per_dim": bits["class_mixture"],
        "frechet_distance": mean([mean(model["frechet_distance"]) for model in first]),
        "frechet_distance_real": mean(found["real"]["frechet_distance"]),
        "frechet_distance_classwise": mean(found["classwise"]["frechet_distance"]),
        "class_accuracy": mean([mean(model["class_accuracy"]) for model in first]),
        "class_accuracy_real": found["class_accuracy_test"],
    }


def summary(numbers: dict[str, Any], found: dict[str, Any], names: list[str]) -> str:
    """What was found, in sentences, misses included: of the first model, means over its seeds.

    Args:
        numbers: the headline figures.
        found: the evaluations.
        names: as in :func:`metrics`.
    """
    first = of_first(found, names)
    gained = numbers["histogram_bits_per_dim"] - numbers["bits_per_dim"]
    likelihood = (
        f"A model of {numbers['parameters']:,} parameters, trained on {numbers['training_images']:,} images,"
        f" needs {numbers['bits_per_dim']:.3f} bits per value for {numbers['test_images']} test images when"
        f" the class is not said: {abs(gained):.3f} {'less' if gained > 0 else 'more'} than a histogram of"
        f" every place. Given the class it needs {numbers['bits_per_dim_conditional']:.3f}."
    )
    ahead = numbers["class_mixture_bits_per_dim"] - numbers["bits_per_dim_mixture"]
    likelihood += (
        f" As a mixture over classes it needs {numbers['bits_per_dim_mixture']:.3f}, {abs(ahead):.3f}"
        f" {'less' if ahead > 0 else 'more'} than histograms by class."
    )
    real, rival = numbers["frechet_distance_real"], numbers["frechet_distance_classwise"]
    distance, right = numbers["frechet_distance"], numbers["class_accuracy"]
    fooled = mean(found["classwise"]["class_accuracy"])
    quality = (
        f"Samples have a Frechet distance of {distance:.0f} to the test images,"
        f" {'closer' if distance < rival else 'no closer'} than class-wise independent pixels ({rival:.0f}),"
        f" and {distance / real:.1f} times that of real training images ({real:.0f}). A classifier that is"
        f" right on {numbers['class_accuracy_real']:.1%} of the test images takes {right:.1%} of the samples"
        f" for what they are meant to be: {1 - right:.1%} miss their class. It takes"
        f" {fooled:.1%} of the class-wise pixels for theirs"
    )
    if fooled > right and distance < rival:
        quality += ", more than of the samples, which are closer to the test images: class accuracy alone"
        quality += " says little"
    quality += "."
    guided = [
        {name: mean([point[name] for point in points]) for name in ("guidance", *QUALITY)}
        for points in zip(*(model["guided"] for model in first), strict=True)
    ]
    if guided:
        best = max(guided, key=lambda point: point["class_accuracy"])
        quality += (
            f" At guidance {best['guidance']:g}, {best['class_accuracy']:.1%} of the samples are what they"
            f" are meant to be, at a Frechet distance of {best['frechet_distance']:.0f}."
        )
    share = mean([mean(model["memorised_share"]) for model in first])
    copies = (
        f"{share:.1%} of the samples are less than {found['nearest_distance_test']['close']:.1f} from a"
        f" training image (Euclidean, in pixel values), as {CLOSE:.0%} of the test images are:"
        f" {'a' if share > CLOSE else 'no'} sign of copying."
    )
    return "\n\n".join([likelihood, quality, copies])


def tables(numbers: dict[str, Any], found: dict[str, Any], runs: list[str]) -> list[dict[str, Any]]:
    """The tables of the page: bits per value, quality, guidance."""
    bits, none = found["bits_per_dim"], None
    return [
        {
            "title": "Bits per value of the test images",
            "caption": "Lower is better. Compare within a column: the class is not said (null), each class is"
            " as likely as the others (mixture), or it is given (conditional).",
            "columns": ["", "null", "mixture", "conditional"],
            "rows": [
                *(
                    [run, model["null"], model["mixture"], model["conditional"]]
                    for run, model in zip(runs, found["models"], strict=True)
                ),
                ["histograms by class", none, bits["class_mixture"], bits["class_conditional"]],
                ["histogram", bits["histogram"], none, none],
                ["all values alike", bits["uniform"], none, none],
            ],
        },
        {
            "title": "Quality of images",
            "caption": "Frechet distance to the test images in pixel values, lower is better, and the share"
            " that a classifier takes for their class; means over draws, at guidance 1.",
            "columns": ["", "draws", "Frechet distance", "class accuracy"],
            "rows": [
                *(
                    [run, len(model["class_accuracy"]), *(mean(model[name]) for name in QUALITY)]
                    for run, model in zip(runs, found["models"], strict=True)
                ),
                *(
                    [title, len(found[name]["class_accuracy"]), *(mean(found[name][one]) for one in QUALITY)]
                    for name, title in (
                        ("real", "training images"),
                        ("classwise", "class-wise independent pixels"),
                    )
                ),
                ["test images", none, none, numbers["class_accuracy_real"]],
            ],
        },
    ]


FIGURES = (
    (
        "samples",
        "png",
        "Samples of {run} at guidance 1, a class in each column ({classes}); under each the training image"
        " nearest to it.",
        "A grid of small grey images of digits in pairs, a sample above a training image.",
    ),
    (
        "guidance_sweep",
        "png",
        "One sample of {run} of each class in a column ({classes}), at guidance {weights} from top to bottom,"
        " from the same random numbers.",
        "A grid of small grey images of digits: classes from left to right, guidance from top to bottom.",
    ),
    (
        "guidance",
        "svg",
        "Frechet distance of samples of {run} to the test images and their class accuracy at each guidance"
        " weight, a draw each (at 1 the mean of all draws).",
        "Two line plots against guidance: Frechet distance and class accuracy.",
    ),
    (
        "bits_by_position",
        "svg",
        "Bits per value at every pixel: what {run} saves against a histogram of the place, and where.",
        "Two heat maps of the pixels on one scale: the model's bits and those of a histogram.",
    ),
)
"""Name, kind, caption and the picture in words."""


def main(
    study: str,
    section: str,
    images: Path,
    models: list[Path],
    evaluations: Path,
    metrics_out: Output,
    report: Output,
) -> None:
    """Write the chapter's results; ``section`` is its configuration as JSON."""
    from safetensors import safe_open

    found, store = read_json(evaluations), Folder(images, "images")
    folders = [Folder(path, "fractal_model") for path in models]
    runs = [path.parent.name for path in models]
    if not models or len(found["models"]) != len(models):
        raise UserError(
            f"{evaluations}: found {len(found['models'])} models, expected {len(models)}, one for each of"
            " --models; delete it and run snakemake again"
        )
    with safe_open(folders[0].check("model.safetensors"), framework="numpy") as file:
        count = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118
    names = [run.rpartition("-")[0] for run in runs]
    sizes = {
        "parameters": count,
        "training_images": store.attributes["images"]["train"],
        "test_images": store.attributes["images"]["test"],
    }
    numbers = metrics(found, names, sizes)
    write_json(metrics_out, numbers)
    weights = sorted([1.0, *(point["guidance"] for point in found["models"][0]["guided"])])
    shown = {
        "run": runs[0],
        "weights": ", ".join(f"{weight:g}" for weight in weights),
        "classes": ", ".join(store.attributes["classes"]),
    }
    seeds = f"{numbers['seeds']} {plural(numbers['seeds'], 'seed')}"
    cards = [
        (
            "Bits per value",
            "bits_per_dim",
            3,
            "bits",
            f"the class not said; a histogram of places needs {numbers['histogram_bits_per_dim']:.3f}",
        ),
        (
            "As a mixture over classes",
            "bits_per_dim_mixture",
            3,
            "bits",
            f"histograms by class need {numbers['class_mixture_bits_per_dim']:.3f}",
        ),
        (
            "Frechet distance",
            "frechet_distance",
            1,
            "",
            "in pixel values, lower is better; training"
            f" images {numbers['frechet_distance_real']:.1f}, class-wise pixels"
            f" {numbers['frechet_distance_classwise']:.1f}",
        ),
        (
            "Class accuracy",
            "class_accuracy",
            3,
            "",
            f"of samples at guidance 1; of test images {numbers['class_accuracy_real']:.3f}",
        ),
    ]
    write_json(
        report,
        {
            "chapter": "fractal",
            "study": study,
            "title": "Fractal generative models",
            "summary": summary(numbers, found, names),
            "cards": [
                card(
                    title,
                    round(numbers[name], digits),
                    unit,
                    f"{note}; {seeds}",
                    step="fractal.evaluate",
                    study=study,
                    inputs=[evaluations],
                )
                for title, name, digits, unit, note in cards
            ],
            "figures": [
                {
                    "file": f"figures/{name}.{kind}",
                    "caption": caption.format(**shown),
                    "alt": alt,
                    "data": f"figures/{name}.json",
                }
                for name, kind, caption, alt in FIGURES
            ],
            "tables": tables(numbers, found, runs),
            "provenance": provenance(
                [f"fractal.{step}" for step in STEPS], json.loads(section), [images, *models, evaluations]
            ),
        },
    )


if __name__ == "__main__":
    run(main)
