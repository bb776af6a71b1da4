"""The table of programs, from each of its sources."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.settings import validate
from steps.core.stores import read_table
from steps.dafny.programs import Settings, main
from tests.dafny.conftest import EMBEDDED

TEXT = "method M(n: nat) {\n  var i := 0;\n  while i < n\n    invariant i <= n\n  { i := i + 1; }\n}\n"


def made(tmp_path: Path, files: list[Path], **settings: object) -> list[dict[str, object]]:
    out = Output(tmp_path / "out" / "programs.parquet")
    out.parent.mkdir(exist_ok=True)
    main(files, Settings.model_validate(settings), out)
    return read_table(out).to_pylist()


def test_embedded_programs(tmp_path: Path) -> None:
    rows = made(tmp_path, sorted((EMBEDDED / "programs").glob("*.dfy")))
    assert len(rows) >= 40
    assert [row["program"] for row in rows] == sorted(row["program"] for row in rows)
    assert {row["stripped"] for row in rows} == {"syntax"}
    assert all(row["given"] != row["ground_truth"] or "lemma" in row["given"] for row in rows)


def test_a_folder_with_awkward_names(tmp_path: Path) -> None:
    top = tmp_path / "mine 'x' & {y}"
    names = {"a b.dfy", "@x.dfy", "程.dfy", "in/ner.dfy", "q'\".dfy", "new\nline.dfy"}
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(TEXT, "utf-8")
    rows = made(tmp_path, [], folder=str(top))
    assert {row["program"] for row in rows} == names
    assert {row["given"] for row in rows} == {TEXT.replace("    invariant i <= n\n", "")}


def test_what_is_left_out_of_a_folder_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    top = tmp_path / "mine"
    for name in ("a.dfy", "in/b.DFY", "c.txt", "d.txt", "Makefile", ".git/e.dfy", ".f.dfy"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(TEXT)
    with caplog.at_level(logging.WARNING, "reprise"):
        assert [row["program"] for row in made(tmp_path, [], folder="~/mine")] == ["a.dfy"]
    [said] = caplog.messages
    assert said.endswith(
        "mine: 4 left out, only .dfy files are programs (1 .DFY, 2 .txt, 1 without a suffix)"
    )


def test_a_text_that_cannot_be_followed_loses_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.dfy").write_text("method M... {\n  assert true;\n}\n")
    with caplog.at_level(logging.WARNING, "reprise"):
        [row] = made(tmp_path, [tmp_path / "a.dfy"])
    assert (row["stripped"], row["given"]) == ("lines", "method M... {\n}\n")
    assert "a.dfy: cannot be followed" in caplog.text


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"// \xff\n", "a.dfy: found no UTF-8"), (b"/" * 5_000_001, "a.dfy: found 5000001 bytes")],
)
def test_what_is_no_program_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "a.dfy").write_bytes(data)
    with pytest.raises(UserError, match=says):
        made(tmp_path, [tmp_path / "a.dfy"])


def test_the_benchmark_and_its_sample(tmp_path: Path, benchmark: Path) -> None:
    """The sample by its definition: the smallest SHA-256 of the name."""
    path = benchmark / "test.json"
    rows = made(tmp_path, [path], test_json=str(path), sample=24, strip="published")
    names = [row["test_file"] for row in json.loads(path.read_text("utf-8"))]
    wanted = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:24]
    assert [row["program"] for row in rows] == sorted(wanted)
    assert {row["source_sha256"] for row in rows} == {hashlib.sha256(path.read_bytes()).hexdigest()}
    assert all(row["as_lines"] for row in rows)  # the two that were edited by hand are not among them
    assert {row["stripped"] for row in rows} == {"published"}


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"test_file": "a"}]', "[" * 100_000])
def test_what_is_no_benchmark_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "test.json"
    path.write_text(text)
    if text == "{}":
        with pytest.raises(UserError, match="found no program"):
            made(tmp_path, [path], test_json=str(path))
    else:
        with pytest.raises(UserError, match="test.json: found no list of objects"):
            made(tmp_path, [path], test_json=str(path))


def test_settings_that_cannot_work_together_are_refused() -> None:
    with pytest.raises(UserError, match="a folder or a test_json, not both"):
        validate(Settings, {"folder": "a", "test_json": "b"}, "here")
    with pytest.raises(UserError, match="strip: published only with a test_json"):
        validate(Settings, {"strip": "published"}, "here")
