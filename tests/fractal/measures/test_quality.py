"""Measures of samples, on points and images whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from steps.fractal.measures.quality import class_accuracy, classifier, frechet_distance, nearest


def gaussian(mean: np.ndarray, root: np.ndarray, count: int = 50, seed: int = 0) -> np.ndarray:
    """Points whose mean and covariance are exactly ``mean`` and ``root @ root.T``."""
    raw = np.random.default_rng(seed).normal(size=(count, len(mean)))
    raw -= raw.mean(0)
    left, _, right = np.linalg.svd(raw, full_matrices=False)
    white = left @ right * np.sqrt(count - 1)
    return np.asarray(mean + white @ root.T)


def test_the_distance_of_gaussians_in_closed_form() -> None:
    """Where covariances commute it is |m - n|^2 plus the squared differences of the axes."""
    generator = np.random.default_rng(1)
    turn, _ = np.linalg.qr(generator.normal(size=(5, 5)))
    m, n = generator.normal(size=(2, 5)) * 3
    s, t = generator.random((2, 5)) * 4
    expected = ((m - n) ** 2).sum() + ((s - t) ** 2).sum()
    first, second = gaussian(m, turn * s), gaussian(n, turn * t, count=80, seed=2)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-9)


def test_the_distance_of_gaussians_that_lie_across() -> None:
    """Two dimensions, by the formula for a square root's trace: tr sqrt(A) = sqrt(tr A + 2 sqrt(det A))."""
    one, other = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [1.5, 0.5]])
    product = one @ one.T @ other @ other.T
    between = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 25 + np.trace(one @ one.T + other @ other.T) - 2 * between
    first, second = gaussian(np.array([3.0, 4.0]), one), gaussian(np.zeros(2), other, seed=3)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_constant_dimensions_and_equal_sets() -> None:
    points = gaussian(np.zeros(3), np.diag([1.0, 2.0, 0.0]))  # the corners of digits never change
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(points, points + np.array([0, 0, 2.0])) == pytest.approx(4)
    line = np.arange(5.0)[:, None]
    assert frechet_distance(line, 3 * line) == pytest.approx(4**2 + (2 * line.std(ddof=1)) ** 2)


def test_images_are_taken_as_points() -> None:
    images = np.random.default_rng(0).integers(0, 17, (40, 2, 2, 1)).astype(np.uint8)
    flat = images.reshape(40, 4).astype(float)
    assert frechet_distance(images[:20], images[20:]) == frechet_distance(flat[:20], flat[20:])


def test_the_nearest_image_by_all_distances() -> None:
    generator = np.random.default_rng(0)
    some, others = (generator.integers(0, 256, (count, 3, 3, 2)).astype(np.uint8) for count in (7, 30))
    others[20] = others[4]  # a tie: the first one
    some[2] = others[4]
    differences = some[:, None].astype(float) - others[None]
    distances = np.sqrt((differences**2).sum((2, 3, 4)))
    numbers, found = nearest(some, others, at_once=3)
    assert numbers.tolist() == distances.argmin(1).tolist()
    assert numbers[2] == 4
    assert found == pytest.approx(distances.min(1))
    assert found[2] == 0


def test_the_classifier_reads_planted_classes_and_is_fooled_by_none() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = generator.integers(0, 3, (200, 4, 4, 1)).astype(np.uint8)
    images[labels == 1, :, 0] += 14
    judge = classifier(images[:100], labels[:100], 17)
    assert class_accuracy(judge, images[100:], labels[100:], 17) == 1
    assert class_accuracy(judge, images[100:], 1 - labels[100:], 17) == 0
