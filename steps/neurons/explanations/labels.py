"""Labels of tokens as codes, so that sums over labels need one sum per code (docs/neurons.md).

A :class:`Labelling` gives each token a code, and each code its features. Token features depend on the token
id alone, so ids are their codes; labels that depend on the surroundings are packed: each combination that
occurs is a code. The previous token's variant shifts codes by one within each row; position 0 has none.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from steps.neurons.explanations.features import Features

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclasses.dataclass(frozen=True)
class Labelling:
    """Features of tokens through codes.

    Attributes:
        which: whose features: of the token itself or of the one before it in the row.
        codes: ``int64 [tokens]``.
        features: their matrix is ``bool [codes, features]``.
    """

    which: Literal["current", "previous"]
    codes: np.ndarray
    features: Features

    @property
    def size(self) -> int:
        """Number of codes."""
        return len(self.features.matrix)

    def counts(self, where: np.ndarray | slice = slice(None)) -> np.ndarray:
        """How often each code occurs among the tokens ``where``."""
        import numpy as np

        return np.bincount(self.codes[where], minlength=self.size)


def by_token(tokens: np.ndarray, features: Features) -> Labelling:
    """Features of token ids."""
    import numpy as np

    return Labelling("current", tokens.astype(np.int64), features)


def by_combination(labels: np.ndarray, names: list[str], groups: list[str]) -> Labelling:
    """Any labels ``bool [tokens, labels]``: each combination that occurs is a code."""
    import numpy as np

    packed = np.packbits(labels, axis=1)
    _, first, codes = np.unique(
        packed.view(f"V{packed.shape[1]}").reshape(-1), return_index=True, return_inverse=True
    )
    features = Features(names, groups, labels[first])
    return Labelling("current", codes.reshape(-1), features.without_empty())


def previous(labelling: Labelling, context: int, without: tuple[str, ...] = ()) -> Labelling:
    """The same features of the token before, row by row; groups in ``without`` are left out."""
    import numpy as np

    codes = labelling.codes.reshape(-1, context)
    shifted = np.full_like(codes, labelling.size)
    shifted[:, 1:] = codes[:, :-1]
    kept = labelling.features.chosen(np.array([group not in without for group in labelling.features.groups]))
    nothing = np.zeros((1, len(kept.names)), bool)
    matrix = np.concatenate([kept.matrix, nothing])
    return Labelling("previous", shifted.reshape(-1), Features(kept.names, kept.groups, matrix))


def add_by_code(total: torch.Tensor, values: torch.Tensor, codes: np.ndarray) -> None:
    """Add values ``[tokens, neurons]`` to the row of their code in ``total [codes, neurons]`` (float64).

    Summed in the precision of the values first, over the tokens given: those of a block.
    """
    import numpy as np
    import torch

    present, places = np.unique(codes, return_inverse=True)
    part = torch.zeros((len(present), values.shape[1]), dtype=values.dtype, device=values.device)
    part.index_add_(0, torch.from_numpy(places.reshape(-1)).to(values.device), values)
    if len(present) == len(total):
        total += part
    else:
        total.index_add_(0, torch.from_numpy(present).to(values.device), part.double())


def squared_correlations(
    sums: torch.Tensor, counts: np.ndarray, matrix: np.ndarray, total: torch.Tensor, centred: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared point-biserial correlation of every feature with every neuron, and the sign's carrier.

    It is the reduction in variance with population variances: ``cov^2 / (var(y) var(v))``. One product of
    the features' 0/1 matrix with sums by code takes the place of one over tokens.

    Args:
        sums: ``[codes, neurons]``, float64.
        counts: ``[codes]``.
        matrix: ``bool [codes, features]``.
        total: ``[neurons]``, sum over all tokens.
        centred: ``[neurons]``, sum of squares around the mean; 0 where a neuron never varies.

    Returns:
        ``[features, neurons]``: the squares (0 where feature or neuron do not vary), and the differences
        of means.
    """
    import torch

    indicator = torch.from_numpy(matrix.T.astype("float64")).to(sums.device)
    number = torch.from_numpy(counts).double().to(sums.device)
    tokens = number.sum()
    holds = (indicator @ number)[:, None]
    both = indicator @ sums
    covariance = both - holds * (total / tokens)
    spread = holds * (1 - holds / tokens)
    difference = covariance / spread.clamp(min=1e-12)
    squares = covariance * difference / torch.where(centred > 0, centred, torch.inf)
    return torch.where(spread > 0, squares, 0.0), difference


def variance_reduction(
    number: np.ndarray,
    sums: np.ndarray,
    squares: np.ndarray,
    tokens: int,
    total: np.ndarray,
    total_squares: np.ndarray,
) -> np.ndarray:
    """Reduction in variance by a label, sample variances (ddof 1) as in the paper's code.

    ``1 - [(1 - beta) Var(v | y=0) + beta Var(v | y=1)] / Var(v)``; 0 where a side has fewer than two tokens
    or nothing varies.

    Args:
        number: tokens with the label.
        sums: of the values there.
        squares: of their squares.
        tokens: all tokens.
        total: sum of all values.
        total_squares: of all squares.
    """
    import numpy as np

    def share(n: np.ndarray | int, s: np.ndarray, q: np.ndarray) -> np.ndarray:
        n = np.asarray(n, float)
        return n / tokens * (q - s**2 / np.maximum(n, 1)) / np.maximum(n - 1, 1)

    whole = share(tokens, total, total_squares)
    parts = share(number, sums, squares) + share(tokens - number, total - sums, total_squares - squares)
    usable = (number > 1) & (tokens - number > 1) & (whole > 0)
    return np.where(usable, 1 - parts / np.where(usable, whole, 1), 0.0)
