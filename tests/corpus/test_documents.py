"""The corpus: the split, what is left out, the manifest, and the command as it is run."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from steps.core.errors import UserError
from steps.core.settings import validate
from steps.corpus import freeze
from steps.corpus.documents import Settings, main, write_corpus
from steps.corpus.sources.document import Document

ROOT = Path(__file__).resolve().parents[2]
SHARED = "A sentence that stands word for word in the docstrings of two of the source files."


def corpus(documents: Iterable[Document], out: Path, **settings: object) -> list[dict[str, str]]:
    write_corpus(documents, Settings(**settings), out)
    rows: list[dict[str, str]] = pq.read_table(out).to_pylist()
    return rows


def units(count: int, characters: int = 60) -> list[Document]:
    return [Document(f"u{i}", f"u{i}#1", "a", f"{i:05}" + "x" * characters) for i in range(count)]


def test_a_unit_is_on_one_side_and_the_share_is_as_asked(tmp_path: Path) -> None:
    documents = [Document(f"u{i // 3}", f"d{i}", "a", f"document {i} " + "x" * 60) for i in range(6000)]
    rows = corpus(documents, tmp_path / "c.parquet", held_out=0.2)
    sides: dict[int, set[str]] = {}
    for number, row in enumerate(rows):
        sides.setdefault(number // 3, set()).add(row["split"])
    assert all(len(found) == 1 for found in sides.values())
    share = sum(found == {"held_out"} for found in sides.values()) / len(sides)
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 2000) ** 0.5
    assert [row["document"] for row in rows] == [document.key for document in documents]


def test_a_share_far_from_what_was_asked_and_labels_on_one_side_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    even = [Document(f"u{i}", f"d{i}", "ab"[i % 2], f"document {i} " + "x" * 60) for i in range(1000)]
    corpus(even, tmp_path / "c.parquet", held_out=0.2)
    assert caplog.text == ""
    large = Document("u1001", "all", "c", "y" * 1_000_000)
    held_out = corpus([*even, large], tmp_path / "c.parquet", held_out=0.2)[-1]["split"] == "held_out"
    assert ("held_out: 0.9" if held_out else "held_out: 0.01") in caplog.text
    assert "1 of 3 labels are on one side only ('c')" in caplog.text


def test_the_remedy_for_labels_on_one_side_is_one_that_helps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [
        Document(f"{n}.txt", f"{n}#{i}", f"{n}", f"{n} {i} " + "x" * 60) for n in "abcd" for i in range(9)
    ]
    corpus(files, tmp_path / "c.parquet", held_out=0.4)
    assert "4 of 4 labels are on one side only ('a', 'b', 'c', ...)" in caplog.text
    assert "4 of them are of a single file, topic or row" in caplog.text
    assert "put several files into each sub-folder, or set label_column" in caplog.text
    assert "corpus.documents.seed" not in caplog.text
    caplog.clear()
    pairs = [Document(f"{n}{k}", f"{n}{k}", n, f"{n} {k} " + "x" * 60) for n in "abcdefgh" for k in "12"]
    corpus(pairs, tmp_path / "c.parquet", held_out=0.3)
    assert "labels are on one side only" in caplog.text
    assert "divide files, or take another corpus.documents.seed" in caplog.text
    assert "single file" not in caplog.text


def test_a_lower_limit_is_proposed_only_where_it_helps(tmp_path: Path) -> None:
    def told(*documents: Document) -> str:
        with pytest.raises(UserError) as caught:
            corpus(documents, tmp_path / "c.parquet")
        return str(caught.value)

    short = Document("s", "s", "a", "short")
    twins = [Document(f"u{i}", f"u{i}", "a", "the same " * 20) for i in range(2)]
    for lacking in ([], [short], units(1), [*units(1), short], twins, [*twins, short]):
        assert ("minimum_characters (1 left out" in told(*lacking)) == (short in lacking)
        assert "add text" in told(*lacking)


def test_many_sub_folders_are_many_labels(tmp_path: Path) -> None:
    many = [Document(f"u{i}", f"u{i}", f"label {i}", f"{i} " * 60) for i in range(1001)]
    for settings, message in (
        ({"folder": "t"}, "put the files into fewer sub-folders, whose names are the labels"),
        ({"folder": "t", "label_column": "l"}, "set label_column to a column with fewer values"),
    ):
        with pytest.raises(UserError, match=f"found 1001 labels, expected 1000 at most; {message}"):
            corpus(many, tmp_path / "c.parquet", source="files", files=settings)


def test_the_side_depends_on_the_name_of_the_unit_alone(tmp_path: Path) -> None:
    documents = units(200)
    whole = {row["document"]: row["split"] for row in corpus(documents, tmp_path / "a.parquet")}
    part = corpus(reversed(documents[50:]), tmp_path / "b.parquet")
    assert all(whole[row["document"]] == row["split"] for row in part)
    other = {row["document"]: row["split"] for row in corpus(documents, tmp_path / "c.parquet", seed=1)}
    assert whole != other


@pytest.mark.parametrize("held_out", [1e-9, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("count", [2, 3])
def test_neither_side_is_ever_empty(tmp_path: Path, held_out: float, count: int) -> None:
    rows = corpus(units(count), tmp_path / "c.parquet", held_out=held_out)
    assert {row["split"] for row in rows} == {"train", "held_out"}


def test_short_documents_are_left_out(tmp_path: Path) -> None:
    documents = [
        *units(20),
        Document("s", "s#1", "a", "y" * 50),
        Document("s", "s#2", "a", "  " + "y" * 50 + "\n\n"),
        Document("s", "s#3", "a", "z" * 51),
    ]
    keys = [row["document"] for row in corpus(documents, tmp_path / "c.parquet")]
    assert keys[20:] == ["s#3"]


@given(
    texts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), min_size=30, max_size=60),
    seed=st.integers(0, 50),
)
def test_no_text_is_there_twice_and_none_leaks(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[int, int]], seed: int
) -> None:
    documents = [*units(40)]
    documents += [
        Document(f"u{unit}", f"t{i}", "a", " " * (i % 3) + f"text {text} " + "y" * 60)
        for i, (unit, text) in enumerate(texts)
    ]
    out = tmp_path_factory.mktemp("corpus") / "c.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steps.corpus.documents.BATCH", 700)
        rows = corpus(documents, out, seed=seed, held_out=0.3)
    found = [row["text"] for row in rows]
    assert len(set(found)) == len(found)
    assert set(found) == {document.text.strip() for document in documents}
    side = {row["document"]: row["split"] for row in rows}
    train = {d.text.strip() for d in documents if side.get(d.unit + "#1") == "train"}
    assert train == {row["text"] for row in rows if row["split"] == "train"}


def test_too_little_text_is_the_users_mistake(tmp_path: Path) -> None:
    for documents in ([], units(1), [Document("a", "a", "a", "short")], [*units(1), *units(1)]):
        with pytest.raises(UserError, match=r"corpus\.documents: found (no text|one source file)"):
            corpus(documents, tmp_path / "c.parquet")
    twins = [Document(f"u{i}", f"u{i}", "a", "the same " * 20) for i in range(2)]
    with pytest.raises(UserError, match="no document is left for the side 'held_out'"):
        corpus(twins, tmp_path / "c.parquet")
    many = [Document(f"u{i}", f"u{i}", f"label {i}", f"{i} " * 60) for i in range(1001)]
    with pytest.raises(UserError, match="found 1001 labels"):
        corpus(many, tmp_path / "c.parquet")
    assert os.listdir(tmp_path) == []


def test_half_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    documents = [*units(5), Document("s", "s", "l\ud800", "\ud83d\ude00 \udfff" + "x" * 60)]
    row = corpus(documents, tmp_path / "c.parquet")[-1]
    assert (row["source"], row["text"][:3]) == ("l\ufffd", "\U0001f600 \ufffd")


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [d for d in units(300) for d in (d, d, Document("s", f"{d.key}-short", "a", "tiny"))]
    documents = [Document(d.unit, f"{d.key}#{i}", d.source, d.text) for i, d in enumerate(documents)]
    whole = corpus(documents, tmp_path / "a.parquet")
    monkeypatch.setattr("steps.corpus.documents.BATCH", 1_000)
    counts = write_corpus(documents, Settings(), tmp_path / "b.parquet")
    rows = pq.read_table(tmp_path / "b.parquet").to_pylist()
    assert rows == whole
    assert [row["document"] for row in rows] == [f"u{i}#1#{3 * i}" for i in range(300)]
    assert counts.documents["held_out"]["a"] == sum(row["split"] == "held_out" for row in rows)
    assert pq.ParquetFile(tmp_path / "b.parquet").num_row_groups > 50


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """Forty source files, two of which share a docstring, and some topics."""
    rows = []
    for number in range(40):
        shared = f'    """{SHARED}"""\n' if number in (3, 20) else ""
        text = (
            f'"""The text of module number {number}, which is long enough to be kept here."""\n\n'
            f"# A comment in module number {number}, which is long enough to be kept as well.\n"
            f"def function_{number}(argument):\n{shared}    return {number} * argument + {number}**argument\n"
        )
        rows.append(freeze.Frozen("module", f"m{number}.py", text, ""))
    rows += [freeze.Frozen("topic", f"t{i}", f"topic {i} " + "words " * 20, "") for i in range(20)]
    path = tmp_path / "stdlib.parquet"
    freeze.write(rows, path)
    return path


@pytest.mark.parametrize("seed", range(8))
def test_a_docstring_of_two_files_never_leaks(tmp_path: Path, snapshot: Path, seed: int) -> None:
    settings = Settings(held_out=0.5, seed=seed)
    main(settings, [snapshot], tmp_path / "c.parquet", tmp_path / "m.json")
    rows = pq.read_table(tmp_path / "c.parquet").to_pylist()
    planted = [row for row in rows if row["text"] == SHARED]
    assert len(planted) == 1
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["document"].split("#")[0], set()).add(row["split"])
    in_train = "train" in sides["m3.py"] | sides["m20.py"]
    assert planted[0]["split"] == ("train" if in_train else "held_out")
    assert all(len(found) == 1 for found in sides.values())
    assert {"docstring", "comment", "code", "topic"} == {row["source"] for row in rows}


def test_the_manifest_says_what_is_there(tmp_path: Path, snapshot: Path) -> None:
    for name in ("a", "b"):
        main(Settings(), [snapshot], tmp_path / f"{name}.parquet", tmp_path / f"{name}.json")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    manifest = json.loads((tmp_path / "a.json").read_text("utf-8"))
    counts: dict[str, dict[str, dict[str, int]]] = {"train": {}, "held_out": {}}
    for row in pq.read_table(tmp_path / "a.parquet").to_pylist():
        found = counts[row["split"]].setdefault(row["source"], {"documents": 0, "characters": 0})
        found["documents"] += 1
        found["characters"] += len(row["text"])
    assert manifest["counts"] == counts
    assert manifest["left_out"] == {"short": 0, "repeated": 1}
    assert manifest["inputs"] == {str(snapshot): hashlib.sha256(snapshot.read_bytes()).hexdigest()}
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["settings"]["source"] == "embedded"
    assert set(manifest["versions"]) == {"datasets", "pyarrow", "python"}


def command(tmp_path: Path, settings: dict[str, object], *snapshot: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "steps.corpus.documents", "--settings", json.dumps(settings)),
        *("--snapshot", *map(str, snapshot)),
        *("--out", str(tmp_path / "out/c.parquet"), "--manifest", str(tmp_path / "out/m.json")),
    ]


@pytest.mark.parametrize("point", ["seed", "_check", "code_digest"])
def test_a_killed_run_leaves_no_output_and_the_next_is_as_if_undisturbed(
    tmp_path: Path, snapshot: Path, point: str
) -> None:
    kill = (
        "import os, signal; from steps.core.runner import run; from steps.corpus import documents as step;"
        f" step.{point} = lambda *_: os.kill(os.getpid(), signal.SIGKILL); run(step.main)"
    )
    whole = command(tmp_path, {}, snapshot)
    killed = subprocess.run([sys.executable, "-c", kill, *whole[3:]], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert not {"c.parquet", "m.json"} & set(os.listdir(tmp_path / "out"))
    subprocess.run(whole, cwd=ROOT, check=True, capture_output=True)
    assert sorted(os.listdir(tmp_path / "out")) == ["c.parquet", "m.json"]
    main(Settings(), [snapshot], tmp_path / "c.parquet", tmp_path / "m.json")
    assert (tmp_path / "out/c.parquet").read_bytes() == (tmp_path / "c.parquet").read_bytes()
    assert (tmp_path / "out/m.json").read_bytes() == (tmp_path / "m.json").read_bytes()


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "stdlib.parquet"
    broken.write_bytes(b"PAR1 but no table")
    done = subprocess.run(command(tmp_path, {}, broken), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{broken}: unreadable as a parquet table" in done.stderr
    assert os.listdir(tmp_path / "out") == []


def test_the_source_needs_its_settings_and_the_others_change_nothing() -> None:
    for source, key in (("files", "folder"), ("hub", "dataset")):
        with pytest.raises(UserError, match=rf"corpus\.documents\.{source}\.{key}: found null"):
            validate(Settings, {"source": source}, "test")
    with pytest.raises(UserError, match=r"corpus\.documents\.hub\.revision: found null"):
        validate(Settings, {"source": "hub", "hub": {"dataset": "a/b"}}, "test")
    changed = Settings(files={"folder": "texts"}, hub={"split": "test"})
    assert changed.model_dump_json() == Settings().model_dump_json()
    chosen = Settings(source="files", files={"folder": "texts"})
    assert validate(Settings, json.loads(chosen.model_dump_json()), "test").files.folder == "texts"


def test_the_default_configuration_names_every_setting() -> None:
    config = yaml.safe_load((ROOT / "config/default.yaml").read_text("utf-8"))
    written = config["corpus"]["documents"]
    assert validate(Settings, written, "config/default.yaml") == Settings()
    assert set(written) | {"seed"} == set(Settings.model_fields)  # the seed stands at the top
    for name in ("embedded", "files", "hub"):
        assert set(written[name]) == set(type(getattr(Settings(), name)).model_fields)
