"""The frozen text: what belongs to it, in which order, and that it stays the same."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from steps.corpus import freeze


def library(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_only_sources_of_the_library_are_taken(tmp_path: Path) -> None:
    folder = library(
        tmp_path,
        {
            "json/__init__.py": b"a = 1\n",
            "json/decoder.py": b"b = 1\n",
            "abc.py": b"c = 1\n",
            "abc.pyc": b"c",
            "json/tests/test_json.py": b"d = 1\n",
            "json/test/__init__.py": b"e = 1\n",
            "idlelib/idle_test/test_a.py": b"f = 1\n",
            "site-packages/json.py": b"g = 1\n",
            "dist-packages/json/more.py": b"h = 1\n",
            "sitecustomize.py": b"i = 1\n",
            "_sysconfigdata__linux_.py": b"j = 1\n",
            "pydoc_data/topics.py": b"topics = {}\n",
        },
    )
    assert [row.key for row in freeze.modules(folder)] == ["abc.py", "json/__init__.py", "json/decoder.py"]


def test_sources_are_read_as_python_reads_them(tmp_path: Path) -> None:
    latin = "# -*- coding: latin-1 -*-\r\nname = 'caf\xe9'\r\n".encode("latin-1")
    (row,) = freeze.modules(library(tmp_path, {"abc.py": latin}))
    assert row.text == "# -*- coding: latin-1 -*-\nname = 'caf\xe9'\n"
    assert row.sha256 == hashlib.sha256(latin).hexdigest()


@pytest.mark.parametrize("data", [b"name = '\xff'\n", b"# coding: no-such-coding\n"])
def test_a_file_that_cannot_be_decoded_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    folder = library(tmp_path, {"abc.py": data, "bisect.py": b"a = 1\n"})
    with caplog.at_level(logging.WARNING, "reprise"):
        assert [row.key for row in freeze.modules(folder)] == ["bisect.py"]
    assert "abc.py: left out" in caplog.text


def test_names_leave_out_what_is_made_from_a_number() -> None:
    texts = {row.key: row.text for row in freeze.names()}
    assert "LATIN SMALL LETTER A" in texts["U+0000"].split("\n")
    assert not any("CJK UNIFIED IDEOGRAPH-" in text or "HANGUL SYLLABLE" in text for text in texts.values())


def test_two_runs_of_this_python_are_identical_and_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        freeze.main(tmp_path / f"{name}.parquet", tmp_path / f"{name}.json")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    manifest = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert manifest["sha256"] == {f"{row['kind']}:{row['key']}": row["sha256"] for row in table}
    assert sum(manifest["counts"].values()) == len(table) == len(manifest["sha256"])
    keys = [row["key"] for row in table if row["kind"] == "module"]
    assert "argparse.py" in keys
    assert not [key for key in keys if {"test", "tests", "site-packages"} & set(key.split("/"))]
