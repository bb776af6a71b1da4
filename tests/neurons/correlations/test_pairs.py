"""Putting tiles together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.neurons.activations.store import open_all
from steps.neurons.correlations.pairs import load_pairs, require_sources
from tests.neurons.planted import correlate_pair, write_activations


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Three tiles each of a with b and a with c."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    a, b, c = (
        write_activations(
            folder / name, rng.standard_normal((96, 10)).astype("float32"), name=name, block_tokens=96
        )
        for name in "abc"
    )
    return {
        name: correlate_pair(folder / name, a, ledger, tiles=3, top=4)
        for name, ledger in (("ab", b), ("ac", c))
    }


def test_pairs_come_in_the_order_of_their_first_file(files: dict[str, list[Path]]) -> None:
    mixed = [files["ac"][2], *files["ab"], files["ac"][0], files["ac"][1]]
    assert [(pair.a, pair.b) for pair in load_pairs(mixed)] == [("a", "c"), ("a", "b")]


def test_tiles_in_any_order_are_the_same_pair(files: dict[str, list[Path]]) -> None:
    (pair,), (again,) = load_pairs(files["ab"]), load_pairs(files["ab"][::-1])
    for name, values in vars(pair).items():
        np.testing.assert_array_equal(getattr(again, name), values)
    assert pair.row_top_value.shape == pair.column_top_value.shape == (10, 4)
    assert pair.rotated_max.shape == (2, 10)
    assert pair.column_histogram.sum(1).tolist() == [10] * 10


def test_a_missing_or_doubled_tile_is_refused(files: dict[str, list[Path]]) -> None:
    first, second, third = files["ab"]
    for given, said in (
        ([second, third], "tile-1.safetensors: begins at row 3, expected 0"),
        ([first, third], "tile-2.safetensors: begins at row 6, expected 3"),
        ([first, second], "tile-1.safetensors: ends at row 6, expected 10"),
        (
            [first, second, second, third],
            "tile-1.safetensors: begins at row 3, expected 6; give every tile once",
        ),
    ):
        with pytest.raises(UserError, match=said):
            load_pairs(given)


def test_tiles_that_do_not_belong_together_are_refused(files: dict[str, list[Path]], tmp_path: Path) -> None:
    a, b = (
        write_activations(tmp_path / name, values.astype("float32"), name=name, block_tokens=96)
        for name, values in zip("ab", np.random.default_rng(5).standard_normal((2, 96, 10)), strict=True)
    )
    first, second, _ = files["ab"]
    others = correlate_pair(tmp_path / "other", a, b, tiles=3, top=4)
    with pytest.raises(UserError, match="tile-0.* and .*tile-2.*: made from different activations of a;"):
        load_pairs([first, second, others[2]])
    with pytest.raises(UserError, match="made from different activations of a; delete the older one"):
        load_pairs([*files["ac"], *others])
    for changes in ({"top": 3}, {"draws": 3}, {"seed": 1}):
        more = correlate_pair(tmp_path / "more", a, b, tiles=3, **{"top": 4, **changes})
        with pytest.raises(UserError, match="made from different settings of neurons.correlate"):
            load_pairs([*others[:2], more[2]])
    with pytest.raises(UserError, match="--correlations: found no file"):
        load_pairs([])


def test_correlations_and_activations_belong_together(files: dict[str, list[Path]], tmp_path: Path) -> None:
    pairs = load_pairs(files["ab"])
    folder = files["ab"][0].parents[1]
    sources = open_all([folder / name / "ledger.json" for name in "ab"])
    require_sources(pairs, sources)
    with pytest.raises(UserError, match="--activations: none of b; give those of every model"):
        require_sources(pairs, {"a": sources["a"]})
    with pytest.raises(UserError, match="--correlations: none of c; give those of every model"):
        require_sources(pairs, sources | {"c": sources["a"]})
    other = write_activations(tmp_path / "b", np.ones((96, 10), "float32"), name="b", block_tokens=96)
    with pytest.raises(UserError, match="--correlations: those of b were not made from .*/b/ledger.json"):
        require_sources(pairs, sources | open_all([other]))
    with pytest.raises(UserError, match="both of model 'b'; give every model once"):
        open_all([other, folder / "b" / "ledger.json"])
    with pytest.raises(UserError, match="--activations: found no ledger"):
        open_all([])


def test_rows_without_a_partner_that_varies_have_no_match(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 96, 4)).astype("float32")
    a[:, 2], b[:, [0, 3]] = 1, 1
    b[:, 1:3] = -a[:, :1] + 0.01 * b[:, 1:3]  # a's first neuron agrees with those that never vary best
    ledgers = [write_activations(tmp_path / n, v, name=n) for n, v in (("a", a), ("b", b))]
    (pair,) = load_pairs(correlate_pair(tmp_path, *ledgers))
    assert pair.row_top_index[0, 0] == 0
    assert pair.matched[[0, 2]].tolist() == [False, False]
    assert pair.matched.tolist() == [False, pair.row_top_value[1, 0] > 0, False, pair.row_top_value[3, 0] > 0]


def test_a_damaged_tile_is_named(files: dict[str, list[Path]], tmp_path: Path) -> None:
    damaged = tmp_path / "tile.safetensors"
    whole = files["ab"][0].read_bytes()
    for content in (b"", b"\xff" * 64, whole[:-1], whole[:20], whole.replace(b'"facts"', b'"fracs"', 1)):
        damaged.write_bytes(content)
        with pytest.raises(
            UserError, match=r"tile.safetensors: unreadable .*; delete it and run snakemake again"
        ):
            load_pairs([damaged])
