"""Products of token ranges, which add up to those of all tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.tensors import read_tensors, write_tensors
from steps.neurons import products
from steps.neurons.activations.store import Activations, PostActivations
from steps.neurons.correlations.products import merge_products
from tests.neurons.planted import stored_post, write_activations

KEEP = np.random.default_rng(1).random(200) < 0.9
KEEP[96:128] = False


def planted(folder: Path, name: str, **changes: object) -> Path:
    pre = np.random.default_rng(ord(name[0])).normal(2, 1, (200, 12)).astype("float32")
    return write_activations(
        folder / name,
        pre,
        name=name,
        activation="gelu_new",
        **{"keep": KEEP, "block_tokens": 32, **changes},  # type: ignore[arg-type]
    )


def run(
    a: Path,
    b: Path,
    out: Path,
    *,
    tiles: int = 2,
    tile: int = 1,
    ranges: int = 3,
    index: int = 0,
    **settings: object,
) -> Path:
    chosen = products.Settings.model_validate({"precision": "float64", **settings})
    products.main(a, b, tiles, tile, ranges, index, chosen, Output(out))
    return out


@pytest.mark.parametrize(("precision", "atol"), [("float32", 1e-4), ("float64", 1e-11)])
def test_ranges_add_up(tmp_path: Path, precision: str, atol: float) -> None:
    ledgers = [planted(tmp_path, name) for name in "ab"]
    sources = [Activations(ledger) for ledger in ledgers]
    pilots = [PostActivations(source, "float64").pilot for source in sources]
    left, right = (
        stored_post(ledger, "gelu_new", KEEP) - p for ledger, p in zip(ledgers, pilots, strict=True)
    )
    for tiles, tile, rows in ((1, 0, slice(0, 12)), (3, 1, slice(4, 8))):
        for ranges in (1, 3, 7):
            files = [
                run(
                    *ledgers,
                    tmp_path / f"part-{index}",
                    tiles=tiles,
                    tile=tile,
                    ranges=ranges,
                    index=index,
                    precision=precision,
                )
                for index in range(ranges)
            ]
            count, total = merge_products(files[::-1], *sources, rows, precision)
            assert count == KEEP.sum()
            np.testing.assert_allclose(total, left[:, rows].T @ right, rtol=0, atol=atol)
            part, _ = read_tensors(files[-1])
            assert part["product"].dtype == np.float64


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    a, b = (planted(tmp_path, name) for name in "ab")
    assert run(a, b, tmp_path / "1").read_bytes() == run(a, b, tmp_path / "2").read_bytes()


def test_mistakes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    a, b = (planted(tmp_path, name) for name in "ab")
    other = planted(tmp_path, "c", keep=np.ones(200, bool))
    out = tmp_path / "out"
    with pytest.raises(UserError, match="neurons.ranges: found 8, expected at most 7"):
        run(a, b, out, ranges=8)
    with pytest.raises(UserError, match="neurons.tiles: found 13, expected at most 12"):
        run(a, b, out, tiles=13)
    with pytest.raises(UserError, match="different token mask"):
        run(a, other, out)
    with pytest.raises(UserError, match="same weights"):
        run(a, a, out)
    assert not out.exists()
    run(a, a, out, allow_self=True)


def test_products_of_other_activations_are_refused(tmp_path: Path) -> None:
    a, b, c = (Activations(planted(tmp_path, name)) for name in "abc")
    file = run(a.store.path, b.store.path, tmp_path / "file", ranges=1)
    rows = slice(6, 12)
    with pytest.raises(UserError, match=r"file: not made from .*c/ledger.json"):
        merge_products([file], c, b, rows, "float64")
    with pytest.raises(UserError, match=r"file: not made from .*c/ledger.json"):
        merge_products([file], a, c, rows, "float64")
    with pytest.raises(UserError, match=r"file: of rows 6 to 12, expected 0 to 6; give the products of this"):
        merge_products([file], a, b, slice(0, 6), "float64")
    with pytest.raises(UserError, match=r"file: summed in float64, expected float32; set neurons.precision"):
        merge_products([file], a, b, rows, "float32")
    for facts in ({"a": 1}, {"kind": "moments"}):
        write_tensors(tmp_path / "other", {"x": np.zeros(2)}, facts)
        with pytest.raises(UserError, match="other: found a file of .*, expected one of 'products'"):
            merge_products([tmp_path / "other"], a, b, rows, "float64")
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(UserError, match="file: unreadable"):
        merge_products([file], a, b, rows, "float64")
    file.write_bytes(whole[:-8] + bytes(byte ^ 1 for byte in whole[-8:]))
    with pytest.raises(UserError, match="file: its contents differ from the hash in it; delete it"):
        merge_products([file], a, b, rows, "float64")


def test_every_range_must_be_there_once(tmp_path: Path) -> None:
    """Ranges of equally many tokens: their number alone would not tell."""
    keep = np.ones(200, bool)
    a, b = (Activations(planted(tmp_path, name, keep=keep, block_tokens=48)) for name in "ab")
    files = [
        run(a.store.path, b.store.path, tmp_path / f"part-{index}", ranges=5, index=index)
        for index in range(5)
    ]
    for given, said in (
        ([0, 0, 2, 3, 4], "part-0: begins at token block 0, expected 1"),
        ([1, 2, 3, 4], "part-1: begins at token block 1, expected 0"),
        ([0, 1, 2, 3], "part-3: ends at token block 4, expected 5; give the file of every token range once"),
    ):
        with pytest.raises(UserError, match=said):
            merge_products([files[index] for index in given], a, b, slice(6, 12), "float64")


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ({"tiles": 2, "tile": 2}, "--tile 2 of --tiles 2: expected a tile from 0"),
        ({"tiles": 2, "tile": -1}, "--tile -1 of --tiles 2"),
        ({"tiles": 0, "tile": 0}, "--tile 0 of --tiles 0"),
        ({"tiles": -3, "tile": 0}, "--tile 0 of --tiles -3"),
        ({"ranges": 2, "index": 2}, "--index 2 of --ranges 2: expected a range from 0"),
        ({"ranges": 2, "index": -1}, "--index -1 of --ranges 2"),
        ({"ranges": 0, "index": 0}, "--index 0 of --ranges 0"),
    ],
)
def test_cuts_that_make_no_sense_are_refused(tmp_path: Path, cut: dict[str, int], said: str) -> None:
    a, b = (planted(tmp_path, name) for name in "ab")
    with pytest.raises(UserError, match=said):
        run(a, b, tmp_path / "out", **cut)
