"""The images of a study, split into a training and a test side (docs/fractal.md).

Reads the digits that come with scikit-learn. A seeded permutation decides the split: the last ``test`` images
of it are the test side, which chooses nothing anywhere in this chapter. Writes a zarr store of kind
``images``:

===============  ====================================  =================================================
array            shape, dtype                          contents
===============  ====================================  =================================================
``train``        [image, row, column, channel], uint8  values from 0 to ``values`` - 1
``train_label``  [image], uint16                       index of the class in ``classes``
``test``         as ``train``                          images that nothing is trained on or chosen by
``test_label``   as ``train_label``                    of them
===============  ====================================  =================================================

Attributes: ``side`` (pixels), ``channels``, ``values``, ``classes`` (names), ``images`` (how many
of each side), ``sha256`` of each array's bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import Field

from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Ledger, write_array
from steps.fractal.sources.embedded import COUNT, digits


class Settings(BaseSettings):
    """How images are split."""

    test: int = Field(360, ge=2, le=COUNT - 2, description="images of the test side, of 1,797 digits")
    seed: int = Field(0, ge=0, description="of the split")


def main(settings: Settings, out: Output) -> None:
    """Write the digits, split into two sides."""
    import numpy as np

    images = digits()
    order = np.random.default_rng(settings.seed).permutation(len(images.pixels))
    cut = len(order) - settings.test
    absent = sorted({*range(len(images.classes))} - {*images.labels[order[:cut]].tolist()})
    if absent:
        raise UserError(
            f"fractal.images.test: found {settings.test}, which leaves no training image of class"
            f" {images.classes[absent[0]]!r}, expected one of each; lower it"
        )
    made_from: dict[str, Any] = {
        "images": hashlib.sha256(images.pixels.tobytes() + images.labels.tobytes()).hexdigest(),
        "settings": settings.model_dump(),
        "code": code_digest("fractal.images"),
    }
    ledger = Ledger(out, "images", made_from, ("numpy", "scikit-learn", "zarr"))
    hashes: dict[str, str] = {}
    for split, rows in (("train", order[:cut]), ("test", order[cut:])):
        pixels, labels = images.pixels[rows], images.labels[rows]
        image = f"{split}_image"
        write_array(ledger, split, pixels, (image, "row", "column", "channel"), description="pixel values")
        write_array(ledger, f"{split}_label", labels, (image,), description="index of the class in classes")
        hashes |= {
            name: hashlib.sha256(values.tobytes()).hexdigest()
            for name, values in ((split, pixels), (f"{split}_label", labels))
        }
    _, side, _, channels = images.pixels.shape
    ledger.finish(
        {
            "side": side,
            "channels": channels,
            "values": images.values,
            "classes": images.classes,
            "images": {"train": cut, "test": settings.test},
            "sha256": hashes,
        }
    )


if __name__ == "__main__":
    run(main)
