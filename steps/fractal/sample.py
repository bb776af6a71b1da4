"""Draw images from a model (docs/fractal.md).

Reads a model's ledger. Writes a zarr store of kind ``fractal_samples``:

==============  =============================================  ========================================
array           shape, dtype                                   contents
==============  =============================================  ========================================
``plain``       [draw, image, row, column, channel], uint8     the model's own distribution: guidance 1,
                                                               temperature 1, no filter
``guided``      [guidance, image, row, column, channel],       one more draw at each of the guidance
                uint8                                          weights, with the uniforms of draw 0
``label``       [image], uint16                                the class that was asked for, in turn
==============  =============================================  ========================================

Attributes: ``guidance`` (the weights) and ``draws`` (how many). Every random number belongs to (seed, draw,
image, value), so a larger study begins with the images of a smaller one, but for rounding: bytes are promised
for one ``batch``, since a float32 product of one row may differ in its bits from that row in a larger batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from steps.core.devices import Device
from steps.core.digest import code_digest
from steps.core.digest import seed as derive
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import ArrayWriter, Folder, Ledger, write_array
from steps.core.training import prepare
from steps.fractal.generators.saved import load

if TYPE_CHECKING:
    import numpy as np
    import torch

    from steps.fractal.generators.levels import Fractal
    from steps.fractal.generators.sampling import Guidance

STEP = "fractal.sample"


class Settings(BaseSettings):
    """What is drawn."""

    draws: int = Field(
        10,
        ge=1,
        le=100_000,
        description="independent sets of samples at guidance 1; figures are means over them",
    )
    images: int = Field(360, ge=2, le=10**7, description="samples of a draw, each class in turn")
    batch: int = Field(
        360,
        ge=1,
        le=1 << 20,
        description="images sampled at once; memory grows with it, and last bits depend on it",
    )
    guidance: list[Annotated[float, Field(ge=0, le=1000)]] = Field(
        [1.5, 2.0, 3.0, 5.0], description="guidance weights of the sweep, one draw each (published code: 11)"
    )
    schedule: Literal["linear", "constant"] = Field(
        "linear",
        description="how the weight goes over the top level's patches. linear:"
        " from 1 to the full weight; constant",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="factor on the logits of guided draws, as in the published code: above 1 is sharper",
    )
    floor: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="guided draws make no value likelier that is less probable than this, given the class"
        " (published code: 0.0001)",
    )
    seed: int = Field(0, ge=0, description="of the draws")
    device: Device = Field("cpu", description="where models run")
    threads: int = Field(1, ge=1, le=1024, description="arithmetic threads")


def with_float64(device: torch.device) -> torch.device:
    """Where values are drawn, in float64: on the device of the model, or the CPU where that has none."""
    import torch

    return torch.device("cpu") if device.type == "mps" else device


def draw(
    model: Fractal, seed: int, number: int, labels: np.ndarray, first: int, guidance: Guidance
) -> np.ndarray:
    """Images ``uint8 [image, row, column, channel]`` of one draw.

    Args:
        model: the model.
        seed: of all draws.
        number: of the draw.
        labels: classes of the images.
        first: number of the first image in its draw.
        guidance: of the class.
    """
    import numpy as np
    import torch

    from steps.fractal.generators.levels import NULL
    from steps.fractal.generators.sampling import sample, uniforms_of

    side, channels = model.images.side, model.images.channels
    seeds = [derive(seed, STEP, number, first + place) for place in range(len(labels))]
    device = model.classes.device
    uniforms = uniforms_of(seeds, (side, side, channels)).to(with_float64(device))
    asked = labels.astype(np.int64) if model.images.classes else np.full(len(labels), NULL)
    classes = torch.from_numpy(asked).to(device)
    return sample(model, classes, uniforms, guidance).cpu().numpy().astype(np.uint8)


def main(model: Path, settings: Settings, out: Output) -> None:
    """Draw from ``model``."""
    import numpy as np

    folder = Folder(model, "fractal_model")
    made_from = {
        "model": folder.fingerprint,
        "settings": settings.model_dump(),
        "code": code_digest(STEP),
    }
    ledger = Ledger(out, "fractal_samples", made_from, ("numpy", "torch", "zarr"))
    prepare(settings.threads)
    from steps.fractal.generators.sampling import PLAIN, Guidance

    loaded = load(model, settings.device)
    labels = (np.arange(settings.images) % max(1, loaded.images.classes)).astype(np.uint16)
    write_array(ledger, "label", labels, ("image",), description="index of the class that was asked for")
    how = (settings.schedule, settings.temperature, settings.floor)
    kinds = {
        "plain": ("draw", [(number, PLAIN) for number in range(settings.draws)]),
        "guided": ("guidance", [(0, Guidance(weight, *how)) for weight in settings.guidance]),
    }
    jobs: list[tuple[ArrayWriter, int, int, Guidance, int]] = []
    image = (loaded.images.side, loaded.images.side, loaded.images.channels)
    for name, (dim, draws) in kinds.items():
        if draws:
            writer = ArrayWriter(
                ledger,
                name,
                (len(draws), settings.images, *image),
                (1, min(settings.batch, settings.images), *image),
                "uint8",
                dims=(dim, "image", "row", "column", "channel"),
                description="pixel values",
            )
            batches = range(0, settings.images, settings.batch)
            jobs += [(writer, row, *of, start) for row, of in enumerate(draws) for start in batches]
    left = [job for job in jobs if _block(job[1], job[4], settings) not in job[0]]
    for writer, row, number, guidance, start in progress(left, len(left), "batches of images drawn"):
        mine = labels[start : start + settings.batch]
        pixels = draw(loaded, settings.seed, number, mine, start, guidance)
        writer.write(_block(row, start, settings), pixels[None])
    ledger.finish({"guidance": settings.guidance, "draws": settings.draws})


def _block(row: int, start: int, settings: Settings) -> tuple[int, ...]:
    return (row, start // settings.batch, 0, 0, 0)


if __name__ == "__main__":
    run(main)
