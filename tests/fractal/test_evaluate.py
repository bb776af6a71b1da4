"""What is measured, against the same by hand."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Folder, Ledger, read_array, write_array
from steps.core.tensors import read_tensors
from steps.fractal import evaluate, sample
from steps.fractal.measures.quality import class_accuracy, classifier, frechet_distance, nearest
from tests.fractal.conftest import Study


def test_figures_are_those_of_the_files(study: Study) -> None:
    found = json.loads(study.evaluations.read_text())
    store, drawn = Folder(study.images, "images"), Folder(study.samples, "fractal_samples")
    arrays, _ = read_tensors(study.likelihood)
    test, truth = read_array(store, "test"), read_array(store, "test_label")
    train, labels = read_array(store, "train"), read_array(store, "train_label")
    [model] = found["models"]
    assert model["null"] == pytest.approx(float(arrays["null"].mean()) / math.log(2), rel=1e-5)
    own = arrays["by_class"][np.arange(360), truth].mean() / 64 / math.log(2)
    assert model["conditional"] == pytest.approx(float(own))
    assert np.mean(model["by_position"]) == pytest.approx(model["null"])
    assert np.mean(found["by_position"]) == pytest.approx(found["bits_per_dim"]["histogram"])
    plain, asked = read_array(drawn, "plain"), read_array(drawn, "label")
    assert model["frechet_distance"] == [frechet_distance(draw, test) for draw in plain]
    judge = classifier(train, labels, 17)
    assert model["class_accuracy"] == [class_accuracy(judge, draw, asked, 17) for draw in plain]
    [guided] = model["guided"]
    assert guided["guidance"] == 30.0
    assert guided["frechet_distance"] == frechet_distance(read_array(drawn, "guided")[0], test)
    differences = plain[0][7].astype(int) - train[model["nearest"][7]]
    assert model["nearest_distance"][7] == pytest.approx(np.sqrt((differences**2).sum()))
    close = found["nearest_distance_test"]["close"]
    assert model["memorised_share"][0] == (np.array(model["nearest_distance"]) < close).mean()
    assert len(model["memorised_share"]) == 2


def test_references_are_what_is_known_of_the_digits(study: Study) -> None:
    found = json.loads(study.evaluations.read_text())
    test, train = (read_array(Folder(study.images, "images"), name) for name in ("test", "train"))
    bits = found["bits_per_dim"]
    assert bits["uniform"] == pytest.approx(4.087, abs=1e-3)
    assert bits["histogram"] == pytest.approx(2.430, abs=0.01)
    assert bits["class_mixture"] == pytest.approx(2.217, abs=0.015)
    assert bits["class_conditional"] == pytest.approx(2.178, abs=0.015)
    assert found["class_accuracy_test"] > 0.97
    distances = nearest(test, train)[1]
    assert found["nearest_distance_test"]["median"] == pytest.approx(16.3, abs=0.05)
    assert (distances < found["nearest_distance_test"]["close"]).mean() == pytest.approx(0.05, abs=0.003)
    assert len(found["real"]["frechet_distance"]) == len(found["classwise"]["frechet_distance"]) == 2
    assert min(found["real"]["class_accuracy"]) > 0.98  # it was fitted on them


def test_real_images_are_closer_than_classwise_pixels_than_noise(study: Study) -> None:
    """In draws of the size of the study."""
    store = Folder(study.images, "images")
    test = read_array(store, "test")

    def quality(pixels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {"distance": frechet_distance(pixels, test)}

    found = evaluate.drawn(store, np.arange(360) % 10, 2, 0, quality)
    noise = np.random.default_rng(0).integers(0, 17, (360, 8, 8, 1))
    assert max(found["real"]["distance"]) < 60 < 130 < min(found["classwise"]["distance"])
    assert max(found["classwise"]["distance"]) < 220 < frechet_distance(noise, test)
    again = evaluate.drawn(store, np.arange(360) % 10, 2, 0, quality)
    assert again == found
    assert evaluate.drawn(store, np.arange(360) % 10, 2, 1, quality) != found


def test_samples_of_another_model_are_one_line(study: Study, tmp_path: Path) -> None:
    ledger = json.loads(study.samples.read_text())
    ledger["made_from"]["model"] = "another"
    store = tmp_path / "samples"
    store.mkdir()
    for path in study.samples.parent.iterdir():
        if path.name != "ledger.json":
            (store / path.name).symlink_to(path)
    (store / "ledger.json").write_text(json.dumps(ledger))
    with pytest.raises(UserError, match="or another model than"):
        evaluate.main(
            study.images,
            [study.likelihood],
            [store / "ledger.json"],
            evaluate.Settings(),
            Output(tmp_path / "out"),
        )


def test_a_likelihood_for_every_model(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found 1, and 0 --samples, expected one of each"):
        evaluate.main(study.images, [study.likelihood], [], evaluate.Settings(), Output(tmp_path / "out"))


def test_copies_of_training_images_are_counted(study: Study, tmp_path: Path) -> None:
    """A model that copies two of five images, and draws the others itself."""
    made = tmp_path / "samples/ledger.json"
    shutil.copytree(study.samples.parent, made.parent)
    train = read_array(Folder(study.images, "images"), "train")
    own = Folder(study.samples, "fractal_samples")
    ledger = Ledger(made, "fractal_samples", {**own.made_from, "copies": 2})
    plain, label = (read_array(own, name) for name in ("plain", "label"))
    plain[:, ::5], plain[:, 1::5] = train[:8], train[8:16]
    dims = ("draw", "image", "row", "column", "channel")
    write_array(ledger, "plain", plain, dims, description="pixel values")
    write_array(ledger, "label", label, ("image",), description="index of the class")
    ledger.finish({"guidance": [], "draws": 2})
    out = tmp_path / "evaluations.json"
    evaluate.main(study.images, [study.likelihood], [made], evaluate.Settings(), Output(out))
    [before] = json.loads(study.evaluations.read_text())["models"]
    [model] = json.loads(out.read_text())["models"]
    assert min(model["memorised_share"]) >= 0.4 > max(before["memorised_share"])


def test_a_study_without_a_sweep_is_evaluated(study: Study, tmp_path: Path) -> None:
    settings = sample.Settings(draws=1, images=20, batch=20, guidance=[])
    samples = tmp_path / "samples/ledger.json"
    samples.parent.mkdir()
    sample.main(study.model, settings, Output(samples))
    evaluate.main(
        study.images,
        [study.likelihood],
        [samples],
        evaluate.Settings(),
        Output(tmp_path / "evaluations.json"),
    )
    [model] = json.loads((tmp_path / "evaluations.json").read_text())["models"]
    assert model["guided"] == []
