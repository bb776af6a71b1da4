"""Folders that a job makes (zarr stores, models), each described by one ledger file inside it.

``ledger.json`` is written last and is the only file that rules declare. It holds::

    {"kind": "activations",            what the folder is
     "made_from": {...},               inputs, settings and code that decide the contents
     "versions": {"torch": "2.13.0"},  of Python and the libraries that made them
     "fingerprint": "<sha256>",        of kind, made_from and versions
     "attributes": {...},              what readers need to know (shapes, names)
     "files": {"pre/c/0/0/0": {"bytes": 123, "sha256": "..."}}}

A folder with arrays in it is a zarr group, and so are the folders between it and an array: each opens with
``zarr.open_group`` and, as arrays have dimension names, with ``xarray.open_zarr``. The attributes of the
group are what the ledger says, but for the files.

While the job runs, files are noted in ``.finished.jsonl`` when they are begun and when they are whole;
a job that starts again keeps those whose fingerprint, size and hash still match and makes the others
again. What another fingerprint made is discarded before the first file is written, and only what a ledger
or the notes name: a folder with anything else in it is refused. A job locks the folder that it writes
(``steps.core.locks``).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import weakref
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.digest import file_digest, fingerprint
from steps.core.errors import UserError
from steps.core.locks import held
from steps.core.provenance import LIBRARIES, VERSIONS, versions

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zarr

CODECS = ("none", "lz4", "zstd")
"""Compression of zarr blocks, from fastest to smallest."""

LEDGER = "ledger.json"
_FINISHED = ".finished.jsonl"
_CHECKSUM = 4  # bytes of a crc32c


class Ledger:
    """The ledger of a folder that is being made."""

    def __init__(
        self,
        out: Path,
        kind: str,
        made_from: dict[str, Any],
        libraries: Sequence[str] = LIBRARIES,
        *,
        contents_named: bool = False,
    ) -> None:
        """Start, or continue, the folder that holds ``out``, once no other process writes it.

        What an earlier run made from other inputs, settings or code, or with other versions of libraries,
        stays until the first file is written, so that a mistake which is noticed before costs nothing.

        Args:
            out: where the ledger is to be written; its folder belongs to this job alone.
            kind: what the folder is.
            made_from: everything that decides the contents; finished files are kept only where
                it is unchanged.
            libraries: those whose version may change the contents.
            contents_named: ``made_from`` names the contents themselves: whatever versions made them, the
                fingerprint is the same.

        Raises:
            UserError: the folder is of another kind, or holds files that no ledger of this kind knows.
        """
        self.folder = out.parent
        self.kind = kind
        self.made_from = made_from
        self.versions = versions(libraries)
        self.fingerprint = fingerprint([kind, made_from, *([] if contents_named else [self.versions])])
        self.files: dict[str, dict[str, Any]] = {}
        self._out = out
        self._finished = self.folder / _FINISHED
        self._placed: set[str] = set()
        self._outdated: list[Path] = []
        self._begun = False
        self._arrays: dict[str, dict[str, int]] = {}
        """The dimensions and their sizes of each array."""
        lock = contextlib.ExitStack()
        lock.enter_context(held(self.folder / self._final_name()))
        self._unlock = weakref.finalize(self, lock.close)  # by finish(), or where that is not reached
        self._resume()
        if not self._outdated:
            self.begin()

    def _resume(self) -> None:
        """Take over what is whole, or else find out what an earlier run left."""
        text = self._finished.read_text("utf-8", "replace") if self._finished.exists() else ""
        header, *notes = [_parsed(line) for line in text.splitlines()] or [{}]
        noted = {entry["name"]: entry for entry in notes if isinstance(entry.get("name"), str)}
        if header == self._header():
            for name, entry in noted.items():
                if {"bytes", "sha256"} <= entry.keys() and _matches(self.folder / name, entry):
                    self.files[name] = {"bytes": entry["bytes"], "sha256": entry["sha256"]}
            self._placed = set(noted)
        else:
            self._outdated = self._of_an_earlier_run(header.get("kind"), set(noted))

    def _of_an_earlier_run(self, kind: str | None, known: set[str]) -> list[Path]:
        """The files in the folder, all of which a ledger or the notes (``kind``, ``known``) must name."""
        ledgers = [name for name in {LEDGER, self._final_name()} if (self.folder / name).is_file()]
        kinds = {kind} if kind else set()
        for name in ledgers:
            content = _parsed((self.folder / name).read_text("utf-8", "replace"))
            kinds |= {str(content["kind"])} if "kind" in content else set()
            files = content.get("files")
            known |= set(files) if isinstance(files, dict) else set()
        if other := sorted(kinds - {self.kind}):
            raise UserError(
                f"{self.folder}: holds what another step made ({other[0]!r}), expected {self.kind!r} or"
                " nothing; name another folder or move it away"
            )
        known = known | set(ledgers) if kinds else set()
        below = tuple(name for name in known if name.endswith("/"))
        found = []
        for parent, folders, names in os.walk(self.folder):
            at = Path(parent).relative_to(self.folder)
            if not at.parts:  # what is hidden here is a training's state, a log, or no business of ours
                folders[:] = [name for name in folders if not name.startswith(".")]
                names = [name for name in names if not name.startswith(".")]
            for name in (*names, *(name for name in folders if Path(parent, name).is_symlink())):
                inside = (at / name).as_posix()
                cut_off = name.startswith(".") and name.endswith(".writing")
                if not (inside in known or inside.startswith(below) or cut_off):
                    raise UserError(f"{self.folder}: holds {inside!r}, which no step made; move it away")
                found.append(self.folder / inside)
        return sorted(found, key=lambda path: path.name in ledgers)  # they go last: they know the others

    def begin(self) -> None:
        """Discard what an earlier run made from something else, once; before the first file is written."""
        if self._begun:
            return
        for path in self._outdated:
            path.unlink(missing_ok=True)
        for folder in sorted({parent for path in self._outdated for parent in path.parents}, reverse=True):
            if self.folder in folder.parents:
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
        self._outdated = []
        self._note_finished()
        self._begun = True

    def outdated_bytes(self) -> int:
        """What :meth:`begin` will free."""
        return sum(path.lstat().st_size for path in self._outdated)

    def place(self, name: str) -> Path:
        """Where to write the file ``name`` (with ``/`` at its end: files below it); it is noted as ours."""
        self.begin()
        if name not in self._placed:
            self._placed.add(name)
            with self._finished.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name}) + "\n")
        path = self.folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        return path

    def _final_name(self) -> str:
        return self._out.name.removeprefix(".").removesuffix(".part")

    def _header(self) -> dict[str, str]:
        return {"kind": self.kind, "fingerprint": self.fingerprint}

    def _note_finished(self) -> None:
        # Beside and renamed: a kill or a full disk must not lose the notes that are there.
        partial = self._finished.with_name(f"{_FINISHED}.writing")
        started = [{"name": name} for name in sorted(self._placed - self.files.keys())]
        entries = [{"name": name, **entry} for name, entry in self.files.items()]
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in (self._header(), *started, *entries))
        os.replace(partial, self._finished)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def record(self, name: str) -> None:
        """Note that the file ``name``, a path inside the folder, is whole."""
        if not self._begun:
            raise RuntimeError(f"{name}: written before the ledger's begin() or place()")
        path = self.folder / name
        entry = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        self.files[name] = entry
        with self._finished.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, **entry}) + "\n")

    def note_array(self, name: str, dims: Sequence[str], shape: Sequence[int]) -> None:
        """Note an array, whose dimensions have one size each in all arrays of its group, as in xarray.

        Raises:
            UserError: its name is that of zarr's own files.
        """
        if "zarr.json" in name.split("/"):
            raise UserError(f"{self.folder}: nothing in it can be called zarr.json; choose another name")
        sizes = dict(zip(dims, shape, strict=True))
        for other, theirs in self._arrays.items():
            if _group(other) == _group(name):
                for dim in sizes.keys() & theirs.keys():
                    if sizes[dim] != theirs[dim]:
                        raise RuntimeError(
                            f"{name}: {sizes[dim]} {dim}s, expected {theirs[dim]} as in {other}"
                        )
        self._arrays[name] = sizes

    def _write_groups(self, about: dict[str, Any]) -> None:
        """Make the folder, and those between it and an array, zarr groups."""
        groups = {above for name in self._arrays for above in _groups_of(name)}
        below: dict[str, Any] = {name: read_json(self.folder / name / "zarr.json") for name in self._arrays}
        for group in sorted(groups, reverse=True):  # the inner ones first
            metadata = {"zarr_format": 3, "node_type": "group", "attributes": about if group == "" else {}}
            # All metadata below it, so that readers need not look through the folder, of which they would
            # say that ledger.json is no array.
            inside = {
                name.removeprefix(group): below[name] for name in sorted(below) if name.startswith(group)
            }
            if group:
                below[group.removesuffix("/")] = metadata
            inline = {"kind": "inline", "must_understand": False, "metadata": inside}
            write_json(self.place(f"{group}zarr.json"), {**metadata, "consolidated_metadata": inline})
            self.record(f"{group}zarr.json")

    def finish(self, attributes: dict[str, Any]) -> None:
        """Write the ledger; the folder is whole."""
        self.begin()
        about = {
            "kind": self.kind,
            "made_from": self.made_from,
            "versions": self.versions,
            "fingerprint": self.fingerprint,
            "attributes": attributes,
        }
        self._write_groups(about)
        self.files = dict(sorted(self.files.items()))
        self._placed = set()
        self._note_finished()  # without what a killed job made twice, so that resumed folders are alike
        write_json(self._out, {**about, "files": self.files})
        self._unlock()


def _group(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _groups_of(name: str) -> list[str]:
    """The groups above an array, the folder (an empty name) first, the others with ``/`` at the end."""
    return [name[:place] for place in range(len(name)) if place == 0 or name[place - 1] == "/"]


class Folder:
    """A finished folder, opened through its ledger."""

    def __init__(self, ledger: Path, kind: str, optional: tuple[str, ...] = ()) -> None:
        """Read the ledger and check that every file is there and has its size.

        Args:
            ledger: the ledger file.
            kind: what the folder must be.
            optional: sub-folders that may be absent together; ``absent`` then says so.

        Raises:
            UserError: not a ledger, of another kind, or a file missing or of another size.
        """
        self.path = ledger
        self.folder = ledger.parent
        self.kind = kind
        content = read_json(ledger)
        if not isinstance(content, dict) or content.get("kind") != kind:
            found = content.get("kind") if isinstance(content, dict) else type(content).__name__
            raise UserError(f"{ledger}: expected a ledger of kind {kind!r}, found {found!r}")
        try:
            self.fingerprint: str = content["fingerprint"]
            self.made_from: dict[str, Any] = content["made_from"]
            self.attributes: dict[str, Any] = content["attributes"]
            self.files: dict[str, dict[str, Any]] = {
                name: {"bytes": entry["bytes"], "sha256": entry["sha256"]}
                for name, entry in content["files"].items()
            }
        except KeyError as error:
            raise UserError(
                f"{ledger}: the ledger lacks {error}; delete it and run snakemake again"
            ) from None
        except (AttributeError, TypeError):
            raise UserError(
                f"{ledger}: its list of files is broken; delete it and run snakemake again"
            ) from None
        self._checked: set[str] = set()
        optional_files = [name for name in self.files if name.split("/")[0] in optional]
        self.absent = bool(optional_files) and not any((self.folder / name).exists() for name in optional)
        for name, entry in self.files.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UserError(f"{ledger}: names {name!r}, outside its folder; delete and build again")
            if not (self.absent and name in optional_files):
                self._size_matches(name, entry)

    def _size_matches(self, name: str, entry: dict[str, Any]) -> None:
        path = self.folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != entry["bytes"]:
            state = "missing" if found is None else f"{found} bytes"
            raise UserError(f"{path}: {state}, expected {entry['bytes']} bytes; {self._remedy()}")

    def _remedy(self) -> str:
        return (
            f"rebuild it with: snakemake --force {self.path} (and the --configfile or --config of the run"
            " that made it, where there was one)"
        )

    def check(self, name: str) -> Path:
        """The path of a file after its hash was compared, once per process.

        Raises:
            UserError: the file changed since it was made, or is not in the ledger.
        """
        path = self.folder / name
        if name not in self._checked:
            if name not in self.files:
                raise UserError(f"{path}: not in {self.path}; {self._remedy()}")
            self._size_matches(name, self.files[name])
            if file_digest(path) != self.files[name]["sha256"]:
                raise UserError(
                    f"{path}: its contents differ from the hash in {self.path.name}; {self._remedy()}"
                )
            self._checked.add(name)
        return path

    def require_made_with(self, other: Folder) -> None:
        """Refuse a folder where this one's attributes name another of that kind by its fingerprint.

        Raises:
            UserError: it is not the one that this folder was made with.
        """
        if self.attributes.get(other.kind) != other.fingerprint:
            raise UserError(
                f"{other.path}: not the {other.kind} that {self.path} was made with; give that one, or build"
                " both with one configuration"
            )

    def check_all(self) -> Folder:
        """Compare the hash of every file; see :meth:`check`."""
        for name in self.files:
            self.check(name)
        return self


class ArrayWriter:
    """One zarr v3 array of a folder, written block by block: one block is one zarr shard."""

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        shape: tuple[int, ...],
        block: tuple[int, ...],
        dtype: str,
        codec: str = "zstd",
        chunk: tuple[int, ...] | None = None,
        *,
        dims: tuple[str, ...],
        units: str = "1",
        description: str = "",
    ) -> None:
        """Create the array ``name`` in the ledger's folder, or go on with it.

        Args:
            ledger: the folder's ledger.
            name: the array's name, with its groups in front (``group/array``).
            shape: of the whole array.
            block: shape of what one :meth:`write` writes.
            dtype: numpy name of the element type.
            codec: one of ``CODECS``.
            chunk: the part that can be read alone; divides ``block``, which is its default.
            dims: names of the axes; one of several arrays of a group has the same size in all of them.
            units: of the values, 1 for plain numbers.
            description: of the values, in a few words.
        """
        import numpy as np
        import zarr

        one_thread()
        ledger.note_array(name, dims, shape)
        self.ledger = ledger
        self.name = name
        self.block = block
        self._metadata = f"{name}/zarr.json"
        if self._metadata in ledger:
            for partial in (ledger.folder / name).rglob("*.partial"):
                partial.unlink()  # what zarr was writing when the job was killed
            self.array = zarr.open_array(str(ledger.folder / name), mode="r+")
            return
        attributes: dict[str, Any] = {"units": units}
        if description:
            attributes["description"] = description
        self.array = zarr.create_array(
            str(ledger.place(f"{name}/")),
            shape=shape,
            shards=block,
            chunks=chunk or block,
            dtype=dtype,
            compressors=_codecs(codec, dtype),
            fill_value=math.nan if np.dtype(dtype).kind == "f" else 0,  # of a block that is lost
            attributes=attributes,
            dimension_names=dims,
            config={"write_empty_chunks": True},
            overwrite=True,
        )
        for file in [file for file in ledger.files if file.startswith(f"{name}/")]:
            del ledger.files[file]  # a block whose metadata was lost: just overwritten
        ledger.record(self._metadata)

    def __contains__(self, index: tuple[int, ...]) -> bool:
        return _block_file(self.name, index) in self.ledger

    def write(self, index: tuple[int, ...], values: np.ndarray) -> None:
        """Write the block at ``index`` (counted in blocks) and note it in the ledger."""
        where = tuple(
            slice(i * size, min((i + 1) * size, end))
            for i, size, end in zip(index, self.block, self.array.shape, strict=True)
        )
        file = _block_file(self.name, index)
        (self.ledger.folder / file).unlink(missing_ok=True)  # zarr would read what a killed job left
        self.array[where] = values
        self.ledger.record(file)


class ArrayReader:
    """One zarr array of a finished folder; every block's hash is compared before it is read."""

    def __init__(self, folder: Folder, name: str) -> None:
        import zarr

        one_thread()
        self.folder = folder
        self.name = name
        folder.check(f"{name}/zarr.json")
        array = zarr.open_array(str(folder.folder / name), mode="r")
        assert isinstance(array, zarr.Array)
        self.array: zarr.Array = array
        self.shape = array.shape
        self.block: tuple[int, ...] = array.shards or array.chunks
        self.chunk: tuple[int, ...] = array.chunks

    def read(self, *where: slice) -> np.ndarray:
        """The values in ``where``, one slice for each leading axis (the others whole)."""
        import itertools

        import numpy as np

        full = (*where, *(slice(None) for _ in self.shape[len(where) :]))
        spans = []
        for part, end, size in zip(full, self.shape, self.block, strict=True):
            start, stop, _ = part.indices(end)
            spans.append(range(start // size, -(-stop // size)))
        for index in itertools.product(*spans):
            self.folder.check(_block_file(self.name, index))
        return np.asarray(self.array[full])

    def pieces(self, *index: int, first: int = 0) -> Iterator[np.ndarray]:
        """The chunks of the block at ``index`` (counted in blocks) from number ``first`` on, one by one.

        The same values as :meth:`read` gives, sooner and with one chunk in memory: zarr takes longer to
        pass chunks between threads than to decode them (benchmarks/README.md). So this decodes what
        :class:`ArrayWriter` wrote. A zarr shard is its chunks, then a table of their offsets and sizes,
        then a checksum of the table; a chunk is compressed or plain, then its checksum.
        """
        import numcodecs.blosc
        import numpy as np

        path = self.folder.check(_block_file(self.name, index))
        grid = [whole // part for whole, part in zip(self.block, self.chunk, strict=True)]
        compressed = len(self.array.compressors) > 1  # the last one is the checksum
        with path.open("rb") as file:
            file.seek(-16 * math.prod(grid) - _CHECKSUM, os.SEEK_END)
            table = np.frombuffer(file.read(16 * math.prod(grid)), "<u8").reshape(-1, 2).tolist()
            for place, (offset, size) in list(zip(np.ndindex(*grid), table, strict=True))[first:]:
                start = np.multiply(index, self.block) + np.multiply(place, self.chunk)
                inside = np.minimum(self.chunk, self.shape - start)
                if inside.min() <= 0:
                    continue  # the array ends before
                values = np.empty(self.chunk, self.array.dtype)
                file.seek(offset)
                if compressed:
                    numcodecs.blosc.decompress(file.read(size - _CHECKSUM), values)
                else:
                    file.readinto(values.data)
                yield values[tuple(map(slice, inside))]


def _block_file(name: str, index: tuple[int, ...]) -> str:
    return "/".join([name, "c", *map(str, index)])


def write_array(
    ledger: Ledger,
    name: str,
    values: np.ndarray,
    dims: tuple[str, ...],
    units: str = "1",
    description: str = "",
) -> None:
    """Write a whole array that is small enough for one block; see :class:`ArrayWriter`."""
    shape, dtype = values.shape, str(values.dtype)
    writer = ArrayWriter(ledger, name, shape, shape, dtype, dims=dims, units=units, description=description)
    index = (0,) * values.ndim
    if index not in writer:
        writer.write(index, values)


def read_array(folder: Folder, name: str) -> np.ndarray:
    """Read a whole array."""
    return ArrayReader(folder, name).read()


@contextlib.contextmanager
def open_table(path: Path, columns: Collection[str] = ()) -> Iterator[pq.ParquetFile]:
    """Open a parquet table that a step wrote; what is damaged is also noticed while it is read in the body.

    Args:
        path: the table.
        columns: those that it must have.

    Raises:
        UserError: the file is damaged or something else, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = "delete it and run snakemake again"
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as table:
            known = table.schema_arrow.names
            if lacking := [name for name in columns if name not in known]:
                raise UserError(f"{path}: lacks the column {lacking[0]!r}; {remedy}")
            yield table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: unreadable as a parquet table ({reason}); {remedy}") from None


def read_table(path: Path, columns: Sequence[str] | None = None, needed: Collection[str] = ()) -> pa.Table:
    """Read a parquet table that a step wrote (``.to_pandas()`` makes a data frame of it).

    Args:
        path: the table.
        columns: those that are read, in this order; all by default.
        needed: those that it must have where all are read.

    Raises:
        UserError: the file is damaged or something else, or lacks a column.
    """
    with open_table(path, columns or needed) as file:
        table = file.read(list(columns) if columns is not None else None)
        table.validate(full=True)  # texts that are no UTF-8, offsets beyond the end
        return table if columns is None else table.select(list(columns))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a data frame, without its index, as a parquet table that says which versions made it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = pa.Table.from_pandas(table, preserve_index=False)
    made = {VERSIONS: json.dumps(versions()).encode()}
    whole = whole.replace_schema_metadata({**(whole.schema.metadata or {}), **made})
    pq.write_table(whole, path, write_page_checksum=True)


def require_rows(
    path: Path, found: pd.DataFrame, expected: pd.DataFrame, whose: object, every: bool = True
) -> None:
    """Refuse a table that is not about what another input is about.

    Args:
        path: the table.
        found: what its rows are about, such as model, layer and neuron, each once.
        expected: the same columns of what it belongs to, in any order.
        whose: what that is, for the message.
        every: whether it must have all of them; else a part is enough.

    Raises:
        UserError: a row is missing, there twice, or about something else.
    """
    import pandas as pd

    here, there = (pd.MultiIndex.from_frame(keys) for keys in (found, expected))
    for state, keys in (
        ("holds", here[~here.isin(there)]),
        ("holds twice", here[here.duplicated()]),
        ("lacks", there[~there.isin(here)] if every else there[:0]),
    ):
        if len(keys):
            row = ", ".join(f"{name} {value}" for name, value in zip(found, keys[0], strict=True))
            which = "exactly" if every else "some of"
            raise UserError(
                f"{path}: {state} {row}, expected {which} the {len(there)} rows of {whose};"
                " give that of the same study, or delete it and run snakemake again"
            )


def one_thread() -> None:
    """Keep zarr and blosc to the calling thread: jobs share the machine through Snakemake alone."""
    import numcodecs.blosc
    import zarr

    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    numcodecs.blosc.set_nthreads(1)


def _codecs(codec: str, dtype: str) -> list[Any]:
    import numpy as np
    from zarr.codecs import BloscCodec, Crc32cCodec

    itemsize = np.dtype(dtype).itemsize
    compressors: dict[str, list[Any]] = {
        "none": [],
        "lz4": [BloscCodec(cname="lz4", clevel=1, shuffle="shuffle", typesize=itemsize)],
        # Bytes of equal significance lie together, those of each in zstd blocks (128 KiB) of their own:
        # exponents compress, mantissas pass through.
        "zstd": [
            BloscCodec(
                cname="zstd", clevel=1, shuffle="shuffle", typesize=itemsize, blocksize=itemsize * 2**17
            )
        ],
    }
    return [*compressors[codec], Crc32cCodec()]


def write_json(path: Path, value: Any) -> None:
    """Write JSON with a fixed layout, whole or not at all."""
    partial = path.with_name(f".{path.name}.writing")
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_json(path: Path, user_supplied: bool = False) -> Any:
    """Read JSON that a step made, or that is ``user_supplied`` and theirs to fix.

    Raises:
        UserError: the file is missing or holds something else.
    """
    theirs = "fix it, or copy it again" if user_supplied else None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {theirs or 'build it with snakemake'}") from None
    except IsADirectoryError:
        ledger = path / "ledger.json"
        found = f"give its ledger, {ledger}" if ledger.is_file() else "expected a JSON file"
        raise UserError(f"{path}: a folder; {found}") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); {theirs or 'fix or remove it'}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not JSON ({error}); {theirs or 'delete it and run snakemake again'}"
        ) from None


def _parsed(text: str) -> dict[str, Any]:
    """A JSON object; an empty one where the text is something else, such as a line that was cut."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _matches(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and file_digest(path) == entry["sha256"]
