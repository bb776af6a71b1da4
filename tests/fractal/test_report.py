"""The headline figures and the sentences that say them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.fractal import figure, report
from steps.report.page import Report
from tests.fractal.conftest import Study


def model(shift: float) -> dict[str, Any]:
    """A made-up evaluation."""
    return {
        "null": 1.9 + shift,
        "mixture": 1.8 + shift,
        "conditional": 1.7 + shift,
        "frechet_distance": [100 + shift, 110 + shift],
        "class_accuracy": [0.6, 0.7],
        "guided": [
            {"guidance": 2.0, "class_accuracy": 0.75, "frechet_distance": 130.0},
            {"guidance": 3.0, "class_accuracy": 0.8, "frechet_distance": 150.0 + 10 * shift},
        ],
        "memorised_share": [0.01 + shift / 10, 0.03 + shift / 10],
    }


FOUND = {
    "bits_per_dim": {"uniform": 4.0, "histogram": 2.4, "class_mixture": 2.2, "class_conditional": 2.1},
    "real": {"frechet_distance": [40.0, 50.0], "class_accuracy": [1.0, 1.0]},
    "classwise": {"frechet_distance": [170.0, 180.0], "class_accuracy": [0.96, 0.98]},
    "class_accuracy_test": 0.99,
    "nearest_distance_test": {"median": 16.0, "close": 11.0},
    "models": [model(0), model(0.2), model(50)],
}
SIZES = {"parameters": 700_000, "training_images": 1437, "test_images": 360}


def test_headline_figures_are_means_over_the_first_model_s_seeds() -> None:
    found = report.metrics(FOUND, ["ar", "ar", "other"], SIZES)
    assert found == {
        "models": 2,
        "seeds": 2,
        **SIZES,
        "bits_per_dim": pytest.approx(2.0),
        "bits_per_dim_mixture": pytest.approx(1.9),
        "bits_per_dim_conditional": pytest.approx(1.8),
        "uniform_bits_per_dim": 4.0,
        "histogram_bits_per_dim": 2.4,
        "class_mixture_bits_per_dim": 2.2,
        "frechet_distance": pytest.approx(105.1),
        "frechet_distance_real": 45.0,
        "frechet_distance_classwise": 175.0,
        "class_accuracy": pytest.approx(0.65),
        "class_accuracy_real": 0.99,
    }


def test_sentences_say_what_was_missed_too() -> None:
    numbers = report.metrics(FOUND, ["ar", "ar", "other"], SIZES)
    names = ["ar", "ar", "other"]
    said = report.summary(numbers, FOUND, names)
    assert (
        "needs 2.000 bits per value for 360 test images when the class is not said: 0.400 less than" in said
    )
    assert "0.300 less than histograms by class" in said
    assert (
        "Frechet distance of 105 to the test images, closer than class-wise independent pixels (175)" in said
    )
    assert "2.3 times that of real training images (45)" in said
    assert "35.0% miss their class" in said
    assert "97.0% of the class-wise pixels for theirs, more than of the samples, which are closer" in said
    assert (
        "At guidance 3, 80.0% of the samples are what they are meant to be, at a Frechet distance of 151."
        in said
    )
    assert "3.0% of the samples are less than 11.0 from a training image" in said
    assert "as 5% of the test images are: no sign of copying" in said
    worse = {**numbers, "bits_per_dim": 2.5, "bits_per_dim_mixture": 2.3, "frechet_distance": 200.0}
    copied = [{**model, "memorised_share": [0.4, 0.5]} for model in FOUND["models"]]
    said = report.summary(worse, {**FOUND, "models": copied}, names)
    assert "0.100 more than a histogram" in said
    assert "0.100 more than histograms by class" in said
    assert "no closer than class-wise independent pixels" in said
    assert "97.0% of the class-wise pixels for theirs. At guidance 3" in said
    assert "as 5% of the test images are: a sign of copying" in said


def test_the_report_keeps_its_contract_and_names_what_made_it(study: Study, tmp_path: Path) -> None:
    metrics, out = tmp_path / "metrics.json", tmp_path / "report.json"
    arguments = ("mine", '{"a": 1}', study.images, [study.model], study.evaluations)
    report.main(*arguments, Output(metrics), Output(out))
    made = Report.model_validate(json.loads(out.read_text()))
    numbers, found = json.loads(metrics.read_text()), json.loads(study.evaluations.read_text())
    assert numbers["bits_per_dim"] == found["models"][0]["null"]
    assert numbers["training_images"] == 1437
    weights = study.model.with_name("model.safetensors").stat().st_size
    assert weights / 4 * 0.8 < numbers["parameters"] < weights / 4
    assert made.study == "mine"
    assert made.cards[0].value == round(numbers["bits_per_dim"], 3)
    assert {"python", "numpy", "scikit-learn", "torch", "zarr"} <= made.provenance.versions.keys()
    assert made.provenance.code.keys() == {f"fractal.{step}" for step in report.STEPS}
    assert made.tables[0].rows[0][0] == "small-1"
    drawn = [f"figures/{name}.{kind}" for name, (kind, _) in figure.FIGURES.items()]
    assert [shown.file for shown in made.figures] == drawn
    assert all("small-1" in shown.caption for shown in made.figures)
    with pytest.raises(UserError, match="found 1 models, expected 2, one for each of"):
        report.main(*arguments[:3], [study.model] * 2, study.evaluations, Output(metrics), Output(out))
