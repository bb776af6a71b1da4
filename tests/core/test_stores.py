"""Folders and their ledgers: what is whole is kept, what is not is made again or refused."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.core import provenance, stores
from steps.core.digest import file_digest
from steps.core.errors import UserError
from steps.core.provenance import versions
from steps.core.stores import (
    CODECS,
    ArrayReader,
    ArrayWriter,
    Folder,
    Ledger,
    read_array,
    read_json,
    read_table,
    require_rows,
    write_array,
    write_json,
    write_table,
)
from steps.core.tensors import open_tensors, read_tensors, write_tensors

ROOT = Path(__file__).resolve().parents[2]
MADE_FROM = {"settings": {"seed": 1}, "code": "abc"}
NAMES = ["a.txt", "deep/b.txt", "deep/er/c.txt"]

Damage = Callable[[Path], None]


def altered(path: Path) -> None:
    """Another content of the same size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def missing(path: Path) -> None:
    path.unlink()


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [altered, truncated, missing]


def work(folder: Path, made_from: Any = MADE_FROM, stop: int | None = None) -> list[str]:
    """Make a folder of three files as a step does, up to ``stop``; returns the names that were made now."""
    ledger = Ledger(folder / "ledger.json", "things", made_from)
    new = [name for name in NAMES[:stop] if name not in ledger]
    for name in new:
        ledger.place(name).write_text(f"contents of {name}")
        ledger.record(name)
    if stop is None:
        ledger.finish({"count": len(NAMES)})
    return new


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    work(tmp_path / "whole")
    return tmp_path / "whole"


# The ledger of a folder that is being made


def test_a_job_that_starts_again_keeps_what_is_whole(tmp_path: Path, whole: Path) -> None:
    assert work(tmp_path / "x", stop=2) == NAMES[:2]
    times = {name: (tmp_path / "x" / name).stat().st_mtime_ns for name in NAMES[:2]}
    assert work(tmp_path / "x") == NAMES[2:]
    assert times == {name: (tmp_path / "x" / name).stat().st_mtime_ns for name in NAMES[:2]}
    assert contents(tmp_path / "x") == contents(whole)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_job_that_starts_again_rebuilds_damaged_files(tmp_path: Path, whole: Path, damage: Damage) -> None:
    work(tmp_path / "x", stop=2)
    damage(tmp_path / "x" / NAMES[0])
    assert work(tmp_path / "x") == [NAMES[0], NAMES[2]]
    assert contents(tmp_path / "x") == contents(whole)


@pytest.mark.parametrize(
    "line",
    [b'{"name": "deep/er', b"null", b"7", b"{}", b'{"name": 1, "bytes": 2, "sha256": 3}', b"\x00\xff\xfe"],
)
def test_a_note_that_was_cut_costs_one_file_at_most(tmp_path: Path, whole: Path, line: bytes) -> None:
    work(tmp_path / "x", stop=2)
    with (tmp_path / "x" / ".finished.jsonl").open("ab") as notes:
        notes.write(line)
    assert work(tmp_path / "x") == NAMES[2:]
    assert contents(tmp_path / "x") == contents(whole)


@pytest.mark.parametrize("stop", [None, 2])
def test_another_fingerprint_discards_everything(tmp_path: Path, stop: int | None) -> None:
    work(tmp_path / "x", stop=stop)
    assert work(tmp_path / "x", made_from={"settings": {"seed": 2}}, stop=1) == NAMES[:1]
    assert sorted(contents(tmp_path / "x")) == sorted([".finished.jsonl", NAMES[0]])
    assert not (tmp_path / "x/deep").exists()
    assert work(tmp_path / "x", made_from={"settings": {"seed": 2}}) == NAMES[1:]
    assert Folder(tmp_path / "x/ledger.json", "things").made_from == {"settings": {"seed": 2}}


@pytest.mark.parametrize("stop", [None, 2])
def test_what_other_libraries_made_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int | None
) -> None:
    """A step that starts again after an upgrade, as with ``--forceall``; other libraries do not matter."""
    installed = {"torch": "1.0", "zarr": "3.0"}
    monkeypatch.setattr(provenance, "_installed", installed.get)

    def made(libraries: tuple[str, ...] = ("torch",), stop: int | None = None) -> list[str]:
        ledger = Ledger(tmp_path / "x/ledger.json", "things", MADE_FROM, libraries)
        new = [name for name in NAMES[:stop] if name not in ledger]
        for name in new:
            ledger.place(name).write_text(f"contents of {name}")
            ledger.record(name)
        if stop is None:
            ledger.finish({})
        return new

    assert made(stop=stop) == NAMES[:stop]
    installed["zarr"] = "4.0"
    assert made(stop=stop) == []
    installed["torch"] = "2.0"
    assert made(stop=1) == NAMES[:1]
    assert made() == NAMES[1:]
    content = read_json(tmp_path / "x/ledger.json")
    assert content["versions"] == {"python": platform.python_version(), "torch": "2.0"}
    assert content["made_from"] == MADE_FROM


def test_what_names_its_contents_has_a_fingerprint_without_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for version in ("1.0", "2.0"):
        monkeypatch.setattr(provenance, "_installed", {"torch": version}.get)
        for named in (True, False):
            ledger = tmp_path / version / str(named) / "ledger.json"
            Ledger(ledger, "things", MADE_FROM, ("torch",), contents_named=named).finish({})
            assert read_json(ledger)["versions"]["torch"] == version
            found.append(Folder(ledger, "things").fingerprint)
    assert found[0] == found[2]
    assert len({*found}) == 3


def test_nothing_is_discarded_before_the_first_file_is_written(whole: Path) -> None:
    before = contents(whole)
    ledger = Ledger(whole / "ledger.json", "things", {"settings": {"seed": 2}})
    assert not any(name in ledger for name in NAMES)
    assert ledger.outdated_bytes() == sum(map(len, before.values())) - len(before[".finished.jsonl"])
    before[".ledger.json.lock"] = (whole / ".ledger.json.lock").read_bytes()  # until the job ends
    assert contents(whole) == before
    (whole / "new.txt").write_text("new")
    with pytest.raises(RuntimeError, match="new.txt: written before the ledger's begin"):
        ledger.record("new.txt")
    assert contents(whole) == before | {"new.txt": b"new"}


def test_what_a_killed_job_left_half_written_is_discarded(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    work(folder, stop=1)
    Ledger(folder / "ledger.json", "things", MADE_FROM).place("deep/b.txt").write_text("half")
    Ledger(folder / "ledger.json", "things", MADE_FROM).place("below/").joinpath("c.partial").write_text(
        "half"
    )
    (folder / "deep/.b.txt.writing").write_text("half")
    assert work(folder, stop=1) == []
    assert work(folder, {}) == NAMES
    assert sorted(contents(folder)) == sorted([".finished.jsonl", "ledger.json", *NAMES])


def test_a_kill_while_discarding_loses_no_note_of_what_is_left(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole / ".finished.jsonl").unlink()
    unlink = Path.unlink
    left = iter((True, False))

    def once(path: Path, missing_ok: bool = False) -> None:
        if not next(left, False):
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", once)
        with pytest.raises(KeyboardInterrupt):
            work(whole, {})
    assert len(contents(whole)) == len(NAMES)
    assert work(whole, {}) == NAMES


@pytest.mark.parametrize("names", [["ledger.json"], [".finished.jsonl"], ["ledger.json", ".finished.jsonl"]])
@pytest.mark.parametrize("made_from", [MADE_FROM, {}])
def test_a_folder_of_another_kind_is_refused_and_kept(whole: Path, names: list[str], made_from: Any) -> None:
    for name in {"ledger.json", ".finished.jsonl"} - set(names):
        (whole / name).unlink()
    before = contents(whole)
    with pytest.raises(UserError, match="holds what another step made .'things'., expected 'other things'"):
        Ledger(whole / "ledger.json", "other things", made_from)
    assert contents(whole) == before


@pytest.mark.parametrize("ledger", ["{}", '{"kind": 3}', "thesis", "[1]", '{"kind": "things"}'])
def test_files_beside_a_foreign_ledger_are_refused_and_kept(tmp_path: Path, ledger: str) -> None:
    (tmp_path / "ledger.json").write_text(ledger)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/thesis.tex").write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="holds "):
        work(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["thesis.tex", "deep/thesis.tex", "deep/.hidden", "new/thesis.tex"])
def test_own_files_in_a_finished_folder_are_refused_and_kept(whole: Path, name: str) -> None:
    (whole / name).parent.mkdir(exist_ok=True)
    (whole / name).write_text("precious")
    before = contents(whole)
    with pytest.raises(UserError, match=f"holds '{name}', which no step made; move it away"):
        work(whole, {})
    assert contents(whole) == before


@pytest.mark.parametrize("name", ["link", "deep"])
def test_discarding_never_follows_a_link(tmp_path: Path, whole: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("precious")
    shutil.rmtree(whole / "deep")
    (whole / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(UserError, match=f"holds '{name}', which no step made"):
        work(whole, {})
    assert (tmp_path / "elsewhere" / "b.txt").read_text() == "precious"


def test_files_of_somebody_else_are_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="holds 'thesis.tex', which no step made; move it away"):
        work(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"precious"}


def test_notes_survive_a_disk_that_is_still_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work(tmp_path / "x", stop=2)
    notes = (tmp_path / "x" / ".finished.jsonl").read_bytes()

    def full(*_: object) -> str:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(stores, "_matches", lambda *_: patch.setattr(stores.json, "dumps", full) or True)
        with pytest.raises(OSError, match="No space left"):
            work(tmp_path / "x")
    assert (tmp_path / "x" / ".finished.jsonl").read_bytes() == notes
    assert work(tmp_path / "x") == NAMES[2:]


# A finished folder


def test_a_finished_folder_says_what_it_is(whole: Path) -> None:
    folder = Folder(whole / "ledger.json", "things")
    assert folder.attributes == {"count": 3}
    assert folder.made_from == MADE_FROM
    assert list(folder.files) == sorted(NAMES)
    assert folder.check("deep/b.txt") == whole / "deep/b.txt"
    assert folder.check_all() is folder
    assert not folder.absent


@pytest.mark.parametrize("damage", [*DAMAGES, replaced_by_a_folder])
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_named_with_the_remedy(whole: Path, name: str, damage: Damage) -> None:
    damage(whole / name)
    with pytest.raises(UserError) as caught:
        Folder(whole / "ledger.json", "things").check_all()
    assert str(caught.value).startswith(f"{whole / name}: ")
    assert f"rebuild it with: snakemake --force {whole / 'ledger.json'}" in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_after_opening_is_noticed_at_the_first_use(whole: Path, damage: Damage) -> None:
    folder = Folder(whole / "ledger.json", "things")
    damage(whole / NAMES[1])
    assert folder.check(NAMES[0]).is_file()
    with pytest.raises(UserError, match="b.txt"):
        folder.check(NAMES[1])


def test_a_file_that_the_ledger_does_not_know_is_refused(whole: Path) -> None:
    (whole / "stray.txt").write_text("x")
    with pytest.raises(UserError, match="stray.txt: not in"):
        Folder(whole / "ledger.json", "things").check("stray.txt")


def test_another_kind_is_refused(whole: Path) -> None:
    with pytest.raises(UserError, match="expected a ledger of kind 'others', found 'things'"):
        Folder(whole / "ledger.json", "others")


@pytest.mark.parametrize("name", ["../x", "deep/../../x", "/etc/hostname"])
def test_a_ledger_that_names_files_outside_its_folder_is_refused(whole: Path, name: str) -> None:
    (whole.parent / "x").write_text("x")
    ledger = json.loads((whole / "ledger.json").read_text())
    ledger["files"] |= {name: {"bytes": 1, "sha256": file_digest(whole.parent / "x")}}
    (whole / "ledger.json").write_text(json.dumps(ledger))
    with pytest.raises(UserError, match="outside its folder; delete and build again"):
        Folder(whole / "ledger.json", "things")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"kind": "things"',
        b"[1]",
        b"3",
        pytest.param(b"[" * 100_000, id="deep"),
        b"\xff\xfe\x00",
        b'{"kind": "things"}',
    ],
    ids=repr,
)
def test_what_is_no_ledger_is_refused_in_one_line(whole: Path, content: bytes) -> None:
    (whole / "ledger.json").write_bytes(content)
    with pytest.raises(UserError, match="ledger.json: "):
        Folder(whole / "ledger.json", "things")


@pytest.mark.parametrize("files", [[], None, {"a.txt": None}, {"a.txt": {}}, {"a.txt": {"bytes": 17}}])
def test_a_ledger_with_a_broken_list_of_files_is_refused(whole: Path, files: Any) -> None:
    ledger = json.loads((whole / "ledger.json").read_text())
    (whole / "ledger.json").write_text(json.dumps(ledger | {"files": files}))
    with pytest.raises(UserError, match="delete it and run snakemake again"):
        Folder(whole / "ledger.json", "things")


def test_a_missing_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ledger.json: missing; build it with snakemake"):
        Folder(tmp_path / "ledger.json", "things")


def test_an_optional_part_may_be_absent_as_a_whole_only(whole: Path) -> None:
    assert not Folder(whole / "ledger.json", "things", optional=("deep",)).absent
    (whole / "deep/b.txt").unlink()
    with pytest.raises(UserError, match="b.txt: missing"):
        Folder(whole / "ledger.json", "things", optional=("deep",))
    shutil.rmtree(whole / "deep")
    folder = Folder(whole / "ledger.json", "things", optional=("deep",))
    assert folder.absent
    assert folder.check("a.txt").is_file()
    with pytest.raises(UserError, match="b.txt: missing"):
        folder.check("deep/b.txt")
    with pytest.raises(UserError, match="missing"):
        Folder(whole / "ledger.json", "things")
    with pytest.raises(UserError, match="missing"):
        Folder(whole / "ledger.json", "things", optional=("dee",))


# Arrays


def values_of(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Values that differ from place to place, every bit in use."""
    return (np.random.default_rng(seed).standard_normal(shape) * 1000).astype(dtype)


def write(
    folder: Path, values: np.ndarray, block: tuple[int, ...], stop: int | None = None, **options: Any
) -> list[tuple[int, ...]]:
    """Write an array up to block number ``stop``; returns the blocks that were written now."""
    ledger = Ledger(folder / "ledger.json", "arrays", MADE_FROM)
    dims = tuple(f"axis_{axis}" for axis in range(values.ndim))
    writer = ArrayWriter(ledger, "x", values.shape, block, str(values.dtype), dims=dims, **options)
    grid = [-(-whole // size) for whole, size in zip(values.shape, block, strict=True)]
    new = [index for index in list(np.ndindex(*grid))[:stop] if index not in writer]
    for index in new:
        writer.write(
            index, values[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, block, strict=True))]
        )
    if stop is None:
        ledger.finish({})
    return new


def open_array(folder: Path) -> ArrayReader:
    return ArrayReader(Folder(folder / "ledger.json", "arrays"), "x")


@st.composite
def arrays(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A shape, a block and a chunk that divides the block."""
    chunk = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple))
    block = tuple(size * draw(st.integers(1, 3)) for size in chunk)
    return tuple(draw(st.integers(1, 2 * size + 2)) for size in block), block, chunk


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    cut=arrays(), codec=st.sampled_from(CODECS), dtype=st.sampled_from(["<f4", "<f2", "<i4", "|u1", "<f8"])
)
def test_every_array_comes_back_whole_and_in_pieces(cut: Any, codec: str, dtype: str) -> None:
    shape, block, chunk = cut
    values = values_of(shape, "int64").astype(dtype)
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), values, block, codec=codec, chunk=chunk)
        reader = open_array(Path(name))
        assert (reader.shape, reader.block, reader.chunk) == (shape, block, chunk)
        read = reader.read()
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values)
        grid = [-(-whole // size) for whole, size in zip(shape, block, strict=True)]
        for index in np.ndindex(*grid):
            inside = tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, block, strict=True))
            part = values[inside]
            expected = [
                part[tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, chunk, strict=True))]
                for place in np.ndindex(*(b // c for b, c in zip(block, chunk, strict=True)))
            ]
            expected = [piece for piece in expected if piece.size]
            for found, piece in zip(reader.pieces(*index), expected, strict=True):
                np.testing.assert_array_equal(found, piece)


def test_slices_are_those_of_numpy(tmp_path: Path) -> None:
    values = values_of((7, 5, 3), "float32")
    write(tmp_path, values, (3, 2, 3))
    reader = open_array(tmp_path)
    parts = [slice(None), slice(2, 3), slice(0, 4), slice(3, 6), slice(5, 99), slice(-2, None), slice(4, 4)]
    for first, second in itertools.product(parts, parts):
        np.testing.assert_array_equal(reader.read(first, second), values[first, second])
        np.testing.assert_array_equal(reader.read(first), values[first])


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_array_has_the_same_bytes_on_disk(tmp_path: Path, codec: str) -> None:
    values = values_of((10, 6), "float32")
    for name in "ab":
        write(tmp_path / name, values, (4, 6), codec=codec)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_blocks_of_zeros_are_files_like_others(tmp_path: Path) -> None:
    write(tmp_path, np.zeros((4, 2), "int32"), (2, 2))
    assert {"x/c/0/0", "x/c/1/0"} <= set(Folder(tmp_path / "ledger.json", "arrays").files)


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_array_goes_on_where_it_stopped(tmp_path: Path, damage: Damage) -> None:
    values = values_of((10, 6), "float32")
    write(tmp_path / "whole", values, (4, 6))
    assert write(tmp_path / "x", values, (4, 6), stop=2) == [(0, 0), (1, 0)]
    damage(tmp_path / "x/x/c/0/0")
    assert write(tmp_path / "x", values, (4, 6)) == [(0, 0), (2, 0)]
    assert contents(tmp_path / "x") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_array_whose_metadata_were_lost_is_rebuilt(tmp_path: Path, damage: Damage) -> None:
    values = values_of((10, 6), "float32")
    write(tmp_path / "whole", values, (4, 6))
    write(tmp_path / "x", values, (4, 6), stop=2)
    damage(tmp_path / "x/x/zarr.json")
    assert write(tmp_path / "x", values, (4, 6)) == [(0, 0), (1, 0), (2, 0)]
    assert contents(tmp_path / "x") == contents(tmp_path / "whole")


def test_swapped_blocks_are_noticed_although_zarr_reads_them(tmp_path: Path) -> None:
    values = values_of((4, 4), "float32")
    write(tmp_path, values, (2, 4), codec="none")
    first, second = tmp_path / "x/c/0/0", tmp_path / "x/c/1/0"
    assert first.stat().st_size == second.stat().st_size
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    reader = open_array(tmp_path)
    np.testing.assert_array_equal(np.asarray(reader.array[:]), np.roll(values, 2, axis=0))
    for read in (reader.read, lambda: next(reader.pieces(1, 0))):
        with pytest.raises(UserError, match="its contents differ from the hash in ledger.json"):
            read()


def test_only_the_blocks_that_are_read_are_compared(tmp_path: Path) -> None:
    values = values_of((6, 4), "float32")
    write(tmp_path, values, (2, 4))
    altered(tmp_path / "x/c/2/0")
    reader = open_array(tmp_path)
    np.testing.assert_array_equal(reader.read(slice(0, 4)), values[:4])
    with pytest.raises(UserError, match="x/c/2/0: its contents differ"):
        reader.read(slice(3, 5))


@pytest.mark.parametrize("damage", DAMAGES)
def test_changed_metadata_are_refused(tmp_path: Path, damage: Damage) -> None:
    write(tmp_path, values_of((4, 4), "float32"), (2, 4))
    damage(tmp_path / "x/zarr.json")
    with pytest.raises(UserError, match="zarr.json"):
        open_array(tmp_path)


def test_small_arrays_are_one_block(tmp_path: Path) -> None:
    values = {"a": values_of((3, 2), "float64"), "b": np.arange(5, dtype="uint16")}
    for _ in range(2):  # the second time finds them
        ledger = Ledger(tmp_path / "ledger.json", "arrays", MADE_FROM)
        for name, array in values.items():
            write_array(ledger, name, array, tuple(f"{name}_{axis}" for axis in range(array.ndim)))
    ledger.finish({})
    folder = Folder(tmp_path / "ledger.json", "arrays")
    assert len(folder.files) == 5  # with the metadata of the group
    for name, array in values.items():
        np.testing.assert_array_equal(read_array(folder, name), array)


def write_group(folder: Path, stop: int | None = None) -> None:
    """A folder with arrays on top and in sub-folders, some of another size."""
    ledger = Ledger(folder / "ledger.json", "arrays", MADE_FROM)
    arrays = {"x": (("layer", "token"), (2, 6)), "tokens": (("token",), (6,))}
    arrays |= {f"counts/{model}/n": (("neuron", "bin"), (size, 3)) for model, size in (("a", 4), ("b", 5))}
    for name, (dims, shape) in list(arrays.items())[:stop]:
        values = np.arange(math.prod(shape), dtype="int32").reshape(shape)
        write_array(ledger, name, values, dims, "nats" if name == "x" else "1", f"what {name} holds")
    if stop is None:
        ledger.finish({"models": ["a", "b"], "none": None})


@pytest.mark.parametrize("inside", ["", "counts", "counts/a", "counts/b"])
def test_a_folder_of_arrays_is_a_zarr_group(tmp_path: Path, inside: str) -> None:
    import zarr

    write_group(tmp_path)
    group = zarr.open_group(str(tmp_path / inside), mode="r")
    ledger = read_json(tmp_path / "ledger.json")
    assert set(group.keys()) == {"": {"x", "tokens", "counts"}, "counts": {"a", "b"}}.get(inside, {"n"})
    told = {key: value for key, value in ledger.items() if key != "files"}
    assert dict(group.attrs) == ({} if inside else told)
    assert f"{inside}/zarr.json".removeprefix("/") in ledger["files"]
    if not inside:
        assert group["x"].metadata.dimension_names == ("layer", "token")
        assert dict(group["x"].attrs) == {"units": "nats", "description": "what x holds"}


def test_a_folder_of_arrays_opens_with_xarray(tmp_path: Path) -> None:
    import xarray

    write_group(tmp_path)
    store = xarray.open_zarr(tmp_path, chunks=None)
    assert dict(store.sizes) == {"layer": 2, "token": 6}
    assert store.attrs["kind"] == "arrays"
    assert store.attrs["made_from"] == MADE_FROM
    assert store["x"].dims == ("layer", "token")
    assert store["x"].attrs == {"units": "nats", "description": "what x holds"}
    assert store["x"].dtype == "int32"
    np.testing.assert_array_equal(store["x"].sel(layer=1), np.arange(6, 12))
    for model, size in (("a", 4), ("b", 5)):
        part = xarray.open_zarr(tmp_path, group=f"counts/{model}", chunks=None)
        assert dict(part.sizes) == {"neuron": size, "bin": 3}
    tree = xarray.open_datatree(tmp_path, engine="zarr", chunks=None)
    assert tree["counts/b/n"].shape == (5, 3)


@pytest.mark.parametrize("stop", range(5))
def test_a_group_that_was_interrupted_is_the_same_in_the_end(tmp_path: Path, stop: int) -> None:
    write_group(tmp_path / "whole")
    write_group(tmp_path / "x", stop)
    write_group(tmp_path / "x")
    assert contents(tmp_path / "x") == contents(tmp_path / "whole")
    altered(tmp_path / "x/counts/zarr.json")
    with pytest.raises(UserError, match="counts/zarr.json: its contents differ"):
        Folder(tmp_path / "x/ledger.json", "arrays").check_all()
    write_group(tmp_path / "x")
    assert contents(tmp_path / "x") == contents(tmp_path / "whole")


def test_a_lost_block_of_fractions_reads_as_no_number_and_not_as_zeros(tmp_path: Path) -> None:
    """Readers that know nothing of ledgers see that something is missing, as where DVC leaves blocks out."""
    import zarr

    write(tmp_path, values_of((4, 4), "float16"), (2, 4))
    (tmp_path / "x/c/1/0").unlink()
    array = np.asarray(zarr.open_group(str(tmp_path), mode="r")["x"][:])
    assert np.isfinite(array[:2]).all()
    assert np.isnan(array[2:]).all()


def test_one_name_of_a_dimension_is_one_size_within_a_group(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json", "arrays", {})
    write_array(ledger, "a", np.zeros(3), ("token",))
    write_array(ledger, "deeper/b", np.zeros(4), ("token",))
    with pytest.raises(RuntimeError, match="c: 4 tokens, expected 3 as in a"):
        write_array(ledger, "c", np.zeros((2, 4)), ("layer", "token"))
    for name in ("zarr.json", "models/zarr.json/n"):
        with pytest.raises(UserError, match="nothing in it can be called zarr.json; choose another name"):
            write_array(ledger, name, np.zeros(3), ("token",))


# A disk that is really full

ON_A_SMALL_DISK = '''
from pathlib import Path

import numpy as np

from steps.core.runner import Output, run
from steps.core.stores import ArrayWriter, Ledger


def main(out: Output) -> None:
    """Twelve blocks of 100 kB that do not compress."""
    ledger = Ledger(out, "arrays", {})
    writer = ArrayWriter(ledger, "x", (12, 100_000), (1, 100_000), "uint8", dims=("a", "b"))
    for block in range(12):
        if (block, 0) not in writer:
            values = np.random.default_rng(block).integers(0, 256, (1, 100_000), "uint8")
            writer.write((block, 0), values)
    ledger.finish({})


if __name__ == "__main__":
    run(main)
'''


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=2m,nr_inodes=64", "none", str(place)]
    if command is None or subprocess.run([command, *options], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def start_on_a_small_disk(folder: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "step.py").write_text(ON_A_SMALL_DISK)
    return subprocess.run(
        [sys.executable, str(folder / "step.py"), "--out", str(out), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_no_room_for_the_log_is_one_line_too(tmp_path: Path, small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        for number in range(1000):
            (small_disk / str(number)).touch()
    log = small_disk / "logs" / "step.log"
    done = start_on_a_small_disk(tmp_path, tmp_path / "x/ledger.json", "--log", str(log))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "logs: no space left on the disk" in done.stderr


def test_a_full_disk_is_one_line_and_the_rest_follows_when_there_is_space(
    tmp_path: Path, small_disk: Path
) -> None:
    def start(folder: Path) -> subprocess.CompletedProcess[str]:
        return start_on_a_small_disk(tmp_path, folder / "ledger.json")

    assert start(tmp_path / "undisturbed").returncode == 0
    (small_disk / "ballast").write_bytes(bytes(1_400_000))
    for _ in range(2):  # the second start finds the disk still full
        done = start(small_disk / "x")
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert "no space left on the disk; free some space and start again" in done.stderr
        assert not (small_disk / "x/ledger.json").exists()
        assert not (small_disk / "x/.ledger.json.part").exists()
    kept = small_disk / "x/x/c/0/0"
    time = kept.stat().st_mtime_ns
    (small_disk / "ballast").unlink()
    done = start(small_disk / "x")
    assert done.returncode == 0, done.stderr
    assert kept.stat().st_mtime_ns == time
    assert contents(small_disk / "x") == contents(tmp_path / "undisturbed")


# Tensors and JSON


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    values = {"b": values_of((3, 4), "float32"), "a": np.arange(6)[::2], "none": np.zeros((0, 2), "float32")}
    facts = {"z": [1, "ü"], "a": {"b": None}}
    write_tensors(tmp_path / "x.safetensors", values, facts)
    found, told = read_tensors(tmp_path / "x.safetensors")
    assert told == {**facts, "versions": versions()}
    assert set(found) == set(values)
    for name, array in values.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert set(read_tensors(tmp_path / "x.safetensors", leave="a")[0]) == {"b", "none"}
    with open_tensors(tmp_path / "x.safetensors") as (file, told):
        np.testing.assert_array_equal(file.get_slice("b")[1:2], values["b"][1:2])
        assert told == {**facts, "versions": versions()}


def test_the_same_tensors_have_the_same_bytes(tmp_path: Path) -> None:
    values = {name: values_of((5, 3), "float32", seed) for seed, name in enumerate("abcdef")}
    facts = {name: name for name in "abcdef"}
    write_tensors(tmp_path / "1", values, facts)
    write_tensors(tmp_path / "2", dict(reversed(values.items())), dict(reversed(facts.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("size", [0, 4, 40, -1])
def test_truncated_tensors_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": values_of((30, 4), "float32")}, {})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match="x.safetensors: unreadable .*; delete it and run snakemake again"):
        read_tensors(path)


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_altered_tensors_are_refused(tmp_path: Path, place: float) -> None:
    """A byte anywhere: in the facts, in an array, in one that is not read."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": values_of((30, 4), "float32"), "b": np.arange(9)}, {"kind": "k", "n": [1, 2]})
    whole = bytearray(path.read_bytes())
    whole[int(place * len(whole))] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match="x.safetensors: .*; delete it and run snakemake again"):
        read_tensors(path, leave="b")
    with pytest.raises(UserError, match="x.safetensors: .*; delete it"), open_tensors(path):
        pass


def test_swapped_tensors_are_refused(tmp_path: Path) -> None:
    """Of the same shape, so that only their names tell them apart."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"aa": np.zeros(3), "bb": np.ones(3)}, {})
    path.write_bytes(path.read_bytes().replace(b'"aa"', b'"cc"'))
    with pytest.raises(UserError, match="its contents differ from the hash in it"):
        read_tensors(path)


def test_tensors_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {"a": np.zeros(3)}, {"kind": "moments"})
    assert read_tensors(tmp_path / "x", kind="moments")[1] == {"kind": "moments", "versions": versions()}
    with pytest.raises(UserError, match="x: found a file of 'moments', expected one of 'products'"):
        read_tensors(tmp_path / "x", kind="products")


def test_other_files_are_no_tensors(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="unreadable"):
        read_tensors(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="unreadable"):
        read_tensors(path)
    for metadata in (None, {"other": "x"}, {"facts": "{"}):
        save_file({"a": np.zeros(2)}, path, metadata=metadata)
        with pytest.raises(UserError, match="unreadable"):
            read_tensors(path)


def table_of(path: Path, rows: int = 20_000) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"text {number * 7919 % rows}" for number in range(rows)]
    table = pa.table({"text": texts, "number": range(rows), "more": [0.5] * rows})
    pq.write_table(table, path, compression="zstd", row_group_size=rows // 4, write_page_checksum=True)
    return path


def test_a_table_comes_back_with_the_columns_asked_for(tmp_path: Path) -> None:
    path = table_of(tmp_path / "t.parquet", 8)
    assert read_table(path).column_names == ["text", "number", "more"]
    table = read_table(path, ["number", "text"])
    assert table.column_names == ["number", "text"]
    assert table["number"].to_pylist() == list(range(8))
    assert read_table(path, []).column_names == []


@pytest.mark.parametrize("damage", [*DAMAGES, replaced_by_a_folder, lambda path: path.write_bytes(b"")])
def test_a_damaged_table_is_one_line(tmp_path: Path, damage: Damage) -> None:
    path = table_of(tmp_path / "t.parquet")
    damage(path)
    with pytest.raises(UserError, match=r"t\.parquet: unreadable as a parquet table .*; delete it and run"):
        read_table(path, ["text", "number"])


def test_a_table_without_a_column_or_with_texts_that_are_no_utf8_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(UserError, match="lacks the column 'layer'; delete it"):
        read_table(table_of(tmp_path / "t.parquet", 8), ["text", "layer"])
    odd = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"text": odd}), tmp_path / "odd.parquet")
    with pytest.raises(UserError, match="odd.parquet: unreadable as a parquet table"):
        read_table(tmp_path / "odd.parquet")


def test_a_folder_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder; expected a JSON file"):
        read_json(tmp_path)
    (tmp_path / "ledger.json").write_text("{}")
    with pytest.raises(UserError, match="a folder; give its ledger, .*/ledger.json$"):
        read_json(tmp_path)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"ü": [1, 2.5, None]})
    assert read_json(path) == {"ü": [1, 2.5, None]}
    before = path.read_bytes()
    for value in (float("nan"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, value)
    assert contents(tmp_path) == {"x.json": before}


@pytest.mark.parametrize(
    ("rows", "every", "said"),
    [
        ([("a", 0), ("b", 1), ("b", 0)], True, None),
        ([("b", 1)], False, None),
        ([], False, None),
        ([("a", 0), ("b", 0)], True, "t: lacks model b, layer 1, expected exactly the 3 rows of x"),
        ([("a", 0), ("c", 0)], False, "t: holds model c, layer 0, expected some of the 3 rows of x"),
        ([("a", 1), ("b", 0), ("b", 1)], True, "t: holds model a, layer 1, expected exactly"),
        ([("a", 0), ("a", 0), ("b", 1), ("b", 0)], True, "t: holds twice model a, layer 0"),
    ],
)
def test_tables_about_something_else_are_refused(
    rows: list[tuple[str, int]], every: bool, said: str | None
) -> None:
    import pandas as pd

    columns = ["model", "layer"]
    expected = pd.DataFrame([("a", 0), ("b", 0), ("b", 1)], columns=columns).astype({"layer": "int32"})
    found = pd.DataFrame(rows, columns=columns)
    with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
        require_rows(Path("t"), found, expected, "x", every)


def test_columns_may_be_needed_where_all_are_read(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [1], "b": [2]}).to_parquet(path)
    assert read_table(path, needed=["a"]).column_names == ["a", "b"]
    with pytest.raises(UserError, match=r"t.parquet: lacks the column 'c'"):
        read_table(path, needed=["a", "c"])


def test_tables_that_are_written_come_back_and_say_which_versions_made_them(tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    table = pd.DataFrame({"a": pd.Series(["x", None], dtype="str"), "b": np.arange(2, dtype="int32")}, [7, 8])
    write_table(table, path)
    pd.testing.assert_frame_equal(read_table(path).to_pandas(), table.reset_index(drop=True))
    assert dict(provenance.made_with(path)) == versions()
    again = tmp_path / "again.parquet"
    write_table(table, again)
    assert again.read_bytes() == path.read_bytes()
    column = pq.read_metadata(path).row_group(0).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t.parquet: unreadable"):
        read_table(path)
    assert {*pq.read_schema(again).metadata} >= {b"pandas", b"versions"}


def test_a_folder_says_what_it_was_made_with(tmp_path: Path) -> None:
    made = {}
    for name in "ab":
        ledger = Ledger(tmp_path / name / "ledger.json", "words", {"name": name})
        ledger.finish({})
        made[name] = Folder(tmp_path / name / "ledger.json", "words")
    ledger = Ledger(tmp_path / "user" / "ledger.json", "user", {})
    ledger.finish({"words": made["a"].fingerprint})
    user = Folder(tmp_path / "user" / "ledger.json", "user")
    user.require_made_with(made["a"])
    with pytest.raises(
        UserError, match=r"b/ledger.json: not the words that .*user/ledger.json was made with"
    ):
        user.require_made_with(made["b"])
