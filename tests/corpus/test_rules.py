"""The rules, run by snakemake in a folder of their own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from steps.corpus import freeze
from steps.workflow import user_files
from steps.workflow.user_files import MOST_FILES
from tests.warm.start import environment

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    "a b.txt",
    "{corpus}.txt",
    "$(touch broken).txt",
    "it's.txt",
    "<b>bold.txt",
    "<results>.txt",
    "new\nline.txt",
    "\udcff.txt",
    "[a].txt",
]


def snakemake(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
            *("--directory", str(folder), "--cores", "1", *options),
        ],
        capture_output=True,
        text=True,
        env=environment() | {"HOME": str(folder)},
    )


def own(folder: str) -> str:
    documents = {"source": "files", "files": {"folder": folder}}
    return f"corpus={json.dumps({'study': 'own', 'documents': documents})}"


def test_a_folder_of_files_from_end_to_end(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in HOSTILE:
        (texts / name).write_text(f"the text of {name!r} " + "words " * 20, "utf-8")
    options = ("corpus", "--config", own("texts"))
    done = snakemake(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    table = tmp_path / "data/corpora/own/documents.parquet"
    assert len(pq.read_table(table)) == len(HOSTILE)
    assert not (tmp_path / "broken").exists()
    assert (tmp_path / "logs/corpus/documents/own.log").exists()
    assert not (tmp_path / "data/raw").exists()
    assert "Nothing to be done" in snakemake(tmp_path, *options).stderr

    (texts / "[a].txt").unlink()
    (texts / "{corpus}.txt").write_text(
        "another text " + "words " * 20, "utf-8"
    )  # not an input, see steps/workflow
    done = snakemake(tmp_path, *options, "--dry-run")
    assert "Set of input files has changed" in done.stdout + done.stderr
    assert "Params have changed" in done.stdout + done.stderr


def test_a_snapshot_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    snapshot = tmp_path / "data/raw/embedded/stdlib.parquet"
    snapshot.parent.mkdir(parents=True)
    freeze.write(
        [freeze.Frozen("topic", f"t{i}", f"topic {i} " + "words " * 20, "") for i in range(9)], snapshot
    )
    (snapshot.parent / "manifest.json").write_text("{}", "utf-8")
    before = snapshot.read_bytes()
    done = snakemake(tmp_path, "corpus")
    assert done.returncode == 0, done.stderr
    assert snapshot.read_bytes() == before
    assert len(pq.read_table(tmp_path / "data/corpora/embedded/documents.parquet")) == 9


def test_mistakes_are_found_before_anything_runs(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "corpus", "--config", own("no such folder"))
    assert done.returncode == 1
    assert "corpus.documents.files.folder: no such folder does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    done = snakemake(tmp_path, "corpus", "--config", 'corpus={"documents": {"held_ouut": 0.2}}')
    assert done.returncode == 1
    assert "corpus.documents.held_ouut: unknown key (found '0.2'), did you mean 'held_out'?" in done.stderr


def test_very_many_files_are_declared_by_one_digest(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(MOST_FILES + 1):
        (texts / f"{number:05}.txt").write_text(f"text number {number:05} " + "words " * 12, "utf-8")
    options = ("corpus", "--config", own("texts"))
    done = snakemake(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert len(pq.read_table(tmp_path / "data/corpora/own/documents.parquet")) == MOST_FILES + 1
    assert "Nothing to be done" in snakemake(tmp_path, *options).stderr
    one = texts / "05000.txt"
    one.write_text(one.read_text("utf-8").replace("words", "terms"), "utf-8")  # of the same size
    done = snakemake(tmp_path, *options, "--dry-run")
    assert "Params have changed" in done.stdout + done.stderr


def test_a_digest_of_many_files_sees_paths_sizes_and_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_files, "MOST_FILES", 2)
    paths = [tmp_path / name for name in ("a.txt", "{b}.txt", "\udcff.txt")]
    for path in paths:
        path.write_text("text", "utf-8")
        os.utime(path, ns=(10**18, 10**18))
    inputs, (before,) = user_files.declared(paths)
    assert inputs == []
    assert user_files.declared(paths) == ([], [before])
    os.utime(paths[1], ns=(10**18, 10**18 + 1))
    seen = {before, *user_files.declared(paths)[1]}
    paths[2].write_text("longer", "utf-8")
    os.utime(paths[2], ns=(10**18, 10**18))
    seen.update(user_files.declared(paths)[1])
    paths[0] = paths[0].rename(tmp_path / "c.txt")
    seen.update(user_files.declared(paths)[1])
    assert len(seen) == 4
    assert user_files.declared(paths[:2])[0] == [str(paths[0])]
    (braces,) = user_files.declared(paths[:2])[1]
    assert braces == f"{paths[1]} {hashlib.sha256(b'text').hexdigest()}"
