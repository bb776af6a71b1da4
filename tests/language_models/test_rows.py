"""Packing: planted documents come out where they belong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from steps.core.errors import UserError
from steps.core.stores import Folder, read_array
from steps.interp.loading import load_tokenizer
from steps.language_models import rows
from steps.language_models.text import documents
from tests.language_models.conftest import Prepared, make_rows, make_tokenizer, run_step, write_corpus

DOCUMENTS = [
    ("prose", "train", "abc"),
    ("code", "train", "uvwxyz"),
    ("prose", "train", "defgh"),
    ("prose", "held_out", "ABCDEF"),
    ("tiny", "train", "!"),
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus, and a tokenizer in which each of its letters is one token."""
    folder = tmp_path_factory.mktemp("planted")
    corpus = write_corpus(folder / "documents.parquet", DOCUMENTS)
    other = write_corpus(folder / "other.parquet", [("a", "train", "  ")])
    return corpus, make_tokenizer(folder / "tokenizer", other, vocabulary=258)


def texts(ledger: Path, tokenizer: Path, split: str) -> list[tuple[str, str]]:
    """Each row as (source, text without BOS), after checking that BOS comes first."""
    folder = Folder(ledger, "rows")
    tokens, sources = read_array(folder, split), read_array(folder, f"{split}_source")
    assert tokens.dtype == np.int32
    assert sources.dtype == np.uint16
    assert (tokens[:, 0] == folder.attributes["bos"]).all()
    decoder = load_tokenizer(tokenizer)
    return [
        (folder.attributes["sources"][source], decoder.decode(row[1:].tolist(), skip_special_tokens=False))
        for row, source in zip(tokens, sources, strict=True)
    ]


def test_documents_of_a_source_abut_and_the_tail_is_dropped(tmp_path: Path, planted: Any) -> None:
    ledger = make_rows(tmp_path, *planted, n_ctx=4)
    train = texts(ledger, planted[1], "train")
    assert sorted(train) == [("code", "uvw"), ("code", "xyz"), ("prose", "abc"), ("prose", "def")]
    assert sorted(texts(ledger, planted[1], "held_out")) == [("prose", "ABC"), ("prose", "DEF")]
    about = Folder(ledger, "rows").attributes
    assert about["sources"] == ["code", "prose", "tiny"]
    assert (about["n_ctx"], about["bos"], about["vocabulary"]) == (4, 0, 258)
    assert about["tokenizer"] == Folder(planted[1], "tokenizer").fingerprint


def test_a_separator_stands_between_documents_only(tmp_path: Path, planted: Any) -> None:
    ledger = make_rows(tmp_path, *planted, n_ctx=4, separator="<|bos|>")
    train = dict.fromkeys(texts(ledger, planted[1], "train"))
    assert ("prose", "<|bos|>de") in train
    assert ("prose", "abc") in train
    assert ("code", "uvw") in train


def test_a_separator_must_be_a_token(tmp_path: Path, planted: Any) -> None:
    with pytest.raises(UserError, match=r"rows\.separator: 'two words' is not a token"):
        make_rows(tmp_path, *planted, n_ctx=4, separator="two words")


def test_text_that_spells_a_special_token_stays_text(tmp_path: Path, planted: Any) -> None:
    corpus = write_corpus(
        tmp_path / "d.parquet", [("a", "train", "<|bos|>" * 3), ("a", "held_out", "<|bos|>")]
    )
    ledger = make_rows(tmp_path / "rows", corpus, planted[1], n_ctx=8)
    assert texts(ledger, planted[1], "train") == [("a", "<|bos|>")] * 3
    assert (read_array(Folder(ledger, "rows"), "train")[:, 1:] != 0).all()


def test_the_shuffle_is_a_permutation_that_the_seed_decides(prepared: Prepared, tmp_path: Path) -> None:
    ledgers = [
        make_rows(tmp_path / name, prepared.corpus, prepared.tokenizer, n_ctx=16, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    a, b, c = (texts(ledger, prepared.tokenizer, "train") for ledger in ledgers)
    assert a == b != c
    assert Counter(a) == Counter(c)
    assert ledgers[0].read_bytes() == ledgers[1].read_bytes()
    first_half = [source for source, _ in a[: len(a) // 2]]
    assert len(set(first_half)) == 2


def test_no_token_is_lost_or_made_up(prepared: Prepared) -> None:
    tokenizer = load_tokenizer(prepared.tokenizer)
    folder = Folder(prepared.rows, "rows")
    for split in documents.SPLITS:
        for number, source in enumerate(folder.attributes["sources"]):
            texts = [d.text for d in documents.read(prepared.corpus, split) if d.source == source]
            stream = [token for text in texts for token in tokenizer.encode(text).ids]
            whole = np.array(stream[: len(stream) // 15 * 15]).reshape(-1, 15)
            mine = read_array(folder, split)[read_array(folder, f"{split}_source") == number, 1:]
            assert sorted(map(tuple, mine)) == sorted(map(tuple, whole))


def test_blocks_and_batches_change_nothing(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BLOCK", 16 * 7)
    monkeypatch.setattr(rows, "BATCH", 3000)
    ledger = make_rows(tmp_path, prepared.corpus, prepared.tokenizer, n_ctx=16)
    cut, whole = Folder(ledger, "rows"), Folder(prepared.rows, "rows")
    assert len(cut.files) > len(whole.files)
    for name in ("train", "held_out", "train_source", "held_out_source"):
        np.testing.assert_array_equal(read_array(cut, name), read_array(whole, name))


def test_a_long_text_in_pieces_has_the_same_tokens(
    tmp_path: Path, shared_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blanks = [
        "\n",
        "\n ",
        " \n",
        " \n ",
        "\n\n",
        "\t\n",
        "\r\n",
        "\n\t",
        "\n  ",
        "\x0b\n",
        "\u2028\n",
        "\x1c\n",
        "\xa0\n ",
    ]
    text = "".join(f"x{a}y{b}'ll" for a in blanks for b in blanks) * 3
    text += (shared_text / "wikitext2_test.txt").read_text("utf-8")[:20_000]
    corpus = write_corpus(tmp_path / "d.parquet", [("a", "train", text)])
    tokenizer = load_tokenizer(make_tokenizer(tmp_path / "t", corpus, vocabulary=1000))
    assert len(tokenizer.encode(" \n").ids) == 1  # blanks merge, so that a wrong cut shows
    document = documents.Document("a", "train", text)
    whole = rows.tokenise([document, document], tokenizer, None)
    monkeypatch.setattr(rows, "BATCH", 1)
    assert len(list(rows._pieces(text, tokenizer))) > 200
    assert rows.tokenise([document, document], tokenizer, None) == whole


@pytest.mark.parametrize("split", documents.SPLITS)
def test_a_corpus_too_small_for_one_row_is_refused_with_counts(
    tmp_path: Path, planted: Any, split: str
) -> None:
    other = next(name for name in documents.SPLITS if name != split)
    corpus = write_corpus(tmp_path / "d.parquet", [("a", split, "xyz"), ("a", other, "xyz" * 9)])
    with pytest.raises(UserError, match=rf"its {split} documents hold 3 tokens of 1 sources.*n_ctx"):
        make_rows(tmp_path / "rows", corpus, planted[1], n_ctx=8)
    assert not (tmp_path / "rows").exists()


def test_the_step_says_it_in_one_line(tmp_path: Path, planted: Any) -> None:
    out = tmp_path / "rows/ledger.json"
    message = run_step(
        *("rows", "--corpus", planted[0], "--tokenizer", planted[1]),
        *("--settings", '{"n_ctx": 512}', "--out", out),
        expect=2,
    )
    assert message.count("\n") == 1
    assert message.startswith("error: ")
    assert not out.exists()


def test_a_broken_corpus_is_named(tmp_path: Path, planted: Any) -> None:
    whole = planted[0].read_bytes()
    middle = whole[: len(whole) // 4] + b"\0" * 64 + whole[len(whole) // 4 + 64 :]
    for content in (b"", whole[: len(whole) // 2], b"PAR1" * 9, middle):
        broken = tmp_path / "broken.parquet"
        broken.write_bytes(content)
        with pytest.raises(UserError, match=r"broken\.parquet: unreadable as a parquet table"):
            make_rows(tmp_path / "rows", broken, planted[1])
    odd = write_corpus(tmp_path / "odd.parquet", [("a", "test", "x")])
    with pytest.raises(UserError, match="split 'test'"):
        make_rows(tmp_path / "rows", odd, planted[1])


def test_rows_of_a_tokenizer_without_bos_are_text_from_their_first_token(
    prepared: Prepared, tmp_path: Path
) -> None:
    """As Qwen's: each row has a token of text more, and no token is lost but the ragged tail."""
    without = make_tokenizer(tmp_path / "tokenizer", prepared.corpus, vocabulary=300, bos_token=False)
    assert Folder(without, "tokenizer").attributes["bos"] is None
    assert json.loads((without.parent / "tokenizer_config.json").read_text())["bos_token"] is None
    folder = Folder(make_rows(tmp_path / "rows", prepared.corpus, without, n_ctx=16), "rows")
    assert folder.attributes["bos"] is None
    tokenizer = load_tokenizer(without)
    documents = pq.read_table(prepared.corpus).to_pylist()
    for split in ("train", "held_out"):
        found, source = read_array(folder, split), read_array(folder, f"{split}_source")
        for number, label in enumerate(folder.attributes["sources"]):
            whole = "".join(d["text"] for d in documents if (d["source"], d["split"]) == (label, split))
            ids = tokenizer.encode(whole, add_special_tokens=False).ids
            rows = [tuple(ids[start : start + 16]) for start in range(0, len(ids) - 15, 16)]
            assert sorted(rows) == sorted(map(tuple, found[source == number].tolist()))
