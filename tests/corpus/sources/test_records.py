"""The reader of data files: every format and compression, values as they are written, little memory."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.core.errors import UserError
from steps.corpus.sources import records
from steps.corpus.sources.document import Columns


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def data_file(data: bytes, name: str) -> records.DataFile:
    return records.DataFile(name, lambda: io.BytesIO(data))


def read(data: bytes | str, name: str, features: Any = None, **columns: str) -> list[tuple[int, str, str]]:
    data = data if isinstance(data, bytes) else data.encode()
    return list(records.records(data_file(data, name), Columns(**columns), "-", features))


@pytest.mark.parametrize("compression", COMPRESS)
def test_compressed_files_hold_what_they_hold_plain(compression: str) -> None:
    compress = COMPRESS[compression]
    parts = [b'{"text": "one"}\n{"text"', b': "tw\xc3\xb6"}\n']
    assert read(compress(b"".join(parts)), f"a.jsonl{compression}") == [(1, "-", "one"), (2, "-", "twö")]
    joined = b"".join(map(compress, parts))  # `cat a.gz b.gz` is a file of its kind
    assert read(joined, f"a.JSONL{compression.upper()}") == [(1, "-", "one"), (2, "-", "twö")]
    with records.opened(data_file(compress(b"a text\n" * 10_000), f"a.txt{compression}")) as stream:
        assert "".join(records.lines(stream, 1_000)) == "a text\n" * 10_000


@pytest.mark.parametrize("compression", [name for name in COMPRESS if name])
@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_damaged_compressed_files_are_one_line(compression: str, damage: str) -> None:
    text = "".join(f'{{"text": "{random.Random(i).random()}"}}\n' for i in range(20_000))
    data = bytearray(COMPRESS[compression](text.encode()))
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "changed":
        data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    else:
        data = bytearray(b'{"text": "not compressed"}')
    with pytest.raises(
        UserError, match=rf"^a\.jsonl\{compression}, line|^a\.jsonl\{compression}: "
    ) as caught:
        read(bytes(data), f"a.jsonl{compression}")
    assert "\n" not in str(caught.value)


ROWS = [{"text": f"text {i} \u00e9\n\"'", "n": i, "m": {"s": "ab"[i % 2]}, "l": [{}]} for i in range(500)]
FORMATS = {
    "a.jsonl": "\n".join(map(json.dumps, ROWS)),
    "lines.json": "\n\n".join(map(json.dumps, ROWS)),
    "pretty.json": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "array.json": json.dumps(ROWS),
    "pretty_array.json": " \n " + json.dumps(ROWS, indent=3, ensure_ascii=False) + "\n\n",
    "object.json": json.dumps({"version": 2, "tags": ["a"], "none": [], "data": ROWS}),
    "bom.json": "\ufeff" + json.dumps(ROWS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_layout_of_json(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [(row["m"]["s"], row["text"]) for row in ROWS]
    for at_once in (1 << 16, 7):
        monkeypatch.setattr(records, "_READ", at_once)
        assert [found[1:] for found in read(FORMATS[name], name, label_column="m.s")] == expected


def test_one_object_is_a_record_where_it_has_the_column() -> None:
    assert read('{"text": "a", "data": [{"text": "b"}]}', "a.json") == [(1, "-", "a")]
    assert read("[]", "a.json") == read(" \n", "a.json") == []
    assert read('[{"text": null}]', "a.json") == [(1, "-", "")]


@given(
    values=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    ),
    texts=st.lists(st.text(), min_size=1, max_size=6),
    at_once=st.integers(1, 30),
    is_array=st.booleans(),
    ascii_only=st.booleans(),
)
def test_json_is_read_to_the_letter_wherever_reading_pauses(
    values: Any, texts: list[str], at_once: int, is_array: bool, ascii_only: bool
) -> None:
    rows = [{"before": values, "text": text, "after": values} for text in texts]
    written = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    data = f"[{','.join(written)}]" if is_array else " ".join(written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_READ", at_once)
        found = read(data.encode("utf-8", "surrogatepass"), "a.json")
    assert [text for _, _, text in found] == texts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"text": "a"},\n{"text": "b"', r"^a\.json, line 2: not JSON"),
        ('[{"text": "a"},\n]', r"^a\.json, line 2: not JSON \(Expecting value"),
        ('[{"text": "a"}\n{"text": "b"}]', r"^a\.json, line 2: not JSON \(found '{', expected , or \]"),
        ('[{"text": "a"}]\n[]', r"^a\.json, line 2: not JSON \(more follows the array"),
        ('[{"text": "a"}, 3]', r"^a\.json, line 1: found int, expected a JSON object"),
        ('{"text": "a"}\nplain words', r"^a\.json, line 2: not JSON \(Expecting value"),
        ('{"text": "never closed', r"^a\.json, line 1: not JSON \(Unterminated string"),
        ("[" * 100_000, r"^a\.json, line 1: "),
        ('{"body": "a"}', r"^a\.json, line 1: no column 'text', found 'body'"),
        (
            '{"train": [{"text": "a"}], "test": [{"text": "b"}]}',
            r"^a\.json: found several lists of objects \('train', 'test'\), expected one",
        ),
        ('"only a string"', r"^a\.json, line 1: found str, expected a JSON object"),
    ],
)
def test_mistakes_in_json_name_the_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(text, "a.json")


def test_values_stay_as_they_are_written() -> None:
    written = [
        '"2024-01-01"',
        '"2024-01-01T00:00:00Z"',
        '"2024-01-01T00:00:00+02:00"',
        "18446744073709551617",
        "18446744073709551618",
        '"007"',
        "7",
        "1.0",
        "true",
        '"NA"',
    ]
    lines = [f'{{"text": "t", "l": {value}}}' for value in written]
    expected = [*(json.loads(value) for value in written[:3]), *written[3:5], "007", "7", "1.0", "True", "NA"]
    assert [label for _, label, _ in read("\n".join(lines), "a.jsonl", label_column="l")] == expected
    assert [label for _, label, _ in read(f"[{','.join(lines)}]", "a.json", label_column="l")] == expected
    table = "text,l\n" + "\n".join(f"t,{value}" for value in expected)
    assert [label for _, label, _ in read(table, "a.csv", label_column="l")] == expected


@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), min_size=2, max_size=2),
        max_size=20,
    ),
    st.sampled_from([".csv", ".tsv"]),
)
def test_tables_of_text_are_read_to_the_letter(rows: list[list[str]], suffix: str) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=records.DELIMITERS[suffix])
    writer.writerows([["l", "text"], *rows])
    found = read("\ufeff" + sink.getvalue(), f"a{suffix}", label_column="l")
    assert [text for _, _, text in found] == [text for _, text in rows]
    assert [label for _, label, _ in found] == [label.strip() or "unlabelled" for label, _ in rows]


def test_a_long_field_of_a_table_is_one_text() -> None:
    long = "word, " * 100_000
    before = csv.field_size_limit()
    assert read(f'text\n"{long}"\n', "a.csv") == [(1, "-", long)]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("body\na\n", r"^a\.csv: no column 'text', found 'body'"),
        ("text;l\na;b\n", r"^a\.csv: no column 'text', found 'text;l'"),
        ("text,l\na,b\n\nc,d,e\n", r"^a\.csv, line 4: found 3 fields, expected 2"),
        ('text,l\n"a\nb",c\nd\n', r"^a\.csv, line 4: found 1 fields, expected 2"),
        ('text\n"never closed\n', r"^a\.csv, line \d: not a table \(unexpected end of data\)"),
        ("text,text\na,b\n", r"^a\.csv, line 1: found the column 'text' twice"),
    ],
)
def test_mistakes_in_tables_of_text_name_the_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(text, "a.csv")


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def test_only_the_columns_that_are_needed_are_read() -> None:
    noise = [os.urandom(2_000) for _ in range(2_000)]
    meta = [{"set": "ab"[i % 2], "raw": noise[i]} for i in range(2_000)]
    data = parquet(pa.table({"text": [f"t{i}" for i in range(2_000)], "picture": noise, "meta": meta}))
    file = Counted(data)
    found = list(
        records.records(
            records.DataFile("a.parquet", lambda: file), Columns(label_column="meta.set"), "-", None
        )
    )
    assert found == [(i + 1, "ab"[i % 2], f"t{i}") for i in range(2_000)]
    assert len(data) > 8_000_000
    assert file.count < 200_000


def test_labels_by_number_get_the_names_that_the_file_gives_them() -> None:
    features = {"text": {"_type": "Value"}, "l": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    table = pa.table({"text": ["a", "b", "c", "d", "e"], "l": [0, 1, -1, None, 7]})
    expected = ["neg", "pos", "unlabelled", "unlabelled", "7"]
    said = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    assert [label for _, label, _ in read(parquet(said), "a.parquet", label_column="l")] == expected
    assert [row[1] for row in read(parquet(table), "a.parquet", features, label_column="l")] == expected
    assert [row[1] for row in read(parquet(table), "a.parquet", label_column="l")][:3] == ["0", "1", "-1"]
    nested = {"m": {"l": features["l"]}}
    assert read('{"text": "a", "m": {"l": 1}}', "a.jsonl", nested, label_column="m.l") == [(1, "pos", "a")]
    named = pa.table({"text": ["a"], "l": pa.array(["pos"]).dictionary_encode()})
    assert read(parquet(named), "a.parquet", label_column="l") == [(1, "pos", "a")]


MESSAGES = [
    {"role": "system", "content": ""},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": None, "tool_calls": []},
    {"role": "assistant", "content": "Me.\nYou."},
]
CONVERSATION = "user: Who?\n\nassistant: Me.\nYou."


def test_messages_become_one_text() -> None:
    chat = json.dumps({"messages": MESSAGES})
    assert read(chat, "a.jsonl", text_column="messages") == [(1, "-", CONVERSATION)]
    assert read(chat, "a.jsonl", text_column="messages.content") == [(1, "-", "Who?\n\nMe.\nYou.")]
    table = pa.table({"messages": [[{"role": m["role"], "content": m["content"]} for m in MESSAGES]]})
    assert read(parquet(table), "a.parquet", text_column="messages") == [(1, "-", CONVERSATION)]
    assert read(parquet(table), "a.parquet", text_column="messages.content")[0][2] == "Who?\n\nMe.\nYou."
    other = json.dumps({"m": {"c": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]}})
    assert read(other, "a.jsonl", text_column="m.c") == [(1, "-", "human: Who?\n\ngpt: Me.")]
    parts = [{"type": "text", "text": "See"}, {"type": "image_url"}, {"type": "text", "text": "this."}]
    with_parts = json.dumps({"messages": [{"role": "user", "content": parts}]})
    assert read(with_parts, "a.jsonl", text_column="messages") == [(1, "-", "user: See\nthis.")]
    assert read('{"messages": []}', "a.jsonl", text_column="messages") == [(1, "-", "")]


@pytest.mark.parametrize(
    ("record", "columns", "message"),
    [
        ({"m": ["a", "b"]}, {"text_column": "m"}, r"column 'm' holds .* expected text, or messages"),
        ({"m": [{"role": "user"}]}, {"text_column": "m"}, r"column 'm' holds .* \(list\), expected text, or"),
        ({"m": [{"role": 3, "content": "a"}]}, {"text_column": "m"}, r"column 'm' holds"),
        ({"m": [{"role": "user", "content": 3}]}, {"text_column": "m"}, r"column 'm' holds"),
        ({"m": [{"role": "user", "content": 3}]}, {"text_column": "m.content"}, r"column 'm\.content' holds"),
        ({"m": [{"role": "user"}]}, {"text_column": "m.content"}, r"no column 'content', found 'role'"),
        ({"text": "a", "m": [{"l": "x"}]}, {"label_column": "m.l"}, r"no column 'm\.l'"),
    ],
)
def test_other_lists_are_refused(record: dict[str, Any], columns: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=rf"^a\.jsonl, line 1: {message}"):
        read(json.dumps(record), "a.jsonl", **columns)


@pytest.mark.parametrize("layout", ["array.json", "lines.json", "a.csv"])
def test_memory_does_not_grow_with_the_file(layout: str) -> None:
    def peak(count: int) -> int:
        rows = [json.dumps({"text": f"{i} " + "x" * 1_000}) for i in range(count)]
        if layout == "a.csv":
            data = "text\n" + "\n".join("x" * 1_000 for _ in range(count))
        else:
            data = f"[{','.join(rows)}]" if layout == "array.json" else "\n".join(rows)
        file = data_file(data.encode(), layout)
        del rows, data
        tracemalloc.start()
        try:
            assert sum(1 for _ in records.records(file, Columns(), "-")) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(8_000) < peak(1_000) + 500_000


@given(
    st.text(st.sampled_from("ab \n\t\u2028"), max_size=300),
    st.integers(2, 40),
)
def test_lines_are_the_text_and_none_is_long(text: str, longest: int) -> None:
    found = list(records.lines(io.BytesIO(text.encode()), longest))
    assert "".join(found) == text
    assert all(len(line.rstrip("\n")) <= longest for line in found)
    if all(len(line) <= longest for line in text.split("\n")):
        assert found == io.StringIO(text).readlines()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_text_that_is_no_utf8_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name}: not UTF-8 \(invalid start byte\), expected UTF-8 text"):
        read(b"text\n\xff\n" if name == "a.csv" else b'{"text": "\xff"}', name)


def test_a_value_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(records, "LARGEST", 1_000)
    monkeypatch.setattr(records, "_READ", 100)
    row = json.dumps({"text": "x" * 5_000})
    for name in ("a.json", "a.jsonl"):
        with pytest.raises(UserError, match=rf"^{name}, line 1: found a value of more than 1,000 characters"):
            read(row, name)
    with pytest.raises(UserError, match=r"^a\.csv, line \d: not a table \(field larger"):
        read("text\n" + "x" * 5_000, "a.csv")
