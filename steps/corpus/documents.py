"""Make the corpus: labelled documents, split into a train and a held-out side.

Reads the frozen texts of ``steps.corpus.freeze`` (source ``embedded``), a folder of the user's
files (``files``) or a dataset of the Hugging Face hub (``hub``).

Writes a parquet table with one row per document, in the order of the source:

    document  str  its key, unique
    source    str  its label, what the paper calls the subset of the Pile
    split     str  train or held_out
    text      str  without blanks at either end

and a manifest in JSON with the counts by side and label, the documents and files that were left out,
the SHA-256 of every input, the Python version of a frozen text, the settings, the code and the
library versions.

A document of at most ``minimum_characters`` is left out (Gurnee et al. 2024 drop 50 and fewer),
and so is one whose text is there already; a text on both sides stays in train.
The side is chosen for a unit as a whole (source file, topic, row), by a hash of its name, before
anything is extracted from it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from steps.core import settings as core
from steps.core.digest import code_digest, file_digest, seed
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.text import shown
from steps.corpus.sources import embedded as embedded_source
from steps.corpus.sources import files as files_source
from steps.corpus.sources import hub as hub_source
from steps.corpus.sources.document import Document
from steps.corpus.sources.embedded import Embedded
from steps.corpus.sources.files import Files
from steps.corpus.sources.hub import Hub

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("reprise")

MOST_LABELS = 1_000
"""Labels of a corpus; more come from a column that holds something else."""

BATCH = 8_000_000
"""Characters written at once."""

SOURCES = ("embedded", "files", "hub")


class Settings(core.Settings):
    """Settings of the step."""

    source: Literal["embedded", "files", "hub"] = pydantic.Field(
        "embedded",
        description="embedded: this Python's library; files: a folder; hub: a Hugging Face dataset",
    )
    held_out: float = pydantic.Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the units (source files, topics, rows) that is held out, above 0 and below 1",
    )
    minimum_characters: int = pydantic.Field(
        50, ge=0, description="documents of this many characters or fewer are left out (paper: 50)"
    )
    seed: int = pydantic.Field(0, ge=0, description="of the choice of the units that are held out")
    threads: int = pydantic.Field(
        2,
        ge=1,
        le=1024,
        description="processes that parse the embedded text; no influence on the result",
        json_schema_extra=core.NO_INFLUENCE,
    )
    embedded: Embedded = pydantic.Field(Embedded(), description="what is taken of the Python installation")
    files: Files = pydantic.Field(Files(), description="the folder of files")
    hub: Hub = pydantic.Field(Hub(), description="the hub dataset")

    @pydantic.model_validator(mode="after")
    def _names_its_source(self) -> Settings:
        needed = {"files": ("folder",), "hub": ("dataset", "revision")}.get(self.source, ())
        for key in needed:
            if getattr(getattr(self, self.source), key) is None:
                raise UserError(
                    f"corpus.documents.{self.source}.{key}: found null, expected a value since"
                    f" corpus.documents.source is {self.source!r}; set it or choose another source"
                )
        return self

    @pydantic.model_serializer(mode="wrap")
    def _only_what_counts(self, dump: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the sections of other sources: their settings change nothing."""
        return {key: value for key, value in dump(self).items() if key not in SOURCES or key == self.source}


class Counts:
    """How many documents and characters each side has of each label, and how many were left out."""

    def __init__(self) -> None:
        self.documents: dict[str, Counter[str]] = {"train": Counter(), "held_out": Counter()}
        self.characters: dict[str, Counter[str]] = {"train": Counter(), "held_out": Counter()}
        self.short = 0
        self.repeated = 0

    def add(self, side: str, source: str, characters: int) -> None:
        self.documents[side][source] += 1
        self.characters[side][source] += characters

    def as_dict(self) -> dict[str, Any]:
        """For the manifest, labels sorted."""
        sides = {
            side: {
                source: {"documents": count, "characters": self.characters[side][source]}
                for source, count in sorted(documents.items())
            }
            for side, documents in self.documents.items()
        }
        return {"counts": sides, "left_out": {"short": self.short, "repeated": self.repeated}}


def write_corpus(documents: Iterable[Document], settings: Settings, out: Path) -> Counts:
    """Split the documents, leave out what is short or there already, and write the table.

    What was read goes to a file beside ``out`` first, since only the last unit tells whether both
    sides have one, and only the last document whether a held-out one is also in train. In memory
    stay a batch and about 400 bytes a document.

    Raises:
        UserError: there are too few units or documents for two sides, or too many labels.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in ("document", "source", "split", "text")])
    spool = out.with_name(f"{out.name}.spool")
    counts = Counts()
    try:
        _spool(documents, settings, spool, counts)
        with pq.ParquetFile(spool) as file:
            keys = file.read(columns=["hash", "digest", "source", "characters"])
            hashes = keys["hash"].to_numpy()
            held_out = hashes < _threshold(hashes, settings.held_out, counts.short)
            keep = _keep(keys["digest"].to_pylist(), held_out)
            counts.repeated = int((~keep).sum())
            sides = np.where(held_out, "held_out", "train")
            rows = zip(
                sides.tolist(), keys["source"].to_pylist(), keys["characters"].to_pylist(), strict=True
            )
            for kept, (side, source, characters) in zip(keep.tolist(), rows, strict=True):
                if kept:
                    counts.add(side, source, characters)
            _check(counts, settings)
            units = keys.group_by("source").aggregate([("hash", "min"), ("hash", "max")])
            has_one = pc.equal(units["hash_min"], units["hash_max"])
            _warn(counts, settings.held_out, set(units.filter(has_one)["source"].to_pylist()))
            start = 0
            with pq.ParquetWriter(out, schema, compression="zstd", write_page_checksum=True) as writer:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=["document", "source", "text"])
                    part = slice(start, start + len(table))
                    start = part.stop
                    table = table.add_column(2, "split", pa.array(sides[part]))
                    writer.write_table(table.filter(pa.array(keep[part])).cast(schema))
    finally:
        spool.unlink(missing_ok=True)
    return counts


def _spool(documents: Iterable[Document], settings: Settings, out: Path, counts: Counts) -> None:
    """Write the documents that are long enough, each with its digest and the hash of its unit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [(name, pa.string()) for name in ("document", "source", "text")]
    schema = pa.schema([*texts, ("characters", pa.int64()), ("hash", pa.int64()), ("digest", pa.binary(16))])
    with pq.ParquetWriter(out, schema, compression="lz4") as writer:
        for batch in _batches(documents):
            rows = []
            for document in batch:
                text = _encodable(document.text).strip()
                if len(text) <= settings.minimum_characters:
                    counts.short += 1
                    continue
                digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                side = seed(settings.seed, "corpus.documents", document.unit)
                label = _encodable(document.source)
                rows.append((document.key, label, text, len(text), side, digest))
            columns = zip(*rows, strict=True) if rows else [()] * len(schema)
            writer.write_table(
                pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)
            )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text) + 100
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encodable(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON can hold and UTF-8 cannot, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _threshold(hashes: np.ndarray, held_out: float, short: int) -> int:
    """Units whose hash is below this are held out: at least one unit, and never all.

    Args:
        hashes: of the unit of each document, 63 bits.
        held_out: the share that is wanted.
        short: documents that were left out as too short.
    """
    if not len(hashes):
        raise UserError(
            f"corpus.documents: found no text that is long enough, expected two documents at least;"
            f" {_more_text(short)}"
        )
    if hashes.min() == hashes.max():
        raise UserError(
            "corpus.documents: found one source file, topic or row that is long enough, expected two at"
            f" least, one to train on and one to hold out; {_more_text(short)}. A single text file is cut"
            f" into pieces of {files_source.PIECE:,} to {4 * files_source.PIECE:,} characters"
        )
    wanted = int(held_out * 2**63)
    return int(min(max(wanted, hashes.min() + 1), hashes.max()))


def _more_text(short: int) -> str:
    """What to do where too little is left."""
    lower = f", or lower corpus.documents.minimum_characters ({short} left out as too short)" if short else ""
    return f"add text{lower}"


def _keep(digests: list[bytes], held_out: np.ndarray) -> np.ndarray:
    """Whether each document is kept: the first of each text, in train where it is on both sides."""
    import numpy as np

    keep = np.zeros(len(digests), bool)
    seen: set[bytes] = set()
    for side in (False, True):
        for index in np.flatnonzero(held_out == side).tolist():
            if digests[index] not in seen:
                seen.add(digests[index])
                keep[index] = True
    return keep


def _check(counts: Counts, settings: Settings) -> None:
    for side, documents in counts.documents.items():
        if not documents:
            raise UserError(
                f"corpus.documents: no document is left for the side {side!r} after {counts.short} that are"
                f" too short and {counts.repeated} repeated ones were left out; {_more_text(counts.short)}"
            )
    labels = set().union(*counts.documents.values())
    if len(labels) > MOST_LABELS:
        by_folder = settings.source == "files" and settings.files.label_column is None
        raise UserError(
            f"corpus.documents: found {len(labels)} labels, expected {MOST_LABELS} at most; "
            + (
                "put the files into fewer sub-folders, whose names are the labels"
                if by_folder
                else "set label_column to a column with fewer values, or leave it out"
            )
        )


def _warn(counts: Counts, wanted: float, of_one_unit: set[str]) -> None:
    """Say where a side is far from what was wanted: units are few, or of very different size.

    Args:
        counts: of both sides.
        wanted: share of the units that should be held out.
        of_one_unit: labels that a single unit has.
    """
    characters = {side: sum(found.values()) for side, found in counts.characters.items()}
    share = characters["held_out"] / sum(characters.values())
    if not wanted / 2 <= share <= min(2 * wanted, (1 + wanted) / 2):
        logger.warning(
            "corpus.documents.held_out: %.3g of the characters are held out, %g was wanted: units are few or"
            " of very different size; divide large files, or take another corpus.documents.seed",
            share,
            wanted,
        )
    train, held_out = (set(counts.documents[side]) for side in ("train", "held_out"))
    if one_sided := sorted(train ^ held_out):
        single = len(of_one_unit.intersection(one_sided))
        remedies = []
        if single:
            remedies.append(
                f"{single} of them {'is' if single == 1 else 'are'} of a single file, topic or row, which is"
                " never on both sides: put several files into each sub-folder, or set label_column"
            )
        if single < len(one_sided):
            remedies.append("divide files, or take another corpus.documents.seed")
        logger.warning(
            "corpus.documents: %d of %d labels are on one side only (%s); %s",
            len(one_sided),
            len(train | held_out),
            ", ".join(map(repr, one_sided[:3])) + (", ..." if len(one_sided) > 3 else ""),
            "; for the others: ".join(remedies),
        )


def main(settings: Settings, snapshot: list[Path], out: Output, manifest: Output) -> None:
    """Make the corpus; ``snapshot`` is the frozen table for the source ``embedded``, else nothing."""
    about: dict[str, Any] = {}
    if settings.source == "embedded":
        if len(snapshot) != 1:
            raise UserError(f"--snapshot: found {len(snapshot)} files, expected the table of corpus_freeze")
        about["python"] = embedded_source.python_version(snapshot[0])
        about["inputs"] = {str(snapshot[0]): file_digest(snapshot[0])}
        documents = embedded_source.documents(settings.embedded, snapshot[0], settings.threads)
    elif settings.source == "files":
        folder = Path(str(settings.files.folder)).expanduser()
        paths, others = files_source.look_through(folder)
        digests = files_source.check(folder, paths)
        names = [shown(path.relative_to(folder)) for path in paths]
        about["inputs"] = dict(zip(names, digests, strict=True))
        reason = f"of a kind that is not read (read are {files_source.KINDS})"
        about["files_left_out"] = files_source.report_left_out(folder, others, reason)
        documents = files_source.documents(settings.files, folder, paths)
    else:
        about["inputs"] = hub_source.inputs(settings.hub)
        about["commit"] = hub_source.commit(settings.hub)
        folder, reason = Path(str(settings.hub.dataset)), "in no split of the dataset"
        others = hub_source.unclaimed(settings.hub)
        about["files_left_out"] = files_source.report_left_out(folder, others, reason)
        documents = hub_source.documents(settings.hub)
    counts = write_corpus(documents, settings, out)
    libraries = ("datasets", "pyarrow")
    summary = {
        **counts.as_dict(),
        **about,
        "settings": settings.model_dump(exclude={"threads"}),
        "code": code_digest("corpus.documents"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in libraries},
        },
    }
    manifest.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for side, labels in summary["counts"].items():
        for label, found in labels.items():
            logger.info(
                "%s: %d documents labelled %r, %d characters",
                side,
                found["documents"],
                label,
                found["characters"],
            )


if __name__ == "__main__":
    run(main)
