"""Likelihoods of the test images: the model's, for every class, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Folder, read_array
from steps.core.tensors import read_tensors
from steps.fractal import images, likelihood
from steps.fractal.generators.levels import NULL
from steps.fractal.generators.saved import load
from tests.fractal.conftest import Study


def test_every_image_under_every_class(study: Study) -> None:
    arrays, facts = read_tensors(study.likelihood, kind="fractal_likelihood")
    store = Folder(study.images, "images")
    pixels = torch.from_numpy(read_array(store, "test")).long()
    assert arrays["null"].shape == (360, 8, 8, 1)
    assert arrays["by_class"].shape == (360, 10)
    model = load(study.model)
    with torch.inference_mode():
        null = model.nll(pixels[:5], torch.full((5,), NULL))
        third = model.nll(pixels[-5:], torch.full((5,), 3)).sum((1, 2, 3))
    assert arrays["null"][:5] == pytest.approx(null.numpy(), abs=1e-4)
    assert arrays["by_class"][-5:, 3] == pytest.approx(third.numpy(), rel=1e-5)
    assert facts["made_from"]["model"] == Folder(study.model, "fractal_model").fingerprint


def test_another_batch_rounds_otherwise_and_no_more(study: Study) -> None:
    pixels = read_array(Folder(study.images, "images"), "test")[:50]
    model = load(study.model)
    whole, parts = (likelihood.nats(model, pixels, batch) for batch in (50, 7))
    for one, other in zip(whole, parts, strict=True):
        assert np.abs(one - other).max() < 1e-3


def test_images_that_the_model_was_not_trained_on_are_one_line(study: Study, tmp_path: Path) -> None:
    images.main(images.Settings(seed=1), Output(tmp_path / "ledger.json"))
    with pytest.raises(UserError, match="not the images that .* was made with"):
        likelihood.main(
            study.model, tmp_path / "ledger.json", likelihood.Settings(), Output(tmp_path / "out")
        )
