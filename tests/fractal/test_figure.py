"""The pictures: the images that they name, where they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steps.core.errors import UserError
from steps.core.pictures import bytes_of
from steps.core.runner import Output
from steps.core.stores import Folder, read_array
from steps.fractal import figure
from tests.fractal.conftest import Study


@pytest.fixture(scope="module")
def drawn(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that is drawn of the small study."""
    folder = tmp_path_factory.mktemp("figures")
    pictures = {name: Output(folder / f"{name}.{kind}") for name, (kind, _) in figure.FIGURES.items()}
    data = {name: Output(folder / f"{name}.json") for name in figure.FIGURES}
    figure.main(study.images, study.samples, study.evaluations, pictures, data)
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def picture(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / f"{name}.png") as image:
        return np.asarray(image)


def test_samples_stand_above_their_nearest_training_images(study: Study, drawn: Path) -> None:
    pixels, factor = picture(drawn, "samples"), 7  # 10 images of 8 pixels and 9 gaps of one, in about 640
    plain = bytes_of(read_array(Folder(study.samples, "fractal_samples"), "plain")[0], 17)
    train = bytes_of(read_array(Folder(study.images, "images"), "train"), 17)
    named = read(drawn, "samples")
    assert len(named) == 40
    top = 0
    for row in range(4):
        for column in range(10):
            about = named[row * 10 + column]
            assert about["class"] == str(column)
            left = column * 9 * factor
            pair = (plain[about["image"]], train[about["nearest_training_image"]])
            for image, start in zip(pair, (top, top + 8 * factor + 2), strict=True):
                shown = pixels[start : start + 8 * factor : factor, left : left + 8 * factor : factor]
                assert (shown == image[..., 0]).all()
        top += 16 * factor + 2 + 3 * factor
    assert pixels.shape == (top - 3 * factor, (10 * 8 + 9) * factor)


def test_the_sweep_is_in_the_order_of_guidance(study: Study, drawn: Path) -> None:
    pixels, factor = picture(drawn, "guidance_sweep"), 7
    store, about = Folder(study.samples, "fractal_samples"), read(drawn, "guidance_sweep")
    assert about["guidance"] == [1.0, 30.0]
    assert about["class"] == [str(digit) for digit in range(10)]
    rows = bytes_of(np.stack([read_array(store, "plain")[0], read_array(store, "guided")[0]]), 17)
    for row, column in np.ndindex(2, 10):
        top, left = row * 9 * factor, column * 9 * factor
        shown = pixels[top : top + 8 * factor : factor, left : left + 8 * factor : factor]
        assert (shown == rows[row, about["image"][column], :, :, 0]).all()


def test_curves_and_maps_show_the_evaluations(study: Study, drawn: Path) -> None:
    found = json.loads(study.evaluations.read_text())
    curves = read(drawn, "guidance")
    assert [point["guidance"] for point in curves["points"]] == [1.0, 30.0]
    assert curves["points"][0]["frechet_distance"] == np.mean(found["models"][0]["frechet_distance"])
    assert curves["points"][1] == found["models"][0]["guided"][0]
    assert curves["lines"]["class_accuracy"] == {"test images": found["class_accuracy_test"]}
    maps = read(drawn, "bits_by_position")
    assert maps == {"model (null)": found["models"][0]["by_position"], "histogram": found["by_position"]}
    for name, words in (("guidance", "guidance weight"), ("bits_by_position", "bits per value")):
        assert words in (drawn / f"{name}.svg").read_text()


def test_labels_choose_the_columns() -> None:
    labels = np.array([2, 0, 2, 0, 0])
    assert figure.columns_of(labels, 2) == [[1, 0], [3, 2]]
    assert figure.factor_of(10, 8) == 7
    assert figure.factor_of(10, 1000) == 1


def test_a_picture_nobody_knows_is_one_line(study: Study, tmp_path: Path) -> None:
    outs = {"portrait": Output(tmp_path / "portrait.png")}
    with pytest.raises(UserError, match="^--figures: found 'portrait', expected some of samples,"):
        figure.main(study.images, study.samples, study.evaluations, outs, outs)
