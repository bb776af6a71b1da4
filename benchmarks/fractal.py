"""How fast the fractal model draws, beside a lean sampler without caches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import RUNS, Figure, in_turn, ratio
from steps.fractal.generators.shapes import Architecture, Images

if TYPE_CHECKING:
    from torch import Tensor

    from steps.fractal.generators.levels import Fractal
    from steps.fractal.generators.sampling import Guidance

COLOURS = Images(16, 3, 256, 10)
SIZES: dict[str, Any] = {
    "sides": [16, 4, 1],
    "widths": [128, 64, 32],
    "depths": [4, 2, 1],
    "heads": [4, 4, 2],
}
"""Small images in colour, three levels."""


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``fractal.lean_uncached_over_ours_b1``: drawing one image without and with caches."""
    import torch

    from steps.fractal.generators.levels import Fractal
    from steps.fractal.generators.sampling import sample, uniforms_of

    torch.manual_seed(0)
    model = Fractal(Architecture(**SIZES), COLOURS).eval()
    label, random = torch.tensor([3]), uniforms_of([0], (16, 16, 3))
    sides = {
        "lean uncached": lambda: uncached(model, label, random),
        "ours": lambda: sample(model, label, random),
    }
    yield ratio("fractal.lean_uncached_over_ours_b1", in_turn(sides, 1 if quick else RUNS), "")


def uncached(model: Fractal, labels: Tensor, uniforms: Tensor, guidance: Guidance | None = None) -> Tensor:
    """Draw as ``steps.fractal.generators.sampling.sample`` does, without caches.

    Every step is a forward pass, that of training, over what is known of its sequence: lean, since it is no
    longer than that.
    """
    from unittest.mock import patch

    import torch

    from steps.fractal.generators.levels import Level, PixelModule
    from steps.fractal.generators.sampling import PLAIN, sample

    def level_step(self: Level, place: int, given: Tensor, seen: list[Tensor]) -> Tensor:
        seen.append(given)
        empty = given.new_zeros(len(given), 0, self.embed_patch.in_features)
        known = torch.stack(seen[1:], 1) if place else empty
        last: Tensor = self(seen[0], known)[:, -1]
        return last

    def pixel_step(self: PixelModule, channel: int, given: Tensor, seen: list[Tensor]) -> Tensor:
        seen.append(given)
        known = torch.stack(seen[1:], 1) if channel else given.new_zeros(len(given), 0, dtype=torch.int64)
        last: Tensor = self(seen[0], known)[:, -1]
        return last

    def begin(self: Any, rows: int) -> list[Tensor]:
        return []

    with (
        patch.object(Level, "begin", begin),
        patch.object(Level, "step", level_step),
        patch.object(PixelModule, "begin", begin),
        patch.object(PixelModule, "step", pixel_step),
    ):
        return sample(model, labels, uniforms, guidance or PLAIN)
