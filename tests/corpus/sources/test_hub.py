"""A hub dataset: read from a local folder laid out like one, and one clear line where it cannot be."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from steps.core.errors import UserError
from steps.corpus.documents import Settings, main
from steps.corpus.sources import files, hub
from steps.corpus.sources.records import DataFile
from steps.corpus.sources.streaming import streaming

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset with the splits train and test, and two configurations."""
    folder = tmp_path / "dataset"
    for name in ("plain", "other"):
        (folder / name).mkdir(parents=True)
        for split in ("train", "test"):
            rows = [
                {
                    "text": f"{name} {split} row {i} " + "words " * 10,
                    "meta": {"pile_set_name": "AB"[i % 2]},
                    "n": i,
                }
                for i in range(60)
            ]
            (folder / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {name}/{split}.jsonl\n" for split in ("train", "test"))
        for name in ("plain", "other")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", "utf-8")
    return folder


def settings(dataset: Path | str, **others: object) -> hub.Hub:
    return hub.Hub(**{"dataset": str(dataset), "revision": "main", "config": "plain", **others})


def test_rows_of_the_split_with_their_labels(dataset: Path) -> None:
    found = list(hub.documents(settings(dataset, split="test", label_column="meta.pile_set_name")))
    assert [d.source for d in found] == ["A", "B"] * 30
    assert [d.text.split("words")[0] for d in found] == [f"plain test row {i} " for i in range(60)]
    assert len({d.key for d in found}) == len({d.unit for d in found}) == 60
    first = list(hub.documents(settings(dataset, config="other", maximum_documents=7)))
    assert [d.text.split("words")[0] for d in first] == [f"other train row {i} " for i in range(7)]
    assert {d.source for d in first} == {"train"}


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"split": "tset"}, r"could not be read \(.*tset.*\['train', 'test'\]"),
        ({"config": "plian"}, r"could not be read \(.*plian.*'plain'"),
        ({"text_column": "body"}, r"no column 'body', found 'meta', 'n', 'text'; set text_column"),
        ({"text_column": "n"}, r"plain/train\.jsonl, line 1: column 'n' holds 0 \(int\), expected text"),
        ({"label_column": "meta.set"}, r"plain/train\.jsonl, line 1: no column 'meta\.set'"),
        ({"dataset": "/no/such/folder"}, r"could not be re"),
    ],
)
def test_mistakes_name_the_dataset_and_the_remedy(
    dataset: Path, others: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        list(hub.documents(settings(**{"dataset": dataset, **others})))


def test_two_runs_are_identical(tmp_path: Path, dataset: Path) -> None:
    chosen = Settings(source="hub", hub=settings(dataset, split="test", maximum_documents=50).model_dump())
    for name in ("a", "b"):
        main(chosen, [], tmp_path / f"{name}.parquet", tmp_path / f"{name}.json")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert {row["split"] for row in pq.read_table(tmp_path / "a.parquet").to_pylist()} == {
        "train",
        "held_out",
    }
    inputs = json.loads((tmp_path / "a.json").read_text("utf-8"))["inputs"]
    name = "plain/test.jsonl"
    assert inputs[name] == hashlib.sha256((dataset / name).read_bytes()).hexdigest()


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path) -> None:
    chosen = {"source": "hub", "hub": {"dataset": "nobody/nothing", "revision": "0" * 40}}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "steps.corpus.documents", "--settings", json.dumps(chosen), "--snapshot"),
            *("--out", str(tmp_path / "out/c.parquet"), "--manifest", str(tmp_path / "out/m.json")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'nobody/nothing'" in done.stderr
    assert "could not be reached" in done.stderr
    assert "HF_HUB_OFFLINE" in done.stderr
    assert os.listdir(tmp_path / "out") == []
    assert not (tmp_path / "home").exists()


def test_the_manifest_names_the_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked = []

    class Api:
        def dataset_info(self, name: str, revision: str) -> object:
            asked.append((name, revision))
            return type("Info", (), {"sha": "c" * 40})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert hub.commit(hub.Hub(dataset="a/b", revision="main")) == "c" * 40
    assert asked == [("a/b", "main")]
    assert hub.commit(hub.Hub(dataset="a/b", revision="d" * 40)) == "d" * 40
    assert hub.commit(hub.Hub(dataset=str(tmp_path), revision="main")) is None
    assert len(asked) == 1


def test_a_dataset_is_read_as_the_same_file_in_a_folder(tmp_path: Path) -> None:
    labels = ["2024-01-01", "2024-01-01T00:00:00Z", "2024-01-01T02:00:00+02:00", 2**64 + 1, 2**64 + 2]
    rows = [{"text": f"row {i} " + "words " * 20, "label": labels[i % 5]} for i in range(50)]
    contents = {"jsonl": "\n".join(map(json.dumps, rows)), "json": json.dumps(rows)}
    contents["csv"] = "text,label\n" + "\n".join(f"{row['text']},{row['label']}" for row in rows)
    for suffix, content in contents.items():
        folder = tmp_path / suffix
        folder.mkdir()
        (folder / f"train.{suffix}").write_text(content, "utf-8")
        chosen = {"dataset": str(folder), "config": None, "label_column": "label"}
        found = [(d.source, d.text) for d in hub.documents(settings(**chosen))]
        columns = files.Files(folder=str(folder), label_column="label")
        alike = files.documents(columns, folder, files.list_files(folder))
        assert (
            found == [(d.source, d.text) for d in alike] == [(str(row["label"]), row["text"]) for row in rows]
        )


def test_text_labels_may_follow_many_numbers(tmp_path: Path) -> None:
    rows = [{"text": "x" * 10_000, "label": 1}] * 1_200 + [{"text": "y", "label": "one"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    found = hub.documents(settings(tmp_path, config=None, label_column="label", maximum_documents=None))
    assert [d.source for d in found] == ["1"] * 1_200 + ["one"]


CARD = """---
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': neg
          '1': pos
configs:
- config_name: default
  data_files: [{{split: train, path: {path}}}]
  {option}
---
"""


@pytest.mark.parametrize(
    ("path", "option", "content"),
    [
        ("a.jsonl", "", '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n'),
        (
            "a.json",
            "field: rows",
            '{"x": [{}], "rows": [{"text": "a", "label": 1}, {"text": "b", "label": 0}]}',
        ),
    ],
)
def test_what_the_card_says_of_labels_and_layout_counts(
    tmp_path: Path, path: str, option: str, content: str
) -> None:
    (tmp_path / "README.md").write_text(CARD.format(path=path, option=option), "utf-8")
    (tmp_path / path).write_text(content, "utf-8")
    found = hub.documents(settings(tmp_path, config="default", label_column="label"))
    assert [(d.source, d.text) for d in found] == [("pos", "a"), ("neg", "b")]


@pytest.mark.parametrize(
    ("option", "delimiter"), [('sep: "|"', "|"), ('delimiter: "\\t"', "\t"), ('sep: "::"', "::")]
)
@pytest.mark.filterwarnings("ignore:Falling back to the 'python' engine")  # of pandas, for the last one,
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # whose file datasets leaves open
def test_the_delimiter_of_the_card_counts(tmp_path: Path, option: str, delimiter: str) -> None:
    card = f"---\nconfigs:\n- config_name: default\n  data_files: a.csv\n  {option}\n---\n"
    (tmp_path / "README.md").write_text(card, "utf-8")
    (tmp_path / "a.csv").write_text(f"text{delimiter}n\na,b{delimiter}1\n", "utf-8")
    assert [d.text for d in hub.documents(settings(tmp_path, config="default"))] == ["a,b"]
    gc.collect()


def test_other_kinds_and_options_are_read_by_datasets(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "arrow").mkdir()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features)
    with datasets.arrow_writer.ArrowWriter(
        path=str(tmp_path / "arrow/train.arrow"), features=features
    ) as writer:
        for row in data:
            writer.write(row)
        writer.finalize()
    found = hub.documents(settings(tmp_path / "arrow", config=None, label_column="label"))
    assert [(d.source, d.text) for d in found] == [("pos", "a"), ("neg", "b")]
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("one\ntwo\n\nthree\n", "utf-8")
    lines = hub.documents(settings(tmp_path / "text", config=None))
    assert [d.text for d in lines] == ["one", "two", "", "three"]
    card = "---\nconfigs:\n- config_name: default\n  data_files: a.txt\n  sample_by: paragraph\n---\n"
    (tmp_path / "text/README.md").write_text(card, "utf-8")
    paragraphs = hub.documents(settings(tmp_path / "text", config="default"))
    assert [d.text for d in paragraphs] == ["one\ntwo", "three\n"]


def test_splits_may_be_joined(dataset: Path) -> None:
    both = [d.text for d in hub.documents(settings(dataset, split="train+test"))]
    train, test = (
        [d.text for d in hub.documents(settings(dataset, split=name))] for name in ("train", "test")
    )
    assert both == train + test == [d.text for d in hub.documents(settings(dataset, split="all"))]


def test_files_elsewhere_are_read_as_files_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from datasets.utils import file_utils

    (tmp_path / "train.jsonl").write_text('{"text": "here"}', "utf-8")
    with file_utils.fsspec.open("memory://far/train.jsonl.gz", "wb") as file:
        file.write(gzip.compress(b'{"text": "far away"}\n'))
    with streaming() as load:
        builder = load(str(tmp_path))
    builder.config.data_files = {"train": ["memory://far/train.jsonl.gz"]}

    def rows() -> list[tuple[str, str]]:
        return list(hub._rows(settings("a/b", config=None), lambda *_, **__: builder))

    assert rows() == [("train", "far away")]

    class TimeoutException(Exception):  # noqa: N818 (of httpx)
        pass

    for error in (TimeoutException, ConnectionError):

        class Broken(io.BytesIO):
            def read(self, size: int | None = -1, error: type[Exception] = error) -> bytes:
                raise error("read timed out")

            read1 = read

        monkeypatch.setattr(hub, "_file", lambda *_, open_=Broken: DataFile("hf://x/a.jsonl", open_))
        with pytest.raises(UserError, match=r"'a/b' .* could not be reached \(read timed out\)"):
            rows()


def test_files_in_no_split_are_named(dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (dataset / "plain/extra.jsonl").write_text('{"text": "never read"}', "utf-8")
    chosen = Settings(source="hub", hub=settings(dataset).model_dump())
    main(chosen, [], tmp_path / "c.parquet", tmp_path / "m.json")
    manifest = json.loads((tmp_path / "m.json").read_text("utf-8"))
    assert manifest["files_left_out"] == ["plain/extra.jsonl"]
    assert "1 file left out, in no split of the dataset (1 .jsonl): plain/extra.jsonl" in caplog.text
