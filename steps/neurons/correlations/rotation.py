"""The rotated baseline (docs/neurons.md).

A partner's layer ``l`` is multiplied by a random matrix ``R_l`` (iid normal entries; the paper scales its
rows to unit norm, which no correlation notices). Without a privileged basis a neuron would correlate
with the rotated layer as well as with the layer itself. Since ``Cov(v, R_l v_l) = Cov(v, v_l) R_l^T``
and ``Var(R_l v_l) = diag(R_l C_l R_l^T)``, every draw follows from covariances that are already there,
with no second pass over the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steps.core.devices import torch_device
from steps.core.digest import seed as derive_seed
from steps.core.runner import progress

if TYPE_CHECKING:
    import numpy as np
    import torch

    from steps.neurons.activations.store import Arithmetic
    from steps.neurons.correlations.moments import Moments


DRAW_COLUMNS = 1024
"""Small layers are rotated by several draws at once, up to this many columns, to keep products large."""


def rotation(
    seed: int, model: str, layer: int, draw: int, d_mlp: int, dtype: Arithmetic = "float32"
) -> np.ndarray:
    """The random matrix ``[d_mlp, d_mlp]`` that rotates a layer of ``model`` in draw ``draw``."""
    import numpy as np

    key = derive_seed(seed, "neurons.baseline", model, layer, draw)
    generator = np.random.Generator(np.random.SFC64(key))
    return generator.standard_normal((d_mlp, d_mlp), dtype=dtype)


def rotated_maxima(
    rho: torch.Tensor,
    partner: Moments,
    layers: int,
    model: str,
    draws: int,
    seed: int,
    precision: Arithmetic,
    device: str = "cpu",
) -> np.ndarray:
    """Largest correlation of each neuron with any neuron of the rotated partner.

    Args:
        rho: correlations ``[rows, columns]`` with the partner, float64.
        partner: the partner's moments.
        layers: its number of layers.
        model: its name, from which with ``seed``, layer and draw the rotations derive.
        draws: number of rotations.
        seed: the configured seed.
        precision: of the products.
        device: where they are formed.

    Returns:
        float64 ``[draws, rows]``.
    """
    import numpy as np
    import torch

    dtype, where = getattr(torch, precision), torch_device(device)
    rows, d_mlp = len(rho), rho.shape[1] // layers
    together = max(1, DRAW_COLUMNS // d_mlp)
    best = torch.full((draws, rows), -torch.inf, dtype=torch.float64, device=where)
    work = [(layer, start) for layer in range(layers) for start in range(0, draws, together)]
    covariance, scaled = torch.empty(0), torch.empty((rows, d_mlp), dtype=dtype, device=where)
    for layer, start in progress(work, len(work), f"rotations of {model}"):
        if start == 0:
            columns = slice(layer * d_mlp, (layer + 1) * d_mlp)
            covariance = torch.from_numpy(partner.covariance(layer)).to(where, dtype)
            norm = torch.from_numpy(partner.norm[columns])
            for first in range(0, rows, DRAW_COLUMNS):
                part = slice(first, first + DRAW_COLUMNS)
                scaled[part] = rho[part, columns] * norm
        numbers = range(start, min(start + together, draws))
        turn = torch.from_numpy(
            np.concatenate([rotation(seed, model, layer, draw, d_mlp, precision) for draw in numbers])
        ).to(where)
        variance = torch.linalg.vecdot(turn @ covariance, turn).clamp_(min=0)
        scale = torch.where(variance > 0, variance.rsqrt(), torch.zeros_like(variance))
        for first in range(0, rows, DRAW_COLUMNS):
            part = slice(first, first + DRAW_COLUMNS)
            turned = (scaled[part] @ turn.T).mul_(scale).view(-1, len(numbers), d_mlp)
            here = best[start : start + len(numbers), part]
            torch.maximum(here, turned.amax(2).T.double(), out=here)
    return best.cpu().numpy()
