"""Train one model from a seed (docs/fractal.md).

Reads the images' ledger (``train``: ``uint8 [image, row, column, channel]``, and labels). The seed decides
the initial weights, the order of the images, a permutation for each epoch, and whose class is left out. The
loss is the mean cross-entropy of all values, back-propagated through all levels at once.

Writes a folder of kind ``fractal_model``: ``config.json``, ``model.safetensors`` (float32) and
``curve.json``, a list of ``{"step", "images", "rate", "bits_per_dim"}``, where ``images`` counts those seen,
and ``bits_per_dim`` is the mean training loss since the point before, in bits per value.

A training that was killed resumes from its last saved state and gives the same bits
(``steps.core.training``).
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from steps.core.devices import Device, torch_device
from steps.core.digest import code_digest
from steps.core.digest import seed as derive
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import NO_INFLUENCE
from steps.core.settings import Settings as BaseSettings
from steps.core.statistics import exact
from steps.core.stores import Folder, Ledger, read_array, write_json
from steps.core.training import (
    Training,
    batch_of,
    cosine,
    decay_groups,
    prepare,
    require_finite,
    set_rate,
)
from steps.fractal.generators.saved import CONFIG, WEIGHTS, save
from steps.fractal.generators.shapes import Architecture, Images, images_of

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("reprise")

STEP = "fractal.train"

CURVE = "curve.json"

STATE = ".training.safetensors"

POINTS = 20
"""Of the curve, evenly spaced."""


class Settings(BaseSettings):
    """How models are trained."""

    steps: int = Field(400, ge=1, le=10**9, description="optimizer steps")
    batch: int = Field(48, ge=1, le=1 << 20, description="images per step (published code: 2048)")
    rate: float = Field(
        3e-3, gt=0, description="peak learning rate of AdamW, after warm-up; then half a cosine down to 0"
    )
    warmup: float = Field(
        0.05, ge=0, le=1, description="share of the steps until the peak rate (published code: 0.05)"
    )
    weight_decay: float = Field(
        0.05, ge=0, description="of matrices; vectors have none (published code: 0.05)"
    )
    clip: float = Field(3.0, gt=0, description="largest norm of the gradient (published code: 3)")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="in the blocks of patches, for long trainings (published code: 0.1)"
    )
    label_drop: float = Field(
        0.3, ge=0, le=1, description="share of images whose class is left out in a step (published code: 0.1)"
    )
    device: Device = Field("cpu", description="where models are trained")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the arithmetic: float32 or bfloat16; weights are float32"
    )
    threads: int = Field(1, ge=1, le=1024, description="arithmetic threads")
    save_seconds: float = Field(
        30.0,
        ge=0,
        description="seconds between writings of the state that survives a kill; no influence on the result",
        json_schema_extra=NO_INFLUENCE,
    )


def train(
    pixels: np.ndarray,
    labels: np.ndarray,
    architecture: Architecture,
    shape: Images,
    seed: int,
    settings: Settings,
    ledger: Ledger,
) -> Training:
    """Train a model and write it; the training's state and the ledger are left to the caller to finish.

    Args:
        pixels: ``uint8 [image, row, column, channel]``.
        labels: ``[image]``.
        architecture: of the model.
        shape: what the images are.
        seed: of weights, order, dropout and classes left out.
        settings: the step's settings.
        ledger: of the folder to write into.

    Raises:
        UserError: there is no such device, or the loss is not finite.
    """
    import torch

    from steps.fractal.generators.levels import NULL, Fractal

    device = torch_device(settings.device)
    torch.manual_seed(derive(seed, STEP, "weights"))
    model = Fractal(architecture, shape, settings.dropout).to(device).train()
    groups = decay_groups(model.parameters(), settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95), fused=True)
    loss_sum = torch.zeros((), device=device)
    state = Training(
        ledger.folder / STATE,
        ledger.fingerprint,
        {"model": model},
        {"adamw": optimizer},
        {"loss_sum": loss_sum},
        save_seconds=settings.save_seconds,
    )
    images = torch.from_numpy(pixels).long()
    classes = torch.from_numpy(labels.astype("int64")) if shape.classes else torch.full((len(labels),), NULL)
    warmup = round(exact(settings.warmup) * settings.steps)
    points = {round(settings.steps * (k + 1) / POINTS) for k in range(POINTS)}
    precision = torch.autocast(device.type, torch.bfloat16, enabled=settings.dtype == "bfloat16")
    since = (state.step, time.monotonic())
    for step in state.steps(settings.steps, seed, f"steps of seed {seed}"):
        rate = settings.rate * cosine(step, settings.steps, warmup, floor=0)
        set_rate(optimizer, rate)
        rows = torch.from_numpy(batch_of(step, len(images), settings.batch, seed, STEP))
        left_out = torch.rand(len(rows)) < settings.label_drop
        given = torch.where(left_out, NULL, classes[rows]).to(device)
        with precision:
            loss = model.nll(images[rows].to(device), given).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss_sum += loss.detach()
        done = step + 1
        if done in points:
            before = state.curve[-1]["step"] if state.curve else 0
            nats = loss_sum.item() / (done - before)
            require_finite(nats, "training", done, settings.steps, "lower fractal.train.rate (or .clip)")
            loss_sum.zero_()
            state.curve.append(
                {
                    "step": done,
                    "images": done * settings.batch,
                    "rate": rate,
                    "bits_per_dim": nats / math.log(2),
                }
            )
            now = time.monotonic()
            pace = (done - since[0]) * settings.batch / max(now - since[1], 1e-9)
            since = (done, now)
            logger.info(
                "step %d of %d: %.3f bits per value, %.0f images/s",
                *(done, settings.steps, nats / math.log(2), pace),
            )
    save(model, ledger)
    write_json(ledger.place(CURVE), state.curve)
    ledger.record(CURVE)
    return state


def main(images: Path, model: Architecture, seed: int, settings: Settings, out: Output) -> None:
    """Train the model of ``seed``."""
    if seed < 0:
        raise UserError(f"--seed: found {seed}, expected a number from 0")
    store = Folder(images, "images")
    shape = images_of(store.attributes)
    model.require_side(shape.side, "--model")
    made_from: dict[str, Any] = {
        "images": store.fingerprint,
        "model": model.model_dump(),
        "seed": seed,
        "settings": settings.model_dump(exclude={"save_seconds"}),
        "code": code_digest(STEP),
    }
    ledger = Ledger(out, "fractal_model", made_from, ("numpy", "safetensors", "torch"))
    if {CONFIG, WEIGHTS, CURVE} <= ledger.files.keys():
        (ledger.folder / STATE).unlink(missing_ok=True)  # killed between the last file and its removal
    else:
        prepare(settings.threads)
        pixels, labels = read_array(store, "train"), read_array(store, "train_label")
        train(pixels, labels, model, shape, seed, settings, ledger).finish()
    ledger.finish({"images": store.fingerprint, "seed": seed})


if __name__ == "__main__":
    run(main)
