"""The recursive model: a probability distribution, exactly, in which nothing sees what comes after it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from steps.fractal.generators.levels import NULL, Fractal, patchify, unpatchify
from steps.fractal.generators.shapes import Architecture, Images
from tests.fractal.conftest import SMALL, lively_model, strong_model

TWO: dict[str, Any] = {"sides": [2, 1], "widths": [4, 4], "depths": [1, 1], "heads": [1, 1]}
THREE: dict[str, Any] = {"sides": [4, 2, 1], "widths": [4, 4, 4], "depths": [1, 1, 1], "heads": [1, 1, 1]}


def total(model: Fractal, side: int, label: int) -> float:
    """The sum of the probabilities of all images."""
    shape = (side, side, model.images.channels)
    size = side * side * model.images.channels
    images = torch.cartesian_prod(*[torch.arange(model.images.values)] * size).view(-1, *shape)
    assert len(images) == model.images.values**size
    parts = []
    with torch.inference_mode():
        for some in images.split(1024):
            nats = model.nll(some, torch.full((len(some),), label))
            parts.append((-nats.sum((1, 2, 3))).exp())
    probabilities = torch.cat(parts)
    assert probabilities.max() > 20 / len(images)  # far from uniform
    return float(probabilities.sum())


def test_all_binary_images_of_three_levels_have_probability_1() -> None:
    model = strong_model(THREE, Images(4, 1, 2, 2))
    assert total(model, 4, 1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("label", "classes"), [(NULL, 0), (NULL, 3), (2, 3)])
def test_all_images_of_two_channels_and_three_values_have_probability_1(label: int, classes: int) -> None:
    model = strong_model(TWO, Images(2, 2, 3, classes))
    assert total(model, 2, label) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("width", "values", "channels"), [(64, 17, 1), (64, 256, 3), (256, 256, 1)])
def test_before_training_values_are_nearly_alike(width: int, values: int, channels: int) -> None:
    """Tables that are tied make logits of variance width * .02 ** 2, so log2(values) and a little more."""
    torch.manual_seed(0)
    model = Fractal(
        Architecture(sides=[8, 4, 1], widths=[16, 16, width], depths=[1, 1, 1], heads=[2, 2, 4]),
        Images(8, channels, values, 10),
    ).eval()
    images = torch.randint(0, values, (200, 8, 8, channels))
    with torch.inference_mode():
        bits = float(model.nll(images, torch.arange(200) % 10).mean()) / math.log(2)
    expected = math.log2(values) + width * 0.02**2 / (2 * math.log(2))
    assert bits == pytest.approx(expected, abs=0.02)
    assert expected - math.log2(values) > (0.07 if width == 256 else 0.017)


def test_sizes_are_free() -> None:
    """Any number of levels, channels and values; each value has a probability."""
    for sides, channels, values in (([8, 1], 1, 17), ([12, 6, 3, 1], 2, 5), ([8, 4, 2, 1], 3, 256)):
        count = len(sides)
        model = strong_model(
            {"sides": sides, "widths": [8] * count, "depths": [1] * count, "heads": [2] * count},
            Images(sides[0], channels, values, 0),
            torch.float32,
        )
        images = torch.randint(0, values, (2, sides[0], sides[0], channels))
        nats = model.nll(images, torch.tensor([NULL, NULL]))
        assert nats.shape == images.shape
        assert nats.isfinite().all()
        assert (nats >= 0).all()


def order(sides: list[int], channels: int) -> torch.Tensor:
    """When each value of an image comes, ``[side, side, channels]``, written down by hand, level by level."""
    times = torch.zeros(sides[0], sides[0], channels, dtype=torch.int64)
    size = sides[0] ** 2 * channels

    def fill(top: int, left: int, number: int, start: int, span: int) -> None:
        if number == len(sides) - 1:
            times[top, left] = torch.arange(start, start + channels)
            return
        grid, patch = sides[number] // sides[number + 1], sides[number + 1]
        for place, (row, column) in enumerate(itertools.product(range(grid), repeat=2)):
            part = span // grid**2
            fill(top + row * patch, left + column * patch, number + 1, start + place * part, part)

    fill(0, 0, 0, 0, size)
    return times


@pytest.mark.parametrize("sides", [[4, 1], [4, 2, 1], [8, 4, 2, 1]], ids=str)
def test_nothing_sees_itself_or_what_comes_after_it(sides: list[int]) -> None:
    """At no level: a changed value moves probabilities of itself and later ones, and no others."""
    count, channels, values = len(sides), 2, 4
    model = strong_model(
        {"sides": sides, "widths": [8] * count, "depths": [2] * count, "heads": [2] * count},
        Images(sides[0], channels, values, 2),
    )
    times = order(sides, channels)
    torch.manual_seed(1)
    image = torch.randint(0, values, (1, sides[0], sides[0], channels))
    label = torch.tensor([1])
    reached = torch.zeros(times.numel(), dtype=torch.bool)
    with torch.inference_mode():
        before = model.nll(image, label)[0]
        for index in itertools.product(range(sides[0]), range(sides[0]), range(channels)):
            changed = image.clone()
            changed[0][index] = (image[0][index] + 1) % values
            moved = (model.nll(changed, label)[0] - before).abs() > 1e-12
            assert not moved[times < times[index]].any()
            assert moved[index]
            reached[times[moved]] = True
            assert moved[times > times[index]].any() or times[index] == times.max()
    assert reached.all()


def test_the_class_and_its_absence_matter() -> None:
    model = lively_model(SMALL, Images(8, 1, 17, 3))
    images = torch.zeros(4, 8, 8, 1, dtype=torch.int64)
    nats = model.nll(images, torch.tensor([0, 1, 2, NULL])).sum((1, 2, 3))
    assert len(set(nats.tolist())) == 4


def test_patches_are_in_raster_order_and_come_back() -> None:
    images = torch.arange(2 * 6 * 6 * 2).view(2, 6, 6, 2)
    patches = patchify(images, 3)
    assert patches.shape == (2, 4, 3, 3, 2)
    assert torch.equal(patches[1, 1], images[1, :3, 3:])
    assert torch.equal(patches[0, 2], images[0, 3:, :3])
    assert torch.equal(unpatchify(patches), images)


def test_levels_take_values_by_channel_from_minus_one_to_one() -> None:
    model = strong_model(TWO, Images(2, 2, 3, 0))
    pixel = torch.tensor([[[[0, 1], [2, 2]], [[1, 0], [0, 2]]]])  # a patch of 2 x 2, two channels
    assert model.scaled(pixel).tolist() == [[-1, 1, 0, -1, 0, 1, -1, 1]]


def test_weights_begin_as_published() -> None:
    torch.manual_seed(0)
    model = Fractal(Architecture(), Images(8, 1, 17, 10), 0.1)
    for name, parameter in model.named_parameters():
        weights = parameter.detach()
        if "norm" in name:
            assert (weights == (0 if name.endswith("bias") else 1)).all(), name
        elif "bias" in name:
            assert (weights == 0).all(), name
        elif name == "classes" or "positions" in name or "tables" in name:
            assert float(weights.std()) == pytest.approx(0.02, rel=0.15), name
        else:
            rows, columns = weights.shape
            rows //= 2 if name.endswith("gate_up.weight") else 1
            limit = math.sqrt(6 / (rows + columns))
            assert float(weights.abs().max()) <= limit, name
            assert float(weights.abs().max()) > 0.95 * limit, name


def test_the_hidden_width_of_gated_mlps_is_rounded_up() -> None:
    """512 at a width of 128, 256 at 32: at small widths rounding decides (published code)."""
    wide = Fractal(
        Architecture(sides=[8, 4, 1], widths=[128, 32, 8], depths=[1, 1, 1], heads=[4, 2, 1]),
        Images(8, 1, 2, 0),
    )
    assert [level.blocks[0].down.weight.shape[1] for level in wide.levels] == [512, 256]


def test_attention_of_training_runs_in_one_fused_kernel() -> None:
    """With dropout inside attention the CPU has none; ours drops what attention adds, as published."""
    torch.manual_seed(0)
    model = Fractal(Architecture(**SMALL), Images(8, 1, 17, 0), 0.1).train()

    def kernels(work: Any) -> set[str]:
        with torch.profiler.profile() as profile:
            work()
        return {event.key for event in profile.key_averages() if "scaled_dot_product" in event.key}

    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    images = torch.zeros(2, 8, 8, 1, dtype=torch.int64)
    assert fused in kernels(lambda: model.nll(images, torch.tensor([NULL, NULL])))
    q = torch.randn(2, 2, 4, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert fused in kernels(lambda: attend(q, q, q, is_causal=True))
    assert fused not in kernels(lambda: attend(q, q, q, is_causal=True, dropout_p=0.1))
