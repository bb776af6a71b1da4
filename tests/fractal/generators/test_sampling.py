"""Sampling: what the likelihood says, with caches or without, seeded, and without dropout."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.fractal import uncached
from steps.core.errors import UserError
from steps.fractal.generators.levels import NULL, Fractal
from steps.fractal.generators.sampling import PLAIN, Guidance, draw, guided, running_sums, sample, uniforms_of
from steps.fractal.generators.shapes import Architecture, Images
from tests.fractal.conftest import SMALL, lively_model

DIGITS = Images(8, 1, 17, 3)
COLOURS = Images(8, 3, 5, 3)


def uniforms(count: int, shape: Images, first: int = 0) -> torch.Tensor:
    return uniforms_of(list(range(first, first + count)), (shape.side, shape.side, shape.channels))


def test_cached_steps_say_what_whole_sequences_do() -> None:
    """Within 1e-5 in float32, at every level."""
    model = lively_model({**SMALL, "depths": [3, 3, 3]}, COLOURS, torch.float32)
    torch.manual_seed(1)
    with torch.inference_mode():
        for level, above in zip(model.levels, (8, 8), strict=True):
            condition = torch.randn(6, above)
            patches = torch.rand(6, level.tokens - 1, level.embed_patch.in_features) * 2 - 1
            whole = level(condition, patches)
            caches = level.begin(6)
            given = [condition, *patches.unbind(1)]
            steps = [level.step(place, given[place], caches) for place in range(level.tokens)]
            assert (torch.stack(steps, 1) - whole).abs().max() < 1e-5
            assert (whole[:, 1] - whole[:, 0]).abs().max() > 0.1
        condition, pixels = torch.randn(6, 8), torch.randint(0, 5, (6, 3))
        whole = model.pixels(condition, pixels[:, :-1])
        caches = model.pixels.begin(6)
        given = [condition, *pixels.unbind(1)]
        steps = [model.pixels.step(channel, given[channel], caches) for channel in range(3)]
        logits = torch.stack(steps, 1)
        assert (logits - whole).abs().max() < 1e-5
        assert float(whole.std()) > 0.1


@pytest.mark.parametrize("guidance", [PLAIN, Guidance(3.0), Guidance(2.0, "constant", 1.2, 0.01)])
def test_cached_and_uncached_draw_the_same_in_float64(guidance: Guidance) -> None:
    model = lively_model(SMALL, COLOURS)
    labels, random = torch.tensor([0, 1, 2, NULL]), uniforms(4, COLOURS)
    ours = sample(model, labels, random, guidance)
    assert torch.equal(ours, uncached(model, labels, random, guidance))
    assert len(torch.unique(ours)) == 5


def test_one_cached_query_sees_everything_before_it() -> None:
    """``is_causal`` aligns top left: with it, a single query would see the first key alone."""
    torch.manual_seed(0)
    query, keys, values = torch.randn(1, 1, 1, 4), torch.randn(1, 1, 5, 4), torch.randn(1, 1, 5, 4)
    masked = scaled_dot_product_attention(query, keys, values, is_causal=True)
    assert torch.allclose(masked[0, 0, 0], values[0, 0, 0])
    model = lively_model(SMALL, DIGITS)
    level = model.levels[1]
    torch.manual_seed(1)
    patches = torch.rand(1, level.tokens - 1, 1).double()
    ends = []
    for moved in (0.0, 0.5):  # the second token, neither the first nor the last
        caches = level.begin(1)
        level.step(0, torch.ones(1, 8).double(), caches)
        for place in range(1, level.tokens):
            given = patches[:, place - 1] + (moved if place == 1 else 0)
            end = level.step(place, given, caches)
        ends.append(end)
    assert (ends[0] - ends[1]).abs().max() > 1e-6


def test_draws_follow_the_likelihood() -> None:
    """All 256 images of 2 x 2 with four values each, and their frequencies among 20,000 draws."""
    shape = Images(2, 1, 4, 2)
    model = lively_model({"sides": [2, 1], "widths": [4, 4], "depths": [1, 1], "heads": [1, 1]}, shape)
    images = torch.tensor(list(itertools.product(range(4), repeat=4))).view(-1, 2, 2, 1)
    count = 20_000
    for label in (1, NULL):
        with torch.inference_mode():
            nats = model.nll(images, torch.full((256,), label)).sum((1, 2, 3))
        expected = (-nats).exp().numpy() * count
        random = 1 - torch.from_numpy(np.random.default_rng(label + 1).random((count, 2, 2, 1)))
        drawn = sample(model, torch.full((count,), label), random).view(count, 4)
        numbers = (drawn * torch.tensor([64, 16, 4, 1])).sum(1).numpy()
        found = np.bincount(numbers, minlength=256)
        often = expected >= 5
        pooled = [np.append(each[often], each[~often].sum()) for each in (found, expected)]
        assert often.sum() > 20
        assert chisquare(pooled[0], pooled[1] / pooled[1].sum() * count).pvalue > 1e-3


def test_no_value_is_drawn_that_does_not_exist_or_has_probability_0() -> None:
    """A quarter or so of float32 sums end below 1; a uniform above the last one would give value 256."""
    torch.manual_seed(0)
    logits = torch.randn(4000, 256) * 3
    sums = logits.softmax(1).cumsum(1)
    short = sums[:, -1] < 1
    assert 0.1 < short.float().mean() < 0.6
    naive = torch.searchsorted(sums[short], torch.ones(int(short.sum()), 1))
    assert (naive == 256).all()
    for largest in (1.0, 1 - 2**-53):
        assert draw(logits, torch.full((4000,), largest, dtype=torch.float64)).max() <= 255
    impossible = torch.full((3, 4), -math.inf)
    impossible[:, 2] = 0.0
    ends = torch.tensor([2**-53, 0.5, 1.0], dtype=torch.float64)
    assert draw(impossible, ends).tolist() == [2, 2, 2]


def test_sums_by_product_are_sums() -> None:
    """As taken on GPUs, where cumsum is not deterministic."""
    torch.manual_seed(0)
    shares = (torch.randn(50, 256) * 4).double().softmax(1)
    exact, product = running_sums(shares, by_product=False), running_sums(shares, by_product=True)
    assert (exact - product).abs().max() < 1e-14


def test_a_draw_is_an_inversion() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.7]]).log().repeat(5, 1)
    places = torch.tensor([0.0999, 0.1001, 0.2999, 0.3001, 1.0], dtype=torch.float64)
    assert draw(logits, places).tolist() == [0, 1, 1, 2, 2]


def test_dropout_is_off_while_sampling_and_back_afterwards() -> None:
    """Left on it is easily missed: images look plausible, and fit their class less."""
    torch.manual_seed(0)
    model = Fractal(Architecture(**SMALL), DIGITS, 0.5)
    labels, random = torch.tensor([0, 1, 2]), uniforms(3, DIGITS)
    quiet = sample(model.eval(), labels, random)
    assert not model.training
    assert torch.equal(sample(model.train(), labels, random), quiet)
    assert all(module.training for module in model.modules())
    given = (model.condition(labels), torch.zeros(3, 0, 16))
    assert not torch.equal(model.levels[0](*given), model.eval().levels[0](*given))  # it would matter


def test_images_are_those_of_their_random_numbers_whatever_is_drawn_beside_them() -> None:
    """In float64 to the last value; in float32 but for rounding.

    A float32 product of one row may differ in its last bits from that row in a larger batch. Whether it does
    is the CPU's business, so this does not test that it does, but that nothing else depends on the batch.
    """
    model = lively_model(SMALL, DIGITS)
    labels, random = torch.arange(64) % 3, uniforms(64, DIGITS)
    together = sample(model, labels, random)
    alone = torch.cat([sample(model, labels[k : k + 1], random[k : k + 1]) for k in range(0, 64, 16)])
    assert torch.equal(together[::16], alone)
    assert len(torch.unique(together.flatten(1), dim=0)) == 64
    single = lively_model(SMALL, DIGITS, torch.float32)
    assert torch.equal(batch := sample(single, labels, random), sample(single, labels, random))
    apart = torch.cat([sample(single, labels[k : k + 1], random[k : k + 1]) for k in range(0, 64, 8)])
    assert (apart == batch[::8]).float().mean() > 0.9  # one value drawn otherwise moves those after it
    assert (apart == batch[1::8]).float().mean() < 0.5


@pytest.mark.parametrize("label", [3, 4, -2])
def test_labels_of_no_class_are_refused(label: int) -> None:
    """The row behind the last class is that of images whose class nobody says."""
    model = lively_model(SMALL, DIGITS)
    labels = torch.tensor([0, label, NULL])
    with pytest.raises(UserError, match=f"^labels: found {label}, expected one of the model's 3 classes"):
        sample(model, labels, uniforms(3, DIGITS))
    with pytest.raises(IndexError):
        model.condition(labels)
    assert torch.equal(model.condition(torch.tensor([2, NULL])), model.classes[2:])


def test_random_numbers_belong_to_images_and_never_are_0() -> None:
    both = uniforms_of([3, 4], (8, 8, 1))
    assert torch.equal(both[1:], uniforms_of([4], (8, 8, 1)))
    assert not torch.equal(both[0], both[1])
    assert both.dtype == torch.float64
    assert 0 < both.min() < both.max() <= 1


def test_guidance_presses_for_the_class() -> None:
    logits = torch.tensor([[2.0, 0.0, -20.0], [0.0, 1.0, -1.0]])  # given the class, and without
    assert torch.equal(guided(logits[:1], Guidance(temperature=2.0), 1.0, False), logits[:1] * 2)
    plain = guided(logits, PLAIN, 3.0, True)
    assert torch.allclose(plain, torch.tensor([[6.0, -2.0, -58.0]]))
    # The third value is implausible given the class (e-10): the other half is raised to it, at equal maxima.
    logits = torch.tensor([[2.0, 0.0, -8.0], [0.0, 1.0, -30.0]])
    assert guided(logits, PLAIN, 3.0, True)[0, 2] == pytest.approx(-30 + 3 * 22)
    floored = guided(logits, Guidance(floor=1e-3), 3.0, True)
    assert floored[0, :2].tolist() == [6.0, -2.0]
    assert floored[0, 2] == pytest.approx(-9 + 3 * 1)  # -8 - 2 + 1 = -9


def test_the_schedule_grows_to_the_full_weight() -> None:
    assert [Guidance(5.0).at(place, 4) for place in range(4)] == [2.0, 3.0, 4.0, 5.0]
    assert [Guidance(5.0, "constant").at(place, 4) for place in (0, 3)] == [5.0, 5.0]


def test_guidance_makes_images_likelier_given_their_class_than_without() -> None:
    model = lively_model(SMALL, DIGITS)
    labels, random = torch.arange(60) % 3, uniforms(60, DIGITS)

    def contrast(images: torch.Tensor) -> float:
        with torch.inference_mode():
            return float((model.nll(images, torch.full((60,), NULL)) - model.nll(images, labels)).mean())

    none = contrast(sample(model, labels, random))
    linear, constant = (
        contrast(sample(model, labels, random, Guidance(4.0, how))) for how in ("linear", "constant")
    )
    assert none < linear < constant
