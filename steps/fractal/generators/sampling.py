"""Drawing images: depth first, value by value, with caches (docs/fractal.md).

Every random number belongs to one value of one image: it comes in from outside, as an image of uniforms. So
the same image is drawn whatever is drawn beside it, but for rounding: a float32 product of one row may differ
in its bits from the same row in a larger batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from steps.core.errors import UserError
from steps.fractal.generators.levels import NULL, patchify, unpatchify

if TYPE_CHECKING:
    from torch import Tensor

    from steps.fractal.generators.levels import Fractal


class Guidance(NamedTuple):
    """How the class is pressed for (docs/fractal.md, Sampling)."""

    weight: float = 1.0
    """1: the model's own distribution; more: further from what it makes without a class."""
    schedule: Literal["linear", "constant"] = "linear"
    """linear: the weight grows from patch to patch of the top level, and is full at the last one."""
    temperature: float = 1.0
    """Logits are multiplied by it, as in the published code: above 1 is sharper."""
    floor: float = 0.0
    """Values that are less probable than this, given the class, are not made likelier; 0: no filter."""

    def at(self, place: int, places: int) -> float:
        """The weight for one of the top level's patches."""
        share = (place + 1) / places if self.schedule == "linear" else 1.0
        return 1 + (self.weight - 1) * share


PLAIN = Guidance()
"""The model's own distribution."""


@torch.inference_mode()
def sample(model: Fractal, labels: Tensor, uniforms: Tensor, guidance: Guidance = PLAIN) -> Tensor:
    """Draw an image for each label; dropout is off meanwhile.

    Args:
        model: the model.
        labels: ``int64 [images]``; ``NULL`` where any class will do.
        uniforms: ``float64 [images, side, side, channels]``, above 0 and at most 1: one for each value, drawn
            on their device, whatever that of the model.
        guidance: of the class.

    Returns:
        ``int64`` of the shape of ``uniforms``, on the model's device.

    Raises:
        UserError: a label is none of the model's classes.
    """
    classes = model.images.classes
    if len(unknown := labels[(labels != NULL) & ((labels < 0) | (labels >= classes))]):
        raise UserError(
            f"labels: found {int(unknown[0])}, expected one of the model's {classes} classes, counted from 0,"
            f" or {NULL} where the class is not said"
        )
    with _without_dropout(model):
        condition = model.condition(labels)
        if guidance.weight != 1:  # the second half of all rows draws nothing, it is what is pressed away from
            condition = torch.cat([condition, model.condition(torch.full_like(labels, NULL))])
        return _fill(model, 0, condition, uniforms, guidance, guidance.weight)


@contextlib.contextmanager
def _without_dropout(model: Fractal) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _fill(
    model: Fractal, number: int, condition: Tensor, uniforms: Tensor, guidance: Guidance, weight: float
) -> Tensor:
    """Fill ``[images, side, side, channels]`` by the level ``number``; see :func:`sample`.

    With guidance, ``condition`` has a row for each image with its class, then one for each without.
    """
    if number == len(model.levels):
        return _draw_pixels(model, condition, uniforms, guidance, weight)
    level, patch = model.level(number), model.architecture.sides[number + 1]
    uniform_patches = patchify(uniforms, patch)
    patches = torch.zeros(uniform_patches.shape, dtype=torch.int64, device=condition.device)
    copies = len(condition) // len(uniforms)
    caches = level.begin(len(condition))
    for place in range(level.tokens):
        given = model.scaled(patches[:, place - 1]).repeat(copies, 1) if place else condition
        below = level.step(place, given, caches)
        current = guidance.at(place, level.tokens) if number == 0 else weight
        patches[:, place] = _fill(model, number + 1, below, uniform_patches[:, place], guidance, current)
    return unpatchify(patches)


def _draw_pixels(
    model: Fractal, condition: Tensor, uniforms: Tensor, guidance: Guidance, weight: float
) -> Tensor:
    flat = uniforms.flatten(1)
    values = torch.zeros(flat.shape, dtype=torch.int64, device=condition.device)
    copies = len(condition) // len(uniforms)
    caches = model.pixels.begin(len(condition))
    for channel in range(flat.shape[1]):
        given = values[:, channel - 1].repeat(copies) if channel else condition
        logits = guided(model.pixels.step(channel, given, caches), guidance, weight, copies == 2)
        values[:, channel] = draw(logits, flat[:, channel])
    return values.view(uniforms.shape)


def guided(logits: Tensor, guidance: Guidance, weight: float, both: bool) -> Tensor:
    """Logits to draw from, in the order of the published code (docs/fractal.md, Sampling).

    Args:
        logits: ``[images, values]``; of ``both`` with the class, then as many without.
        guidance: its temperature and floor.
        weight: the current one.
        both: whether there are two halves.
    """
    logits = logits * guidance.temperature
    if not both:
        return logits
    with_class, without = logits.chunk(2)
    if guidance.floor:
        # where the class makes a value implausible, the other half may not make it likelier by contrast
        least = with_class + (without.amax(1, keepdim=True) - with_class.amax(1, keepdim=True))
        implausible = with_class.softmax(1) < guidance.floor
        without = torch.where(implausible, torch.maximum(without, least), without)
    return without + weight * (with_class - without)


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One value for each row of logits ``[rows, values]``, by inversion, on the device of the uniforms.

    The sums of probabilities end a little off 1, so uniforms (above 0, at most 1) are scaled by the last one:
    no value comes out that does not exist, nor one of probability 0.
    """
    shares = logits.to(uniforms.device).double().softmax(1)
    sums = running_sums(shares, by_product=shares.is_cuda)
    return torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:])[:, 0].clamp(max=shares.shape[1] - 1)


def running_sums(shares: Tensor, by_product: bool) -> Tensor:
    """Probabilities ``[rows, values]`` summed up; ``by_product`` where cumsum is not deterministic (GPUs)."""
    if by_product:
        return shares @ shares.new_ones(2 * shares.shape[1:]).triu()
    return shares.cumsum(1)


def uniforms_of(seeds: list[int], shape: tuple[int, ...]) -> Tensor:
    """Uniforms ``float64 [images, *shape]``, above 0 and at most 1, of each image from a seed of its own."""
    import numpy as np

    return torch.from_numpy(np.stack([1 - np.random.default_rng(seed).random(shape) for seed in seeds]))
