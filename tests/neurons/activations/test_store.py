"""Reading activations: the same values for every cut, and damage noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.core.errors import UserError
from steps.interp.architectures import activation_function
from steps.neurons.activations import store
from steps.neurons.activations.store import Activations, PostActivations, require_comparable
from tests.neurons.planted import activate, stored_post, write_activations

KEEP = np.random.default_rng(3).random(150) < 0.8
KEEP[64:96] = False


def planted(folder: Path, dtype: str = "float32", activation: str = "gelu_new", name: str = "a") -> Path:
    """Five blocks of 32 tokens, the third excluded whole, the last one short; 3 layers of 7 neurons."""
    pre = np.random.default_rng(0).normal(1, 3, (150, 21)).astype(dtype)
    return write_activations(
        folder, pre, name=name, layers=3, activation=activation, keep=KEEP, block_tokens=32, context=10
    )


def whole(post: PostActivations) -> np.ndarray:
    """All blocks, shifted back, float64."""
    blocks = [post.block(k).numpy().astype(np.float64) for k in range(post.source.blocks)]
    return np.concatenate(blocks) + post.pilot


@pytest.mark.parametrize(("precision", "atol"), [("float32", 2e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
def test_post_activations_of_kept_tokens(
    tmp_path: Path, activation: str, dtype: str, precision: str, atol: float
) -> None:
    ledger = planted(tmp_path, dtype, activation)
    source = Activations(ledger)
    assert (source.layers, source.d_mlp, source.neurons, source.blocks, source.kept) == (
        3,
        7,
        21,
        5,
        KEEP.sum(),
    )
    found = whole(PostActivations(source, "float32" if precision == "float32" else "float64"))
    np.testing.assert_allclose(found, stored_post(ledger, activation, KEEP), rtol=0, atol=atol)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_tile_reads_the_bits_of_the_whole(tmp_path: Path, dtype: str, precision: store.Precision) -> None:
    """Pilot values too, or sums of different tiles could not be put together."""
    source = Activations(planted(tmp_path, dtype))
    post = PostActivations(source, precision)
    for start, stop in ((0, 1), (3, 11), (7, 14), (20, 21), (5, 21)):
        tile = PostActivations(source, precision, slice(start, stop))
        assert tile.pilot.tobytes() == post.pilot[start:stop].tobytes()
        for k in range(source.blocks):
            assert torch.equal(tile.block(k), post.block(k)[:, start:stop])


@pytest.mark.parametrize("name", ["gelu_new", "gelu", "relu"])
def test_every_half_precision_number_is_looked_up_as_it_would_be_computed(tmp_path: Path, name: str) -> None:
    """All 63,488 finite float16 numbers."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 64)
    ledger = write_activations(tmp_path, halves, layers=1, activation=name, block_tokens=512)
    post = PostActivations(Activations(ledger), "float64")
    computed = activation_function(name)(torch.from_numpy(halves.astype(np.float64))).numpy()
    np.testing.assert_array_equal(whole(post), computed + post.pilot - post.pilot)
    np.testing.assert_allclose(computed, activate(name, halves), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", ["gelu_new", "gelu"])
def test_equal_numbers_stay_equal_wherever_they_stand(
    tmp_path: Path, name: str, precision: store.Precision
) -> None:
    """Vector code and what it leaves over differ in the last digit; 7 neurons leave some over."""
    pre = np.full((131, 7), -0.7312, np.float32)
    source = Activations(write_activations(tmp_path, pre, layers=1, activation=name, block_tokens=33))
    post = PostActivations(source, precision)
    assert not any(post.block(k).any() for k in range(source.blocks))


def test_the_pilot_value_is_one_of_the_values_from_all_over(tmp_path: Path) -> None:
    pre = np.zeros((1600, 2), np.float32)
    pre[:, 0] = np.random.default_rng(0).normal(100, 1, 1600)
    pre[:400] += 1000  # unlike the rest
    post = PostActivations(Activations(write_activations(tmp_path, pre, layers=1)), "float32")
    assert post.pilot[0] in pre[400:, 0]
    assert abs(post.pilot[0] - 100) < 1.5
    assert post.pilot[1] == 0


def test_few_kept_tokens_have_a_pilot_value_too(tmp_path: Path) -> None:
    keep = np.zeros(80, bool)
    keep[[70, 77]] = True
    pre = np.arange(160, dtype=np.float32).reshape(80, 2)
    source = Activations(write_activations(tmp_path, pre, layers=1, keep=keep, block_tokens=16))
    np.testing.assert_array_equal(whole(PostActivations(source, "float32")), pre[[70, 77]])


def test_parts_of_a_block_are_read_as_stored(tmp_path: Path) -> None:
    pre = np.random.default_rng(0).standard_normal((150, 6)).astype("float16")
    source = Activations(write_activations(tmp_path, pre, block_tokens=32))
    for start, stop in ((0, 32), (33, 40), (64, 65), (95, 96), (128, 150)):
        np.testing.assert_array_equal(source.pre(1, slice(start, stop)), pre[start:stop, 3:])


def damaged(folder: Path, how: str) -> str:
    """Damage a store; returns the file that must be named."""
    shards = folder / "pre" / "c"
    first, second = shards / "1" / "2" / "0", shards / "2" / "2" / "0"
    whole = first.read_bytes()
    if how == "truncated":
        first.write_bytes(whole[:-1])
    elif how == "empty":
        first.write_bytes(b"")
    elif how == "missing":
        first.unlink()
    elif how == "swapped":  # both hold valid blocks, of other layers
        first.write_bytes(second.read_bytes())
        second.write_bytes(whole)
    elif how == "metadata missing":
        (folder / "pre" / "zarr.json").unlink()
        return "pre/zarr.json"
    elif how == "metadata altered":
        path = folder / "pre" / "zarr.json"
        path.write_text(path.read_text().replace('"fill_value": "NaN"', '"fill_value": 0.0'))
        return "pre/zarr.json"
    elif how == "mask altered":
        path = folder / "keep" / "c" / "0"
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
        return "keep/c/0"
    else:
        position = {"first byte": 0, "middle byte": len(whole) // 2, "last byte": len(whole) - 1}[how]
        first.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    return "pre/c/1/2/0"


@pytest.mark.parametrize(
    "how",
    [
        *("truncated", "empty", "missing", "swapped", "metadata missing", "metadata altered"),
        *("mask altered", "first byte", "middle byte", "last byte"),
    ],
)
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_damage_is_noticed_and_named(tmp_path: Path, how: str, codec: str) -> None:
    pre = np.random.default_rng(0).normal(1, 3, (150, 21)).astype("float32")
    write_activations(tmp_path, pre, layers=3, block_tokens=32, codec=codec)
    name = damaged(tmp_path, how)
    with pytest.raises(UserError) as error:
        whole(PostActivations(Activations(tmp_path / "ledger.json"), "float32"))
    assert f"{tmp_path / name}: " in str(error.value)
    assert f"rebuild it with: snakemake --force {tmp_path}/ledger.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_layer_is_noticed(tmp_path: Path) -> None:
    ledger = planted(tmp_path)
    shutil.rmtree(tmp_path / "pre" / "c" / "2")
    with pytest.raises(UserError, match="pre/c/2/0/0: missing"):
        Activations(ledger)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"kind": "rows"}', '{"kind": "activations"}', "\x00\x01", "\ufeff{}"]
)
def test_something_else_than_a_ledger_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(UserError, match=r"ledger.json: "):
        Activations(tmp_path / "ledger.json")


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a, b = Activations(planted(tmp_path / "a")), Activations(planted(tmp_path / "b", name="b"))
    require_comparable(a, b)
    require_comparable(a, a, allow_self=True)
    with pytest.raises(UserError, match=r"a/ledger.json and .*a/ledger.json: both hold the same weights"):
        require_comparable(a, a)
    content = json.loads((tmp_path / "b" / "ledger.json").read_text())
    for key, said in (("tokens", "different tokens"), ("exclude", "different token mask")):
        changed = {**content, "made_from": {**content["made_from"], key: "other"}}
        (tmp_path / "b" / "ledger.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=said):
            require_comparable(a, Activations(tmp_path / "b" / "ledger.json"), allow_self=True)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_gated_neurons_are_the_activated_gate_times_its_factor(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(1)
    gate, up = rng.normal(0, 2, (2, 150, 21)).astype(dtype)
    ledger = write_activations(
        tmp_path, gate, layers=3, activation="gelu", keep=KEEP, block_tokens=32, context=10, up=up
    )
    source = Activations(ledger)
    expected = stored_post(ledger, "gelu", KEEP) * up[KEEP]
    np.testing.assert_allclose(whole(PostActivations(source, "float64")), expected, rtol=0, atol=1e-13)
    found = store.post_activations("gelu", *source.stored(2, slice(70, 77)))
    wanted = activate("gelu", gate[70:77, 14:]) * up[70:77, 14:]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("gated", [False, True])
def test_accelerators_read_the_same_values(tmp_path: Path, gated: bool, precision: store.Precision) -> None:
    """Their path, on the CPU: a whole block of a layer at once, with plain tensor operations."""
    rng = np.random.default_rng(1)
    pre, up = rng.normal(0, 2, (2, 150, 21)).astype(np.float16)
    ledger = write_activations(
        tmp_path, pre, layers=3, activation="gelu_new", keep=KEEP, block_tokens=32, up=up if gated else None
    )
    post = PostActivations(Activations(ledger), precision, slice(3, 18))
    for k in range(post.source.blocks):
        seen: list[tuple[Any, ...]] = []
        expected = post.block(k).clone()
        found = post._block_on_device(k, lambda *part, seen=seen: seen.append(part))
        assert found.dtype == getattr(torch, precision)
        torch.testing.assert_close(found, expected, rtol=2**-7 if "16" in precision else 1e-5, atol=1e-6)
        rows = slice(0, len(expected))
        assert [part[:2] for part in seen] == [
            (slice(0, 4), rows),
            (slice(4, 11), rows),
            (slice(11, 15), rows),
        ]


def test_no_such_device(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device: found 'cuda:99'"):
        PostActivations(Activations(planted(tmp_path)), "float32", device="cuda:99")
