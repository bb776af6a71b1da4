"""Histograms against numpy's, the authors' bins, and the share of activations that they overstate."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.neurons import histograms, merge_histograms
from steps.neurons.activations import bins
from steps.neurons.activations.bins import BINS, ZERO, Histograms, bin_edges, bin_numbers, binned_moments
from steps.neurons.activations.store import Activations
from tests.neurons.conftest import Study
from tests.neurons.planted import (
    histogram_parts,
    stored_pre,
    write_activations,
    write_histograms,
    write_labelled_rows,
)


def plain(values: np.ndarray) -> np.ndarray:
    """The same histogram with numpy alone, whose bins hold their lower edge: hence the signs."""
    edges = np.concatenate([[-np.inf], -bin_edges()[::-1], [np.inf]])
    return np.histogram(-values, edges)[0][::-1]


def test_the_edges_are_the_authors_and_one_of_them_is_zero() -> None:
    np.testing.assert_allclose(bin_edges(), np.linspace(-10, 15, 256), atol=1e-12)
    assert bin_edges()[ZERO] == 0
    values = np.array([-11.0, -10.0, -0.0, 0.0, 1e-7, 15.0, 15.01])
    assert bin_numbers(values).tolist() == [0, 0, ZERO, ZERO, ZERO + 1, 255, 256]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_counts_are_numpys_by_source(tmp_path: Path, dtype: type) -> None:
    rng = np.random.default_rng(3)
    pre = (6 * rng.standard_normal((10 * 16, 12))).astype(dtype)
    pre[::7, 3] = 0
    pre[:, 4] = -1.0  # never varies
    pre[0, 5], pre[1, 5] = -60, 60
    ledger = write_activations(tmp_path / "a", pre, block_tokens=48)
    labels = np.array([0, 2, 2, 0, 0, 0, 2, 0, 2, 2])
    rows = write_labelled_rows(tmp_path / "rows", Activations(ledger).tokens, 16, labels)
    found = Histograms(write_histograms(tmp_path, [ledger], rows))
    counts = found.counts("a")
    assert counts.shape == (3, 12, BINS)
    assert (found.sources, found.tokens) == (["code", "names", "prose"], [80, 0, 80])
    stored = stored_pre(ledger)
    for label in range(3):
        for neuron in range(12):
            chosen = stored[np.repeat(labels, 16) == label, neuron]
            np.testing.assert_array_equal(counts[label, neuron], plain(chosen))
    positive = counts[:, :, ZERO + 1 :].sum((0, 2))
    np.testing.assert_array_equal(positive, (stored > 0).sum(0))


def test_a_part_of_the_tokens_in_whole_blocks(tmp_path: Path) -> None:
    pre = np.random.default_rng(4).standard_normal((160, 4)).astype(np.float16)
    ledger = write_activations(tmp_path / "a", pre, block_tokens=48)
    rows = write_labelled_rows(tmp_path / "rows", Activations(ledger).tokens, 16, np.zeros(10))
    found = Histograms(write_histograms(tmp_path, [ledger], rows, histograms.Settings(tokens=50)))
    assert found.tokens == [96, 0, 0]
    np.testing.assert_array_equal(found.counts("a").sum(2), [[96] * 4, [0] * 4, [0] * 4])


def test_parts_put_together_are_the_same_bytes(planted: Study, tmp_path: Path) -> None:
    settings = histograms.Settings(tokens=3000)

    def put_together(name: str, parts: list[Path]) -> dict[str, bytes]:
        folder = tmp_path / name
        merge_histograms.main(planted.activations, parts, Output(folder / "ledger.json"))
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    (tmp_path / "one").mkdir()
    whole = histogram_parts(tmp_path / "one", planted.activations, planted.rows, settings)
    files = histogram_parts(tmp_path, planted.activations, planted.rows, settings, 2)
    assert put_together("parts", files) == put_together("whole", whole)
    inputs = planted.activations[2], planted.rows
    with pytest.raises(
        UserError, match=r"0-1: begins at layer 1, expected 0; give every part once, in order"
    ):
        put_together("x", [files[1], files[0], *files[2:]])
    with pytest.raises(UserError, match=r"end at layer 1 of 'a', expected 2"):
        put_together("y", files[::2])
    with pytest.raises(UserError, match=r"2-0: not made from"):
        put_together("z", [*files[4:], *files[:4]])
    histograms.main(*inputs, 2, 1, histograms.Settings(tokens=10), Output(files[-1]))
    with pytest.raises(UserError, match=r"2-1: of other tokens than .*histograms-0-0"):
        put_together("w", files)
    assert not any((tmp_path / name).exists() for name in "xyzw")
    with pytest.raises(UserError, match=r"neurons.parts: found 3, expected at most 2, the number of layers"):
        histograms.main(*inputs, 3, 0, settings, Output(files[0]))
    with pytest.raises(UserError, match="--part 2 of --parts 2: expected a part from 0"):
        histograms.main(*inputs, 2, 2, settings, Output(files[0]))


def test_other_rows_are_refused(planted: Study, tmp_path: Path) -> None:
    source = Activations(planted.activations[0])
    rows = write_labelled_rows(tmp_path / "rows", source.tokens[::-1], 16, np.zeros(400))
    with pytest.raises(UserError, match="not made from .*rows"):
        write_histograms(tmp_path, planted.activations, rows)


def test_the_published_sparsity_is_too_high() -> None:
    """A worked example: N(-1.5, 0.7^2) is above 0 in 1.6 % of cases, and 2.3 % are published."""
    values = -1.5 + 0.7 * np.random.default_rng(5).standard_normal(400_000)
    counts = bins.count_bins(bin_numbers(values)[:, None])
    found = {name: float(column[0]) for name, column in binned_moments(counts).items()}
    normal = [0.5 * math.erfc((x + 1.5) / 0.7 / math.sqrt(2)) for x in (0, -25 / 255)]
    assert normal == pytest.approx([0.0161, 0.0226], abs=1e-4)
    assert found["hist_sparsity"] == pytest.approx(normal[1], abs=1e-3)
    assert (values > 0).mean() == pytest.approx(normal[0], abs=1e-3)
    assert found["hist_mean"] == pytest.approx(-1.5, abs=0.005)
    assert found["hist_var"] == pytest.approx(0.49, abs=0.005)
    assert found["hist_skew"] == pytest.approx(0, abs=0.02)
    assert found["hist_kurt"] == pytest.approx(3, abs=0.05)


def test_outer_bins_lie_one_step_further_and_one_bin_has_no_shape() -> None:
    counts = np.zeros((3, BINS), int)
    counts[0, [0, 256]] = 1
    counts[1, 50] = 7
    counts[2, [100, 101]] = 1, 3
    found = binned_moments(counts)
    step = 25 / 255
    np.testing.assert_allclose(found["hist_mean"][0], 2.5)
    np.testing.assert_allclose(found["hist_var"][0], (12.5 + step / 2) ** 2)
    assert found["hist_var"][1] == 0
    assert np.isnan([found["hist_skew"][1], found["hist_kurt"][1]]).all()
    np.testing.assert_allclose(found["hist_skew"][2], -2 / 3**0.5)
