"""A user's own folder: hostile names and contents, labels, and one clear line for each mistake."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.core.errors import UserError
from steps.corpus.documents import Settings, main
from steps.corpus.sources import files
from steps.corpus.sources.document import Document

ROOT = Path(__file__).resolve().parents[3]


def fill(folder: Path, contents: dict[str, str | bytes | pa.Table]) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read(folder: Path, **settings: str) -> list[Document]:
    chosen = files.Files(folder=str(folder), **settings)
    paths = files.list_files(folder)
    files.check(folder, paths)
    return list(files.documents(chosen, folder, paths))


HOSTILE = [
    "a[1].txt",
    "[!a].txt",
    "*.txt",
    "?.txt",
    "**.md",
    "x::y.txt",
    "x.zip::y.txt",
    "hf:name.md",
    "hf:__datasets__x.txt",
    "http:__a.txt",
    "file:a.txt",
    'it\'s "quoted".txt',
    " leading.txt",
    "trailing .txt",
    "new\nline.txt",
    "tab\t.txt",
    "{corpus}.txt",
    "{{}}.txt",
    "$(id).txt",
    "`id`.txt",
    "-x.txt",
    "~.txt",
    "__init__.md",
    "%41.txt",
    "a\\b.txt",
    "a#1.txt",
    "UPPER.TXT",
    "data_1.parquet.txt",
    "no-utf-8-\udcff.txt",
    "caf\u00e9 \U0001f600.md",
    "deep/[a]/{b}/c d.txt",
]


def test_hostile_names_are_read_as_they_are(tmp_path: Path) -> None:
    for name in HOSTILE:
        fill(tmp_path, {name: f"text of {name!r}"})
    found = {document.key: document.text for document in read(tmp_path)}
    shown = {os.fsencode(name).decode("utf-8", "backslashreplace") + "#1": name for name in HOSTILE}
    assert found == {key: f"text of {name!r}" for key, name in shown.items()}


def test_texts_are_read_to_the_letter(tmp_path: Path) -> None:
    text = "BZh91AY not bzip2\n\n\x0c\x1c\u2028 not line ends\r\nwindows\rold mac\ufeff\n\nno end"
    fill(tmp_path, {"a.txt": "\ufeff" + text, "b.md": "# other"})
    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    assert read(tmp_path) == [
        Document("a.txt", "a.txt#1", "a", expected),
        Document("b.md", "b.md#1", "b", "# other"),
    ]


def test_labels_are_sub_folders_or_names_or_a_column(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", "two"], "meta": [{"set": "x"}, {"set": None}]})
    rows = [{"text": "three", "meta": {"set": 7}}, {"text": None, "meta": {"set": " y "}, "more": []}]
    folder = fill(
        tmp_path,
        {
            "law/deep/a.txt": "a",
            "law/b.md": "b",
            "c.txt": "c",
            "t.parquet": table,
            "u.jsonl": "\n".join(map(json.dumps, rows)),
        },
    )
    assert [(d.unit, d.source) for d in read(folder)] == [
        ("c.txt", "c"),
        ("law/b.md", "law"),
        ("law/deep/a.txt", "law"),
        ("t.parquet", "t"),
        ("t.parquet", "t"),
        ("u.jsonl", "u"),
        ("u.jsonl", "u"),
    ]
    labelled = read(folder, label_column="meta.set")
    assert [d.source for d in labelled] == ["c", "law", "law", "x", "unlabelled", "7", "y"]
    assert [d.text for d in labelled[3:]] == ["one", "two", "three", ""]


def test_many_files_in_one_folder_share_a_label(tmp_path: Path) -> None:
    fill(tmp_path, {f"{number}.txt": "text" for number in range(files.MOST_STEMS + 1)})
    assert {document.source for document in read(tmp_path)} == {"text"}


def test_a_column_whose_name_has_dots_comes_first(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jsonl": '{"a.b": "dotted", "a": {"b": "nested"}}\n{"a": {"b": "nested"}}'})
    assert [document.text for document in read(tmp_path, text_column="a.b")] == ["dotted", "nested"]


def test_a_single_file_is_cut_so_that_it_can_be_split(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {number} " + "words " * 30 + "\n \n" for number in range(200)]
    (piece, *others) = read(fill(tmp_path / "text", {"a.txt": "".join(paragraphs)}))
    assert piece == Document("a.txt#1", "a.txt#1", "a", "".join(paragraphs[: len(piece.text) // 190]))
    assert len(others) > 10
    assert all(len(document.text) >= files.PIECE for document in [piece, *others[:-1]])
    rows = read(fill(tmp_path / "rows", {"a.jsonl": '{"text": "a"}\n\n{"text": "b"}\n'}))
    assert [(d.unit, d.text) for d in rows] == [("a.jsonl#1", "a"), ("a.jsonl#3", "b")]


@given(st.lists(st.sampled_from(["\n", "  \n", "short\n", "x" * 30 + "\n"]), max_size=60), st.integers(1, 40))
def test_pieces_are_the_text(lines: list[str], least: int) -> None:
    pieces = list(files._pieces(lines, least))
    assert "".join(pieces) == "".join(lines)
    assert all(least <= len(piece) < 4 * least + 31 for piece in pieces[:-1])


def test_every_kind_of_file_is_read_and_the_rest_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.dumps({"text": f"row {number} " + "words " * 12}) for number in range(400)]
    contents: dict[str, str | bytes | pa.Table] = {
        "a.jsonl": "\n".join(rows[:20]),
        "b.jsonl.gz": gzip.compress("\n".join(rows[20:200]).encode()),
        "c.json": "\n".join(rows[200:300]),
        "d.json": f"[{','.join(rows[300:350])}]",
        "e.csv": "text\n" + "\n".join(json.loads(row)["text"] for row in rows[350:]),
        "f.txt.xz": lzma.compress(b"plain words " * 20),
        "g.docx": b"PK",
        "sub/h.tar.gz": b"",
        "LICENSE": "may be copied",
        ".hidden": "",
    }
    fill(tmp_path / "t", contents)
    chosen = Settings(source="files", files={"folder": str(tmp_path / "t")})
    main(chosen, [], tmp_path / "c.parquet", tmp_path / "m.json")
    found = pq.read_table(tmp_path / "c.parquet").to_pylist()
    assert {row["text"] for row in found} == {json.loads(row)["text"].strip() for row in rows} | {
        ("plain words " * 20).strip()
    }
    assert {row["source"] for row in found} == set("abcdef")
    manifest = json.loads((tmp_path / "m.json").read_text("utf-8"))
    assert manifest["files_left_out"] == ["LICENSE", "g.docx", "sub/h.tar.gz"]
    assert manifest["inputs"]["b.jsonl.gz"] == hashlib.sha256(contents["b.jsonl.gz"]).hexdigest()
    assert "t: 3 files left out, of a kind that is not read" in caplog.text
    assert "(1 .docx, 1 .tar.gz, 1 without a suffix): LICENSE, g.docx, sub/h.tar.gz" in caplog.text


def test_a_text_of_one_line_is_cut_at_blanks(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(40_000))
    pieces = [document.text for document in read(fill(tmp_path / "a", {"text8.txt": text}))]
    assert "".join(pieces) == text
    assert all(files.PIECE <= len(piece) <= 4 * files.PIECE + 100 for piece in pieces[:-1])
    assert all(piece.endswith(" ") for piece in pieces[:-1])
    without = [document.text for document in read(fill(tmp_path / "b", {"dna.txt": "ACGT" * 9_000}))]
    assert "".join(without) == "ACGT" * 9_000
    assert len(without) == 5


def test_all_files_that_cannot_be_used_are_named_at_once(tmp_path: Path) -> None:
    contents: dict[str, str | bytes | pa.Table] = {
        "a.txt": "text",
        "b.txt": "",
        "d.md": b"\xff",
        "e.txt": b"a\0",
    }
    contents |= {"c/new\nline.txt": "", "f.txt.gz": gzip.compress(b""), "g.txt": " \n", "h.txt.gz": b"no"}
    with pytest.raises(UserError) as caught:
        read(fill(tmp_path, contents))
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}: 7 files cannot be used (is empty: b.txt, c/new\\nline.txt, f.txt.gz;"
    )
    assert "not UTF-8 at byte 0 (invalid start byte), expected UTF-8 text: d.md;" in message
    assert "binary (a NUL at byte 1), expected UTF-8 text: e.txt; holds no text: g.txt;" in message
    assert "cannot be read (Not a gzipped file (b'no')): h.txt.gz); fix or remove them" in message
    many = fill(tmp_path / "many", {f"{number:03}.txt": "" for number in range(500)})
    with pytest.raises(UserError, match=r"500 files cannot be used \(is empty: 000.txt.* and 480 more\)"):
        read(many)
    tables = fill(tmp_path / "tables", {f"{number}.jsonl": '{"text": null}' for number in range(3)})
    with pytest.raises(
        UserError, match=r"3 files cannot be used \(holds no text: 0.jsonl, 1.jsonl, 2.jsonl\)"
    ):
        read(tables)


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, {"a.txt": "a", ".b.txt": "b", ".git/c.txt": "c", "d.py": "d", "e.txt.bak": "e"})
    assert files.list_files(tmp_path) == [tmp_path / "a.txt"]


NUL = b"text\0text"
LATE = b"a" * ((1 << 20) - 1) + "\u00e9".encode() + b"\xff"
MISTAKES: dict[str, tuple[dict[str, str | bytes | pa.Table], dict[str, str], str]] = {
    "empty": ({"a.txt": ""}, {}, r"a\.txt: is empty"),
    "blank": ({"a.txt": " \n\n"}, {}, r"a\.txt: holds no text"),
    "binary": ({"a.md": NUL}, {}, r"a\.md: binary \(a NUL at byte 4\)"),
    "latin": ({"a.txt": b"caf\xe9 au lait"}, {}, r"a\.txt: not UTF-8 at byte 3 "),
    "cut": ({"a.txt": b"caf\xc3"}, {}, r"a\.txt: not UTF-8 at byte 3 "),
    "late": ({"a.txt": LATE}, {}, r"a\.txt: not UTF-8 at byte 1048577 "),
    "utf-16": ({"a.txt": "text".encode("utf-16")}, {}, r"a\.txt: "),
    "no column": (
        {"a.jsonl": '{"text": "a"}\n\n{"body": "b"}'},
        {},
        r"a\.jsonl, line 3: no column 'text', found 'body'",
    ),
    "no label": (
        {"a.jsonl": '{"text": "a"}'},
        {"label_column": "m.s"},
        r"line 1: no column 'm\.s', .* label_column",
    ),
    "no json": (
        {"a.jsonl": '{"text": "a"}\n{"text"'},
        {},
        r"a\.jsonl, line 2: not JSON \(.* at character 7\)",
    ),
    "no object": ({"a.jsonl": "[1]"}, {}, r"a\.jsonl, line 1: found list"),
    "no text": ({"a.jsonl": '{"text": 3}'}, {}, r"a\.jsonl, line 1: column 'text' holds 3 \(int\)"),
    "deep": ({"a.jsonl": "[" * 100_000}, {}, r"a\.jsonl, line 1: cannot be read"),
    "long": ({"a.jsonl": '{"text": ' + "1" * 5_000 + "}"}, {}, r"a\.jsonl, line 1: cannot be read"),
    "list": ({"a.jsonl": '{"text": "a", "l": []}'}, {"label_column": "l"}, r"line 1: column 'l' holds \[\]"),
    "no parquet": ({"a.parquet": b"PAR1 PAR1"}, {}, r"a\.parquet: not a parquet file"),
    "column": ({"a.parquet": pa.table({"body": ["a"]})}, {}, r"a\.parquet: no column 'text', found 'body'"),
    "numbers": (
        {"a.parquet": pa.table({"text": [1]})},
        {},
        r"a\.parquet, row 1: column 'text' holds 1 \(int\)",
    ),
    "no rows": (
        {"a.parquet": pa.table({"text": pa.array([], pa.string())})},
        {},
        r"a\.parquet: holds no text",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_name_the_file_and_the_remedy(tmp_path: Path, name: str) -> None:
    contents, settings, message = MISTAKES[name]
    with pytest.raises(UserError, match=message) as caught:
        read(fill(tmp_path, contents), **settings)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {number} " * 20 for number in range(5_000)]})
    pq.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[200:4_000] = b"\xff" * 3_800
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet"):
        read(tmp_path)


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    fill(tmp_path, {"empty/.txt": "", "file.txt": "a"})
    for name, message in (("none", "does not exist"), ("file.txt", "is not a folder"), ("empty", "holds no")):
        with pytest.raises(UserError, match=rf"^corpus\.documents\.files\.folder: .*{name} {message}"):
            files.list_files(tmp_path / name)
    (tmp_path / "link.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"link\.txt: a broken link"):
        files.list_files(tmp_path)
    (tmp_path / "link.txt").unlink()
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"pipe\.txt: .*not a regular file"):
        files.list_files(tmp_path)


def test_real_texts(tmp_path: Path, shared_text: Path) -> None:
    settings = Settings(source="files", files={"folder": str(shared_text)})
    for name in ("a", "b"):
        main(settings, [], tmp_path / f"{name}.parquet", tmp_path / f"{name}.json")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert {row["source"] for row in rows} == {"shakespeare", "wikitext2_test", "wikitext2_valid"}
    held = {
        split: {row["source"] for row in rows if row["split"] == split} for split in ("train", "held_out")
    }
    assert not held["train"] & held["held_out"]
    plays = "".join((shared_text / "shakespeare.txt").read_text("utf-8").split())
    assert "".join("".join(row["text"].split()) for row in rows if row["source"] == "shakespeare") == plays
    assert set(json.loads((tmp_path / "a.json").read_text("utf-8"))["inputs"]) == {
        path.name for path in shared_text.iterdir()
    }


def test_one_real_text(tmp_path: Path, shared_text: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/wikitext.txt").symlink_to(shared_text / "wikitext2_valid.txt")
    settings = Settings(source="files", files={"folder": str(tmp_path / "one")})
    main(settings, [], tmp_path / "c.parquet", tmp_path / "m.json")
    rows = pq.read_table(tmp_path / "c.parquet").to_pylist()
    share = sum(len(row["text"]) for row in rows if row["split"] == "held_out") / sum(
        len(r["text"]) for r in rows
    )
    assert len(rows) > 200
    assert 0.03 < share < 0.25


def test_the_command_writes_nothing_but_its_outputs_and_asks_nobody(tmp_path: Path) -> None:
    table = pa.table({"text": ["d" * 100]})
    contents = {"a.txt": "a" * 100, "b.txt": "b" * 100, "c.jsonl": '{"text": "c"}', "d.parquet": table}
    fill(tmp_path / "texts", contents)
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    settings = {"source": "files", "files": {"folder": str(tmp_path / "texts")}}
    alone = (
        "import os, socket; from steps.core.runner import run; from steps.corpus.documents import main;"
        " socket.getaddrinfo = socket.socket.connect = lambda *_, **__: os._exit(7); run(main)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [
            *(sys.executable, "-c", alone, "--settings", json.dumps(settings), "--snapshot"),
            *("--out", str(tmp_path / "out/c.parquet"), "--manifest", str(tmp_path / "out/m.json")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**environment, "HOME": str(home), "TMPDIR": str(temporary)},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["c.parquet", "m.json"]
    assert os.listdir(home) == os.listdir(temporary) == []


def test_links_to_folders_are_followed_and_loops_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"texts/a.txt": "text a", "elsewhere/deep/b.txt": "text b"})
    (tmp_path / "texts/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts/twice").symlink_to(tmp_path / "elsewhere")
    names = [path.relative_to(tmp_path / "texts").as_posix() for path in files.list_files(tmp_path / "texts")]
    assert names == ["a.txt", "link/deep/b.txt", "twice/deep/b.txt"]
    loop = tmp_path / "elsewhere/deep/back"
    for target in ("elsewhere", "texts", "elsewhere/deep"):
        loop.symlink_to(tmp_path / target)
        with pytest.raises(UserError, match="back: a link to a folder that it lies in; remove it"):
            files.list_files(tmp_path / "texts")
        loop.unlink()


@pytest.mark.parametrize(
    "metadata",
    [b"garbage", b"[]", b'{"info": 3}', b'{"info": {"features": {"text": {"_type": "Nonsense"}}}}'],
)
def test_odd_metadata_of_a_table_are_one_line(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"text": ["some text"]}).replace_schema_metadata({b"huggingface": metadata})
    fill(tmp_path, {"a.parquet": table})
    try:
        assert [document.text for document in read(tmp_path)] == ["some text"]
    except UserError as error:
        assert str(error).startswith(f"{tmp_path}/a.parquet: damaged parquet file (")  # noqa: PT017


def test_a_column_that_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    odd = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    fill(tmp_path, {"a.parquet": pa.table({"text": odd})})
    with pytest.raises(UserError, match=r"a\.parquet: damaged parquet file \("):
        read(tmp_path)
