"""How close samples are to real images, in pixel space: no trained judge but a classifier of the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from sklearn.svm import SVC

QUALITY = ("frechet_distance", "class_accuracy")
"""What images of a draw are measured by, as files name it."""

CLOSE = 0.05
"""Share of the test images that are nearer to a training image than what is called close."""

PENALTY = 10.0
"""C of the classifier, support vectors with a radial kernel."""


def mean(values: list[float]) -> float:
    """Over draws, or seeds."""
    return sum(values) / len(values)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Between Gaussians of the mean and covariance of two sets of points, ``[points, dimensions]``.

    ``|m - n|**2 + tr(S + T - 2 (S^1/2 T S^1/2)^1/2)``, as in Heusel et al. (2017), there on features of a
    network, here on the values themselves. Roots are taken by eigenvalues, so covariances of any rank will
    do.
    """
    import numpy as np

    first, second = (points.reshape(len(points), -1).astype(np.float64) for points in (first, second))
    difference = first.mean(0) - second.mean(0)
    one, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = _root(np.atleast_2d(one))
    between = np.linalg.eigvalsh(root @ np.atleast_2d(other) @ root).clip(min=0)
    return float(difference @ difference + np.trace(np.atleast_2d(one + other)) - 2 * np.sqrt(between).sum())


def _root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues, but for rounding."""
    import numpy as np

    values, vectors = np.linalg.eigh(matrix)
    root: np.ndarray = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def classifier(pixels: np.ndarray, labels: np.ndarray, values: int) -> SVC:
    """Support vectors fitted on training images, values from 0 to 1."""
    from sklearn.svm import SVC

    return SVC(C=PENALTY).fit(_scaled(pixels, values), labels)


def class_accuracy(judge: SVC, pixels: np.ndarray, labels: np.ndarray, values: int) -> float:
    """The share of images that a :func:`classifier` takes for what they are meant to be."""
    return float((judge.predict(_scaled(pixels, values)) == labels).mean())


def _scaled(pixels: np.ndarray, values: int) -> np.ndarray:
    scaled: np.ndarray = pixels.reshape(len(pixels), -1) / (values - 1)
    return scaled


def nearest(pixels: np.ndarray, among: np.ndarray, at_once: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """For each image the number of the nearest ``among`` others, and how far it is (Euclidean, in values).

    Whole numbers throughout, so ties are exact; the first one wins.
    """
    import numpy as np

    others = among.reshape(len(among), -1).astype(np.int64)
    squares = (others**2).sum(1)
    numbers, distances = [], []
    for start in range(0, len(pixels), at_once):
        mine = pixels[start : start + at_once].reshape(-1, others.shape[1]).astype(np.int64)
        found = (mine**2).sum(1)[:, None] + squares - 2 * mine @ others.T
        numbers.append(found.argmin(1))
        distances.append(np.sqrt(found.min(1)))
    return np.concatenate(numbers), np.concatenate(distances)
