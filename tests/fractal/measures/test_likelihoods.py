"""Bits per value: histograms against counts by hand, and what mixtures over classes can be."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from steps.fractal.generators.levels import NULL
from steps.fractal.generators.shapes import Images
from steps.fractal.measures.likelihoods import SMOOTHING, Histograms, conditional_bits, mixture_bits
from tests.fractal.conftest import lively_model


def planted(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of 1 x 2: the left pixel is 0 or 1 by the class, the right one 0 to 3 alike."""
    labels = np.arange(count) % 2
    right = np.random.default_rng(seed).integers(0, 4, count)
    return np.stack([labels, right], 1).reshape(count, 1, 2, 1).astype(np.uint8), labels


def test_histograms_find_the_entropy() -> None:
    train, labels = planted(20_000)
    test, truth = planted(4_000, seed=1)
    alone = Histograms(train, 0 * labels, 4, 1).nats(test, 0 * truth) / math.log(2)
    assert alone[:, 0, 0].mean() == pytest.approx(1, abs=0.01)
    assert alone[:, 0, 1].mean() == pytest.approx(2, abs=0.01)
    by_class = Histograms(train, labels, 4, 2).by_class(test)
    assert conditional_bits(by_class, truth, 2) == pytest.approx(1, abs=0.01)  # (0 + 2) / 2
    assert mixture_bits(by_class, 2) == pytest.approx(1.5, abs=0.01)  # (1 + 2) / 2


def test_histograms_are_distributions() -> None:
    train, labels = planted(7)
    every = np.array(list(itertools.product(range(4), repeat=2)), np.uint8).reshape(16, 1, 2, 1)
    by_class = Histograms(train, labels, 4, 2).by_class(every)
    assert np.exp(-by_class).sum(0) == pytest.approx([1, 1])


def test_smoothing_is_chosen_by_leaving_each_training_image_out() -> None:
    train, labels = planted(30)
    found = Histograms(train, labels, 4, 2)

    def by_hand(added: float) -> float:
        nats = 0.0
        for out in range(30):
            others = np.delete(np.arange(30), out)
            mine = train[others][labels[others] == labels[out]].reshape(-1, 2)
            for place, value in enumerate(train[out].reshape(-1)):
                count = (mine[:, place] == value).sum()
                nats -= math.log((count + added) / (len(mine) + 4 * added))
        return nats

    costs = {added: by_hand(added) for added in SMOOTHING}
    assert found.added == min(costs, key=costs.__getitem__)
    assert len(set(costs.values())) == len(SMOOTHING)


def test_the_mixture_is_within_the_label_of_the_conditional_and_may_be_below_it() -> None:
    """log2(classes) / values is all that a label can be worth."""
    generator = np.random.default_rng(0)
    for spread in (0.1, 3.0, 100.0):
        by_class = 80 + spread * generator.normal(size=(500, 10))
        labels = generator.integers(0, 10, 500)
        mixture, conditional = mixture_bits(by_class, 64), conditional_bits(by_class, labels, 64)
        assert mixture <= conditional + math.log2(10) / 64 + 1e-12
        if spread > 1:  # the labels say nothing of these images
            assert mixture < conditional
    certain = np.full((10, 10), 1000.0)
    certain[np.arange(10), np.arange(10)] = 10.0
    bound = conditional_bits(certain, np.arange(10), 64) + math.log2(10) / 64
    assert mixture_bits(certain, 64) == pytest.approx(bound)


def test_the_null_row_is_not_the_mixture() -> None:
    """Both are distributions over all images; they are different ones."""
    model = lively_model(
        {"sides": [2, 1], "widths": [4, 4], "depths": [1, 1], "heads": [1, 1]}, Images(2, 1, 3, 3)
    )
    images = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2, 1)
    with torch.inference_mode():
        null, *classes = (
            model.nll(images, torch.full((81,), label)).sum((1, 2, 3)).numpy() for label in (NULL, 0, 1, 2)
        )
    mixed = np.exp(-np.stack(classes, 1)).mean(1)
    assert np.exp(-null).sum() == pytest.approx(1)
    assert mixed.sum() == pytest.approx(1)
    assert np.abs(np.exp(-null) - mixed).sum() > 0.2
    bits = mixture_bits(np.stack(classes, 1), 4)
    assert bits == pytest.approx(float(-np.log2(mixed).mean() / 4))
