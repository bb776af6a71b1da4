"""A hub dataset: read from a local folder laid out like one, and one clear line where it cannot be."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from steps.core.errors import UserError
from steps.corpus.documents import Settings, main
from steps.corpus.sources import hub

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
