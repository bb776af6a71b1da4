"""The exact likelihood of the test images under a model, in float32.

Reads a model's ledger and the images'. Writes safetensors of kind ``fractal_likelihood``, all in nats:

=============  ===============================  ==========================================================
array          shape, dtype                     contents
=============  ===============================  ==========================================================
``null``       [image, row, column, channel],   -log p(value | those before), the class not said
               float32
``by_class``   [image, class], float64          -log p(image | class), for every class
=============  ===============================  ==========================================================

Three likelihoods come of it (``measures.likelihoods``). They differ in meaning, and none is the marginal of
another: ``null`` asks the vector that training puts where the class is left out.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.devices import Device
from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Folder, read_array
from steps.core.tensors import write_tensors
from steps.core.training import prepare
from steps.fractal.generators.saved import load

if TYPE_CHECKING:
    import numpy as np

    from steps.fractal.generators.levels import Fractal


class Settings(BaseSettings):
    """How likelihoods are computed."""

    batch: int = Field(360, ge=1, le=1 << 20, description="images scored at once; memory grows with it")
    device: Device = Field("cpu", description="where models run")
    threads: int = Field(1, ge=1, le=1024, description="arithmetic threads")


def nats(model: Fractal, pixels: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """``null`` and ``by_class``, as in the module's docstring.

    Args:
        model: in evaluation mode.
        pixels: ``uint8 [image, row, column, channel]``.
        batch: images at once.
    """
    import numpy as np
    import torch

    from steps.fractal.generators.levels import NULL

    device = model.classes.device
    starts = range(0, len(pixels), batch)
    jobs = [(label, start) for label in (NULL, *range(model.images.classes)) for start in starts]
    null = np.empty(pixels.shape, np.float32)
    by_class = np.empty((len(pixels), model.images.classes))
    with torch.inference_mode():
        for label, start in progress(jobs, len(jobs), "batches scored"):
            images = torch.from_numpy(pixels[start : start + batch]).long().to(device)
            found = model.nll(images, torch.full((len(images),), label, device=device))
            if label == NULL:
                null[start : start + batch] = found.cpu().numpy()
            else:
                by_class[start : start + batch, label] = found.cpu().double().sum((1, 2, 3)).numpy()
    return null, by_class


def main(model: Path, images: Path, settings: Settings, out: Output) -> None:
    """Score the test images under ``model``."""
    store, folder = Folder(images, "images"), Folder(model, "fractal_model")
    folder.require_made_with(store)
    prepare(settings.threads)
    null, by_class = nats(load(model, settings.device), read_array(store, "test"), settings.batch)
    if not math.isfinite(float(null.sum() + by_class.sum())):
        raise UserError(f"{model}: gives images a probability of 0; lower fractal.train.rate and train again")
    facts = {
        "kind": "fractal_likelihood",
        "made_from": {
            "model": folder.fingerprint,
            "images": store.fingerprint,
            "settings": settings.model_dump(),
            "code": code_digest("fractal.likelihood"),
        },
    }
    write_tensors(out, {"null": null, "by_class": by_class}, facts)


if __name__ == "__main__":
    run(main)
