"""Putting tiles together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.neurons.pairs import load_pairs
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


def test_a_damaged_tile_is_named(files: dict[str, list[Path]], tmp_path: Path) -> None:
    damaged = tmp_path / "tile.safetensors"
    whole = files["ab"][0].read_bytes()
    for content in (b"", b"\xff" * 64, whole[:-1], whole[:20], whole.replace(b'"facts"', b'"fracs"', 1)):
        damaged.write_bytes(content)
        with pytest.raises(
            UserError, match=r"tile.safetensors: unreadable .*; delete it and run snakemake again"
        ):
            load_pairs([damaged])
