"""Moments, within-layer products and top examples, exact and independent of the cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.statistics import power_moments
from steps.core.tensors import read_tensors, write_tensors
from steps.neurons import moments
from steps.neurons.activations.store import Activations, PostActivations
from steps.neurons.correlations import moments as moments_library
from steps.neurons.correlations import products
from steps.neurons.correlations.moments import Moments
from tests.neurons.planted import stored_post, stored_pre, write_activations, write_moments

KEEP = np.random.default_rng(3).random(300) < 0.8
KEEP[80:120] = False  # a whole block


def planted(folder: Path, dtype: str = "float32", activation: str = "gelu_new", mean: float = 0.0) -> Path:
    """Eight blocks of 40 tokens, the last one short; heavy tails, a constant, and few values (ties)."""
    rng = np.random.default_rng(0)
    pre = mean + rng.standard_t(5, (300, 24))
    pre[:, 2] = mean + 0.1
    pre[:, 5] = mean + rng.integers(0, 4, 300)
    pre[:, 7] = -9
    return write_activations(
        folder, pre.astype(dtype), activation=activation, keep=KEEP, block_tokens=40, context=10
    )


@pytest.mark.parametrize("mean", [0, 40])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_moments_of_pre_activations_are_exact(tmp_path: Path, dtype: str, mean: float) -> None:
    """Population moments over all tokens, excluded ones too; kurtosis is 3 for a Gaussian."""
    ledger = planted(tmp_path / "a", dtype, mean=mean)
    arrays = Moments(write_moments(tmp_path, ledger, precision="float32"), Activations(ledger)).arrays
    pre = stored_pre(ledger)
    found = power_moments(arrays["pre_powers"], 300, arrays["pre_pilot"])
    varies = np.ptp(pre, axis=0) > 0
    assert arrays["count"].tolist() == [KEEP.sum(), 300]
    np.testing.assert_allclose(found["mean"], pre.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["var"], pre.var(0), rtol=1e-10, atol=1e-25)
    assert found["var"][[2, 7]].tolist() == [0, 0]
    skew, kurt = scipy.stats.skew(pre[:, varies]), scipy.stats.kurtosis(pre[:, varies], fisher=False)
    np.testing.assert_allclose(found["skew"][varies], skew, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found["kurt"][varies], kurt, rtol=1e-10)
    assert varies.sum() == 22
    assert np.isnan(found["skew"][~varies]).all()
    np.testing.assert_array_equal(arrays["positive"], (pre > 0).sum(0))


@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-6), ("float64", 1e-12)])
def test_sums_of_post_activations_equal_numpy(tmp_path: Path, precision: str, rtol: float) -> None:
    ledger = planted(tmp_path / "a", mean=6)
    own = Moments(write_moments(tmp_path, ledger, precision=precision), Activations(ledger))
    post = stored_post(ledger, "gelu_new", KEEP)
    np.testing.assert_allclose(own.mean + own.arrays["pilot"], post.mean(0), rtol=rtol)
    np.testing.assert_allclose(own.norm, post.std(0) * KEEP.sum() ** 0.5, rtol=rtol, atol=rtol)
    assert own.norm[[2, 7]].tolist() == [0, 0]
    for layer in range(2):
        covariance = np.cov(post[:, layer * 12 : layer * 12 + 12].T, bias=True) * KEEP.sum()
        np.testing.assert_allclose(own.covariance(layer), covariance, rtol=0, atol=rtol * covariance.max())


def expected_examples(ledger: Path, activation: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """By float32 post-activation, equal ones by the earlier token."""
    pre = torch.from_numpy(stored_pre(ledger)).float()
    post = (
        torch.nn.functional.gelu(pre, approximate="tanh").numpy() if activation == "gelu_new" else pre.numpy()
    )
    post = np.where(KEEP[:, None], post, -np.inf).T
    order = np.argsort(-post, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(post, order, 1), order


@pytest.mark.parametrize("mean", [-1, 0, 6])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("activation", ["gelu_new", "linear"])
def test_top_examples_are_exact(tmp_path: Path, dtype: str, activation: str, mean: float) -> None:
    ledger = planted(tmp_path / "a", dtype, activation, mean)
    whole = Moments(write_moments(tmp_path, ledger, precision="float32"), Activations(ledger)).arrays
    value, token = expected_examples(ledger, activation, 20)
    np.testing.assert_array_equal(whole["top_value"], value)
    np.testing.assert_array_equal(whole["top_token_index"], token)
    assert whole["top_value"].dtype == np.float32


def test_examples_beyond_the_kept_tokens_are_missing(tmp_path: Path) -> None:
    keep = np.zeros(64, bool)
    keep[[3, 50]] = True
    pre = np.random.default_rng(0).standard_normal((64, 4)).astype("float32")
    ledger = write_activations(tmp_path / "a", pre, keep=keep, block_tokens=16)
    for ranges in (1, 4):
        arrays = Moments(write_moments(tmp_path / str(ranges), ledger, ranges), Activations(ledger)).arrays
        assert arrays["top_token_index"].shape == (4, 20)
        np.testing.assert_array_equal(np.sort(arrays["top_token_index"][:, :2]), [[3, 50]] * 4)
        assert (arrays["top_token_index"][:, 2:] == -1).all()
        assert np.isneginf(arrays["top_value"][:, 2:]).all()


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Moments]:
    folder = tmp_path_factory.mktemp("moments")
    ledger = planted(folder / "a", mean=3)
    return folder, ledger, Moments(write_moments(folder / "whole", ledger), Activations(ledger))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(order=st.integers(1, 8).flatmap(lambda ranges: st.permutations(range(ranges))))
def test_ranges_merge_to_the_whole(cut: tuple[Path, Path, Moments], order: list[int]) -> None:
    folder, ledger, whole = cut
    files = write_moments(folder / "parts", ledger, len(order))
    merged = Moments([files[index] for index in order], Activations(ledger))
    assert merged.count == whole.count == KEEP.sum()
    for name, values in whole.arrays.items():
        found = merged.arrays[name]
        assert found.dtype == values.dtype
        if values.dtype.kind == "f" and not name.startswith("top"):
            np.testing.assert_allclose(found, values, rtol=1e-12, atol=1e-10, err_msg=name)
        else:
            np.testing.assert_array_equal(found, values, err_msg=name)
    np.testing.assert_allclose(merged.norm, whole.norm, rtol=0, atol=1e-10)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_two_runs_write_the_same_bytes(tmp_path: Path, precision: str) -> None:
    ledger = planted(tmp_path / "a")
    first, again = (write_moments(tmp_path / run, ledger, 2, precision) for run in ("1", "2"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    tokens=st.integers(0, 9),
    a=st.integers(1, 12),
    b=st.integers(1, 12),
    tile=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_products_in_any_tiling_equal_numpy(tokens: int, a: int, b: int, tile: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = (torch.from_numpy(rng.standard_normal((tokens, n))) for n in (a, b))
    start = torch.from_numpy(rng.standard_normal((a, b)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "GEMM_TILE", tile)
        total = start.clone()
        products.add_products(total, left, right)
        np.testing.assert_allclose(total, start + left.T @ right, rtol=0, atol=1e-12)
        square = torch.zeros((a, a), dtype=torch.float64)
        products.add_products(square, left, left)
        products.mirror(square)
        np.testing.assert_allclose(square, left.T @ left, rtol=0, atol=1e-12)


def test_blocks_are_cut_into_consecutive_ranges() -> None:
    for blocks, ranges in ((10, 3), (7, 7), (24_415, 40)):
        parts = [products.range_blocks(blocks, ranges, index) for index in range(ranges)]
        assert [k for part in parts for k in part] == list(range(blocks))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_fewer_blocks_than_ranges_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neurons.ranges: found 9, expected at most 8"):
        write_moments(tmp_path, planted(tmp_path / "a"), ranges=9)


def test_moments_of_no_or_other_files_are_refused(tmp_path: Path) -> None:
    ledger = planted(tmp_path / "a")
    with pytest.raises(UserError, match="found no file"):
        Moments([], Activations(ledger))
    other = planted(tmp_path / "b", mean=1)
    files = write_moments(tmp_path, ledger)
    assert Moments(files, Activations(ledger)).count == KEEP.sum()
    with pytest.raises(UserError, match=r"range-0.safetensors: not made from .*b/ledger.json"):
        Moments(files, Activations(other))
    halves = write_moments(tmp_path / "halves", ledger, 2)
    for chosen, said in (
        ([halves[0], halves[0]], "range-0.safetensors: begins at token block 0, expected 4"),
        ([halves[1], halves[1]], "range-1.safetensors: begins at token block 4, expected 0"),
        (halves[:1], "range-0.safetensors: ends at token block 4, expected 8; give the file of every"),
    ):
        with pytest.raises(UserError, match=said):
            Moments(chosen, Activations(ledger))
    narrow = write_moments(tmp_path / "narrow", ledger, 2, "float32")
    with pytest.raises(UserError, match="summed in float64 and float32; set neurons.precision"):
        Moments([halves[0], narrow[1]], Activations(ledger))
    write_tensors(tmp_path / "x", {"product": np.zeros((2, 2))}, {"kind": "products"})
    with pytest.raises(UserError, match="x: found a file of 'products', expected one of 'moments'"):
        Moments([tmp_path / "x"], Activations(ledger))


def test_shards_that_changed_stop_the_sums(tmp_path: Path) -> None:
    ledger = planted(tmp_path / "a")
    shard = tmp_path / "a" / "pre" / "c" / "1" / "3" / "0"
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    out = Output(tmp_path / "out")
    with pytest.raises(UserError, match=r"pre/c/1/3/0: its contents differ.*snakemake --force"):
        moments.main(ledger, 1, 0, moments.Settings(), out)
    assert not out.exists()


def test_facts_name_their_origin(tmp_path: Path) -> None:
    ledger = planted(tmp_path / "a")
    (file,) = write_moments(tmp_path, ledger)
    facts = read_tensors(file)[1]
    assert facts["activations"] == Activations(ledger).store.fingerprint
    assert facts["precision"] == "float64"


@pytest.mark.parametrize("count", [1, 20])
def test_accelerators_find_the_same_of_single_neurons(tmp_path: Path, count: int) -> None:
    source = Activations(planted(tmp_path))
    found = []
    for kind, whole_blocks in (
        (moments_library.SingleNeurons, False),
        (moments_library.SingleNeuronsOnDevice, True),
    ):
        post = PostActivations(source, "float32")
        single = kind(source, count, "cpu")
        for k in range(source.blocks):
            single.begin(k)
            (post._block_on_device if whole_blocks else post.block)(k, single.add)
        found.append(single)
    one, other = found
    torch.testing.assert_close(torch.as_tensor(one.powers), other.powers, rtol=1e-13, atol=1e-9)
    assert torch.equal(one.positive, other.positive)
    for mine, theirs in zip(one.top().values(), other.top().values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
