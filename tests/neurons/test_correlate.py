"""Correlations against ``numpy.corrcoef`` of what is stored, whatever the cut."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.tensors import read_tensors, write_tensors
from steps.neurons import correlate
from steps.neurons.activations.store import Activations, PostActivations
from steps.neurons.correlations import pearson as pearson_library
from steps.neurons.correlations import products as products_library
from steps.neurons.correlations.pairs import Pair, load_pairs
from tests.neurons.planted import correlate_pair, pearson, stored_post, write_activations, write_moments

EDGES = np.linspace(-1, 1, 100)
CONSTANT_A, CONSTANT_B = 7, 11
SINGLE = 3e-6
"""What single precision may cost: how products are summed depends on the processor."""


def coupled(
    tokens: int, a: int, b: int, mean: float, spread: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of columns with correlations of every strength, some nearly 1 or -1, float64."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((tokens, 12))
    sides = []
    for count in (a, b):
        values = latent @ rng.standard_normal((12, count)) + rng.standard_normal((tokens, count))
        sides.append(values / values.std(0))
    strength = np.linspace(-0.999, 0.999, 10)
    noise = rng.standard_normal((tokens, 10))
    sides[1][:, 20:30] = strength * sides[0][:, 20:30] + np.sqrt(1 - strength**2) * noise
    return mean + spread * sides[0], mean + spread * sides[1]


def expected_extremes(rho: np.ndarray, top: int, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and indices of the ``top`` largest (``sign`` 1) or smallest, equal ones by index."""
    index = np.argsort(-sign * rho, axis=1, kind="stable")[:, :top]
    return np.take_along_axis(rho, index, 1), index


def assert_summarises(pair: Pair, rho: np.ndarray, top: int, atol: float) -> None:
    """Check every summary of both views against the matrix."""
    for view, matrix in (("row", rho), ("column", rho.T)):
        for extreme, sign in (("top", 1), ("bottom", -1)):
            value, index = getattr(pair, f"{view}_{extreme}_value"), getattr(pair, f"{view}_{extreme}_index")
            wanted, numbers = expected_extremes(matrix, top, sign)
            np.testing.assert_allclose(value, wanted, rtol=0, atol=atol)
            np.testing.assert_allclose(np.take_along_axis(matrix, index, 1), value, rtol=0, atol=atol)
            assert all(len(set(row)) == len(row) for row in index.tolist())
            if atol < 1e-9:
                np.testing.assert_array_equal(index, numbers)
        powers = np.stack([(matrix**order).sum(1) for order in range(1, 5)])
        np.testing.assert_allclose(
            getattr(pair, f"{view}_powers"), powers, rtol=0, atol=atol * matrix.shape[1]
        )
        bins = np.stack([np.bincount(row, minlength=101) for row in np.digitize(matrix, EDGES)])
        clear = np.abs(matrix[..., None] - EDGES).min((1, 2)) > atol
        assert clear.mean() > 0.5
        histogram = getattr(pair, f"{view}_histogram")
        np.testing.assert_array_equal(histogram[clear], bins[clear])
        np.testing.assert_array_equal(histogram.sum(1), matrix.shape[1])


def assert_agree(pair: Pair, other: Pair, atol: float = 1e-10) -> None:
    for field in dataclasses.fields(Pair):
        found, wanted = getattr(pair, field.name), getattr(other, field.name)
        if isinstance(found, np.ndarray) and found.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted, rtol=0, atol=atol, err_msg=field.name)
        else:
            np.testing.assert_array_equal(found, wanted, err_msg=field.name)


@pytest.mark.parametrize("mean", [0, np.sqrt(35), np.sqrt(9999)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
def test_summaries_equal_corrcoef_of_the_stored_values(
    tmp_path: Path, activation: str, dtype: str, mean: float
) -> None:
    a, b = coupled(900, 64, 90, mean)
    a[:, CONSTANT_A] = b[:, CONSTANT_B] = mean + 0.7
    keep = np.random.default_rng(1).random(900) < 0.9
    ledgers = [
        write_activations(
            tmp_path / name,
            pre.astype(dtype),
            name=name,
            layers=layers,
            activation=activation,
            keep=keep,
            block_tokens=320,
        )
        for name, pre, layers in (("a", a, 1), ("b", b, 2))
    ]
    rho = pearson(*(stored_post(ledger, activation, keep) for ledger in ledgers))
    for precision, atol in (("float32", SINGLE), ("float64", 1e-10)):
        (pair,) = load_pairs(correlate_pair(tmp_path, *ledgers, precision=precision))
        assert_summarises(pair, rho, 50, atol)
        assert pair.tokens == keep.sum()
        assert (pair.neurons, pair.d_mlp) == ((64, 90), (64, 45))
        np.testing.assert_array_equal(pair.row_constant.nonzero()[0], [CONSTANT_A])
        np.testing.assert_array_equal(pair.column_constant.nonzero()[0], [CONSTANT_B])
        assert not pair.row_top_value[CONSTANT_A].any()
        assert not pair.column_bottom_value[CONSTANT_B].any()
        assert not pair.rotated_max[:, CONSTANT_A].any()
        assert np.isfinite(pair.rotated_max).all()


@pytest.mark.parametrize(("mean", "spread"), [(100, 1), (0, 60), (-40, 0.5)])
def test_large_blocks_keep_their_precision(tmp_path: Path, mean: float, spread: float) -> None:
    """Float32 sums over 8192 tokens at once, of neurons that correlate with 0.999."""
    a, b = coupled(16384, 40, 40, mean, spread)
    ledgers = [
        write_activations(tmp_path / name, pre.astype("float32"), name=name, block_tokens=8192)
        for name, pre in (("a", a), ("b", b))
    ]
    (pair,) = load_pairs(correlate_pair(tmp_path, *ledgers, precision="float32"))
    assert_summarises(pair, pearson(*(stored_post(ledger, "linear") for ledger in ledgers)), 40, SINGLE)


@pytest.mark.parametrize("step", [6, 60])
def test_a_first_stretch_unlike_the_rest_costs_no_precision(tmp_path: Path, step: float) -> None:
    """A pilot value from the first tokens would say nothing about the others."""
    a, b = coupled(4096, 40, 40, 30)
    a[:300] -= step
    b[:300, ::2] += 5
    ledgers = [
        write_activations(tmp_path / name, pre.astype("float32"), name=name, block_tokens=1024)
        for name, pre in (("a", a), ("b", b))
    ]
    (pair,) = load_pairs(correlate_pair(tmp_path, *ledgers, precision="float32"))
    assert_summarises(pair, pearson(*(stored_post(ledger, "linear") for ledger in ledgers)), 40, SINGLE)


def test_context_neurons_that_fire_in_the_first_text_keep_their_precision(tmp_path: Path) -> None:
    """They fire all through a few texts, the first among them: the pilot is far from their mean."""
    rng = np.random.default_rng(0)
    fires = np.zeros(16384, bool)
    fires[:256] = fires[9000:9256] = True
    ledgers = []
    for name in "ab":
        pre = 0.05 * rng.standard_normal((16384, 40)) - 0.1
        pre[fires] += 2 + 0.3 * rng.standard_normal((512, 40))
        ledgers.append(
            write_activations(
                tmp_path / name, pre.astype("float16"), name=name, activation="gelu_new", block_tokens=4096
            )
        )
    (pair,) = load_pairs(correlate_pair(tmp_path, *ledgers, precision="float32"))
    rho = pearson(*(stored_post(ledger, "gelu_new") for ledger in ledgers))
    np.testing.assert_allclose(pair.row_top_value, -np.sort(-rho, 1), rtol=0, atol=SINGLE)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_constants_of_any_value_are_constant_in_float64(tmp_path: Path, activation: str, dtype: str) -> None:
    """Sums of 53-bit numbers round, so a computed mean need not be the constant itself."""
    pre = np.random.default_rng(0).standard_normal((275, 10)).astype(dtype)
    pre[:, 3:8] = [0.1, 1.7, -0.3, 99.99, 0.731]
    ledgers = [
        write_activations(tmp_path / name, side, name=name, activation=activation)
        for name, side in (("a", pre), ("b", pre[:, ::-1].copy()))
    ]
    (pair,) = load_pairs(correlate_pair(tmp_path, *ledgers))
    assert pair.row_constant.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 0, 0]
    assert pair.column_constant.tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    assert not pair.row_top_value[3:8].any()
    assert not pair.rotated_max[:, 3:8].any()


def test_a_neuron_that_fires_once_is_not_constant(tmp_path: Path) -> None:
    pre = np.full((400, 4), -3.0, np.float32)
    pre[390, 0] = pre[390, 2] = 1e-3
    pre[7, 1] = 2
    ledgers = [
        write_activations(tmp_path / name, pre, name=name, activation="relu", layers=1) for name in ("a", "b")
    ]
    (pair,) = load_pairs(correlate_pair(tmp_path, *ledgers, precision="float32"))
    assert pair.row_constant.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(pair.row_top_value[:3, 0], 1, atol=SINGLE)
    np.testing.assert_allclose(pair.row_bottom_value[:3, 0], -1 / 399, atol=SINGLE)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], Pair]:
    """Two stores of 6 blocks, the last one short, and their correlations made in one piece."""
    folder = tmp_path_factory.mktemp("cut")
    a, b = coupled(310, 30, 36, 3)
    a[:, CONSTANT_A] = b[:, CONSTANT_B] = 0.1
    keep = np.random.default_rng(2).random(310) < 0.8
    keep[104:156] = False  # a whole block
    ledgers = [
        write_activations(
            folder / name,
            pre.astype("float32"),
            name=name,
            layers=layers,
            activation="gelu_new",
            keep=keep,
            block_tokens=52,
        )
        for name, pre, layers in (("a", a, 2), ("b", b, 3))
    ]
    (pair,) = load_pairs(correlate_pair(folder / "whole", *ledgers, top=7, draws=5))
    rho = pearson(*(stored_post(ledger, "gelu_new", keep) for ledger in ledgers))
    assert_summarises(pair, rho, 7, 1e-10)
    return folder, ledgers, pair


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    tiles=st.integers(1, 5), order=st.integers(1, 4).flatmap(lambda ranges: st.permutations(range(ranges)))
)
def test_cuts_agree(cut: tuple[Path, list[Path], Pair], tiles: int, order: list[int]) -> None:
    folder, ledgers, whole = cut
    files = correlate_pair(
        folder / "parts", *ledgers, tiles=tiles, ranges=len(order), order=order, top=7, draws=5
    )
    (pair,) = load_pairs(files[::-1])
    assert_agree(pair, whole)


@pytest.mark.parametrize(("tiles", "ranges"), [(30, 1), (1, 6), (7, 2)])
def test_finest_cuts_agree(cut: tuple[Path, list[Path], Pair], tiles: int, ranges: int) -> None:
    folder, ledgers, whole = cut
    files = correlate_pair(folder / "finest", *ledgers, tiles=tiles, ranges=ranges, top=7, draws=5)
    (pair,) = load_pairs(files)
    assert_agree(pair, whole)


def test_the_same_cut_gives_the_same_bytes(cut: tuple[Path, list[Path], Pair], tmp_path: Path) -> None:
    _, ledgers, _ = cut
    runs = [
        correlate_pair(tmp_path / run, *ledgers, tiles=2, ranges=2, precision="float32") for run in ("1", "2")
    ]
    assert [path.read_bytes() for path in runs[0]] == [path.read_bytes() for path in runs[1]]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    values=st.integers(1, 5),
    top=st.integers(1, 14),
    chunk=st.integers(1, 5),
    seed=st.integers(0, 10**6),
)
def test_summaries_of_any_matrix_with_ties(
    shape: tuple[int, int], values: int, top: int, chunk: int, seed: int
) -> None:
    """Equal correlations go by the lower neuron, also where the list ends among them."""
    rho = np.random.default_rng(seed).integers(0, values, shape) / 5 - 0.37
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pearson_library, "CHUNK", chunk)
        found = correlate.summarise(torch.from_numpy(rho.copy()), 100, top)
    for view, matrix, first in (("row", rho, 0), ("column", rho.T, 100)):
        for extreme, sign in (("top", 1), ("bottom", -1)):
            wanted, index = expected_extremes(matrix, top, sign)
            np.testing.assert_array_equal(found[f"{view}_{extreme}_value"], wanted)
            np.testing.assert_array_equal(found[f"{view}_{extreme}_index"], index + first)
        bins = np.stack([np.bincount(row, minlength=101) for row in np.digitize(matrix, EDGES)])
        np.testing.assert_array_equal(found[f"{view}_histogram"], bins)
        powers = np.stack([(matrix**order).sum(1) for order in range(1, 5)])
        np.testing.assert_allclose(found[f"{view}_powers"], powers, rtol=0, atol=1e-12)


def test_histogram_counts_as_numpy_does() -> None:
    rho = np.random.default_rng(0).uniform(-1, 1, (40, 300))
    rho[0, :4] = [-1, 1, 0, -0.0]
    found = correlate.summarise(torch.from_numpy(rho.copy()), 0, 5)["row_histogram"]
    for row, counts in zip(rho, found, strict=True):
        inside = np.histogram(row, EDGES)[0]
        inside[-1] -= (row == 1).sum()  # numpy closes the last bin, the paper's code does not
        np.testing.assert_array_equal(counts, [0, *inside, (row == 1).sum()])


def test_lists_are_as_long_as_there_are_partners(tmp_path: Path) -> None:
    a, b = coupled(200, 40, 30, 0)
    ledgers = [
        write_activations(tmp_path / name, pre.astype("float32"), name=name)
        for name, pre in (("a", a), ("b", b))
    ]
    (pair,) = load_pairs(correlate_pair(tmp_path, *ledgers, tiles=3, top=50))
    assert pair.row_top_value.shape == pair.row_bottom_index.shape == (40, 30)
    assert pair.column_top_value.shape == pair.column_bottom_index.shape == (30, 40)
    rho = pearson(*(stored_post(ledger, "linear") for ledger in ledgers))
    assert_summarises(pair, rho, 50, 1e-10)


def test_excluded_tokens_do_not_count(tmp_path: Path) -> None:
    """What the excluded tokens hold changes nothing: same correlations, same rotations, bit by bit."""
    rng = np.random.default_rng(0)
    keep = rng.random(300) < 0.7
    results = []
    for run, beyond in (("as-is", 0.0), ("other", 500.0)):
        ledgers = []
        for name, side in zip("ab", coupled(300, 30, 30, 0), strict=True):
            side[~keep] += beyond
            ledgers.append(
                write_activations(tmp_path / run / name, side.astype("float16"), name=name, keep=keep)
            )
        (file,) = correlate_pair(tmp_path / run, *ledgers, precision="float32")
        results.append(read_tensors(file)[0])
        rho = pearson(*(stored_post(ledger, "linear", keep) for ledger in ledgers))
        assert_summarises(load_pairs([file])[0], rho, 30, 1e-6)
    for name, values in results[0].items():
        assert values.tobytes() == results[1][name].tobytes(), name


def small(folder: Path, name: str = "a", **changes: object) -> Path:
    pre = np.random.default_rng(len(name) + ord(name[0])).standard_normal((128, 8)).astype("float32")
    return write_activations(folder / name, pre, name=name, **changes)  # type: ignore[arg-type]


def test_a_model_with_itself_is_refused_unless_allowed(tmp_path: Path) -> None:
    ledger = small(tmp_path)
    with pytest.raises(UserError, match="same weights.*neurons.allow_self"):
        correlate_pair(tmp_path, ledger, ledger)
    (pair,) = load_pairs(correlate_pair(tmp_path, ledger, ledger, allow_self=True, ranges=2))
    np.testing.assert_allclose(pair.row_top_value[:, 0], 1, atol=1e-12)
    np.testing.assert_array_equal(pair.row_top_index[:, 0], range(8))


def test_other_tokens_masks_and_blocks_are_refused(tmp_path: Path) -> None:
    a = small(tmp_path)
    tokens = np.arange(128) % 49
    keep = np.arange(128) != 5
    for b, what in (
        (small(tmp_path, "tokens", tokens=tokens), "different tokens"),
        (small(tmp_path, "mask", keep=keep), "different token mask"),
        (small(tmp_path, "blocks", block_tokens=32), "block"),
    ):
        with pytest.raises(UserError, match=what):
            correlate_pair(tmp_path, a, b)


def test_more_tiles_than_neurons_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neurons.tiles: found 9, expected at most 8"):
        correlate_pair(tmp_path, small(tmp_path), small(tmp_path, "b"), tiles=9)


def test_tiles_cover_every_neuron_once() -> None:
    for neurons, tiles in ((10, 3), (7, 7), (1000, 13)):
        parts = [products_library.tile_rows(neurons, tiles, tile) for tile in range(tiles)]
        assert [n for part in parts for n in range(part.start, part.stop)] == list(range(neurons))


def call(a: Path, b: Path, own: list[Path], partner: list[Path], products: list[Path], out: Path) -> None:
    correlate.main(
        a, b, own, partner, products, 1, 0, correlate.Settings(draws=1, precision="float64"), Output(out)
    )


def test_moments_of_other_tokens_or_models_are_refused(tmp_path: Path) -> None:
    a, b = small(tmp_path), small(tmp_path, "b")
    own, partner = write_moments(tmp_path / "ma", a, 2), write_moments(tmp_path / "mb", b, 2)
    out = tmp_path / "out"
    for files in (own[:1], own[1:], [own[0], own[0]], [own[1], own[1]]):
        with pytest.raises(UserError, match="token block.*give the file of every token range once"):
            call(a, b, files, partner, [], out)
    other = write_moments(tmp_path / "narrow", a, precision="float32")
    with pytest.raises(UserError, match="narrow/range-0.safetensors: summed in float32, expected float64"):
        call(a, b, other, partner, [], out)
    with pytest.raises(UserError, match="range-0.safetensors: summed in float32, expected float64"):
        call(b, a, partner, other, [], out)
    mixed = [other[0], *write_moments(tmp_path / "mixed", a, 2)]
    with pytest.raises(UserError, match="begins at token block 0, expected 1"):
        call(a, b, mixed, partner, [], out)
    with pytest.raises(UserError, match="range-0.safetensors"):
        call(a, b, partner, own, [], out)
    with pytest.raises(UserError, match="a: found no file of its moments, expected one per token range"):
        call(a, b, [], partner, [], out)
    assert not out.exists()


def test_damaged_inputs_are_named(tmp_path: Path) -> None:
    a, b = small(tmp_path), small(tmp_path, "b")
    own, partner = write_moments(tmp_path / "ma", a), write_moments(tmp_path / "mb", b)
    whole = own[0].read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"\x00" * 100, b"{}"):
        own[0].write_bytes(damage)
        with pytest.raises(UserError, match=r"ma/range-0.safetensors: unreadable.*run snakemake again"):
            call(a, b, own, partner, [], tmp_path / "out")
    middle = len(whole) // 2
    own[0].write_bytes(
        whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 8]) + whole[middle + 8 :]
    )
    with pytest.raises(UserError, match=r"ma/range-0.safetensors: its contents differ from the hash in it"):
        call(a, b, own, partner, [], tmp_path / "out")
    own[0].write_bytes(whole)
    write_tensors(tmp_path / "other", {"x": np.zeros(3)}, {})
    with pytest.raises(UserError, match="other"):
        call(a, b, own, partner, [tmp_path / "other"], tmp_path / "out")


@pytest.mark.parametrize(("precision", "share"), [("float16", 2**-11), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("mean", [0, 6])
def test_rounded_values_stay_within_the_stated_bound(
    tmp_path: Path, mean: float, precision: str, share: float
) -> None:
    """Exact for the rounded values, and as far from the stored ones as ``Precision`` says."""
    sides = [values.astype(np.float32) for values in coupled(600, 60, 60, mean)]
    ledgers = [
        write_activations(tmp_path / name, values, name=name)
        for name, values in zip("ab", sides, strict=True)
    ]
    pair = load_pairs(correlate_pair(tmp_path, *ledgers, precision=precision, top=60))[0]
    found = np.empty((60, 60))
    np.put_along_axis(found, pair.row_top_index, pair.row_top_value, 1)
    shifted = [
        values - PostActivations(Activations(path), "float32").pilot.astype(np.float32)
        for values, path in zip(sides, ledgers, strict=True)
    ]
    rounded = [torch.from_numpy(values).to(getattr(torch, precision)).double().numpy() for values in shifted]
    np.testing.assert_allclose(found, pearson(*rounded), rtol=0, atol=1e-5)
    k = [np.sqrt((values.astype(np.float64) ** 2).mean(0)) / values.std(0) for values in shifted]
    difference = np.abs(found - pearson(*(values.astype(np.float64) for values in shifted)))
    assert (difference <= 2 * share * k[0][:, None] * k[1] + 1e-5).all()
    assert difference.max() > share / 100  # it does round
