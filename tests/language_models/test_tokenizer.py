"""The shared tokenizer: any text comes back, deterministic, trained on the train side or brought."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from steps.core.errors import UserError
from steps.core.provenance import versions
from steps.core.runner import Output
from steps.core.settings import validate
from steps.core.stores import Folder
from steps.interp.loading import load_tokenizer
from steps.language_models import tokenizer as step
from steps.language_models.text import tokenizers
from steps.language_models.tokenizer import BOS, Settings
from tests.language_models.conftest import Prepared, make_tokenizer, write_corpus

HOSTILE = [
    "\x00\x01\x1b[31m\x7f",
    "  \t\t\n\n\r\n   trailing   ",
    "naïve façade Ω≈ç√ 日本語 עברית",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u202eright to left\u202c \ufeff\u200b\uffff",
    f"{BOS}{BOS} <|endoftext|> </s> [PAD]",
    "a" * 5000,
    "<script>alert('x')</script> {wildcard} $(touch x) `x` ; rm -rf \\",
    "",
]


@pytest.mark.parametrize("token", [False, None, "<s>", "false"])
def test_bos_is_a_text_or_false(token: Any) -> None:
    found = validate(Settings, {"bos_token": token}, "language_models.tokenizer").bos_token
    assert found == token
    assert type(found) is type(token)


@pytest.mark.parametrize("token", [True, 0, 1, "", []])
def test_bos_is_nothing_else(token: Any) -> None:
    with pytest.raises(UserError, match="bos_token"):
        validate(Settings, {"bos_token": token}, "language_models.tokenizer")


def give(settings: Settings, folder: Path) -> Folder:
    out = folder / "ledger.json"
    step.main(settings, Output(out))
    return Folder(out, "tokenizer")


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_comes_back(prepared: Prepared, text: str) -> None:
    tokenizer = load_tokenizer(prepared.tokenizer)
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert 0 not in ids


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_drawn_text_comes_back(prepared: Prepared, text: str) -> None:
    tokenizer = load_tokenizer(prepared.tokenizer)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_vocabulary_holds_bos_all_bytes_and_words_with_their_leading_space(prepared: Prepared) -> None:
    tokenizer = load_tokenizer(prepared.tokenizer)
    about = Folder(prepared.tokenizer, "tokenizer").attributes
    assert about["bos"] == tokenizer.token_to_id(BOS) == 0
    singles = [token for token in tokenizer.get_vocab() if len(token) == 1]
    assert len(singles) == 256
    assert about["vocabulary"] == tokenizer.get_vocab_size()
    with_space, without = (tokenizer.encode(text).ids for text in (" three", "three"))
    assert len(with_space) == 1
    assert with_space != without


def test_it_is_the_same_each_time_and_in_any_order_of_the_documents(
    tmp_path: Path, shared_text: Path
) -> None:
    text = (shared_text / "wikitext2_test.txt").read_text("utf-8")[:200_000]
    documents = [("wiki", "train", text[k : k + 5000]) for k in range(0, len(text), 5000)]
    ledgers = [
        make_tokenizer(tmp_path / name, write_corpus(tmp_path / f"{name}.parquet", order), vocabulary=400)
        for name, order in (("a", documents), ("b", documents), ("c", documents[::-1]))
    ]
    files = [(ledger.parent / "tokenizer.json").read_bytes() for ledger in ledgers]
    assert files[0] == files[1] == files[2]
    assert ledgers[0].read_bytes() == ledgers[1].read_bytes()
    assert Folder(ledgers[0], "tokenizer").fingerprint == Folder(ledgers[2], "tokenizer").fingerprint


def test_its_ledger_says_what_made_it_but_another_version_makes_no_other_tokenizer(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(prepared.tokenizer.read_text())["versions"] == versions()
    monkeypatch.setattr("steps.core.stores.versions", lambda libraries: {"tokenizers": "99.1"})
    again = make_tokenizer(tmp_path / "again", prepared.corpus, vocabulary=300)
    assert json.loads(again.read_text())["versions"] == {"tokenizers": "99.1"}
    assert Folder(again, "tokenizer").fingerprint == Folder(prepared.tokenizer, "tokenizer").fingerprint


def test_the_held_out_side_is_not_seen(tmp_path: Path) -> None:
    seen, unseen = "quixotic " * 50, "zephyr " * 50
    corpus = write_corpus(tmp_path / "d.parquet", [("a", "train", seen), ("a", "held_out", unseen)])
    tokenizer = load_tokenizer(make_tokenizer(tmp_path / "t", corpus, vocabulary=290))
    assert len(tokenizer.encode(" quixotic").ids) == 1
    assert len(tokenizer.encode(" zephyr").ids) == 7


def test_hugging_face_opens_it(prepared: Prepared) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(prepared.tokenizer.parent, local_files_only=True)
    assert theirs.bos_token == BOS
    assert theirs.bos_token_id == 0
    text = "one two, three\n" + HOSTILE[2]
    assert (
        theirs(text, add_special_tokens=False)["input_ids"]
        == load_tokenizer(prepared.tokenizer).encode(text).ids
    )


def test_a_brought_one_is_the_same_one(prepared: Prepared, tmp_path: Path) -> None:
    brought = give(Settings(path=str(prepared.tokenizer.parent)), tmp_path / "out")
    assert brought.fingerprint == Folder(prepared.tokenizer, "tokenizer").fingerprint
    assert brought.attributes["bos_token"] == BOS
    assert "tokenizer.json" in brought.attributes["source"]["files"]


def test_old_files_and_truncation_make_no_difference(prepared: Prepared, tmp_path: Path) -> None:
    mine = load_tokenizer(prepared.tokenizer)
    old, cut = tmp_path / "old", tmp_path / "cut"
    old.mkdir()
    cut.mkdir()
    mine.model.save(str(old))
    (old / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": BOS}}))
    truncating = Tokenizer.from_file(str(prepared.tokenizer.parent / "tokenizer.json"))
    truncating.enable_truncation(3)
    truncating.enable_padding(length=9)
    truncating.save(str(cut / "tokenizer.json"))
    for folder in (old, cut):
        out = give(Settings(path=str(folder), bos_token=BOS), tmp_path / f"{folder.name}-out")
        theirs = load_tokenizer(out.path)
        assert tokenizers.difference(theirs, mine) is None
        assert theirs.encode(HOSTILE[2] * 3).ids == mine.encode(HOSTILE[2] * 3).ids


def test_tokenizers_that_differ_are_told_apart(prepared: Prepared, tmp_path: Path) -> None:
    other = make_tokenizer(tmp_path / "other", prepared.corpus, vocabulary=270)
    assert tokenizers.difference(load_tokenizer(other), load_tokenizer(prepared.tokenizer)) is not None


def test_without_a_bos_token_the_setting_is_named(prepared: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    shutil.copy(prepared.tokenizer.parent / "tokenizer.json", folder)
    with pytest.raises(
        UserError, match=r"does not say which token is BOS; set language_models\.tokenizer\.bos_token"
    ):
        give(Settings(path=str(folder)), tmp_path / "out")
    with pytest.raises(UserError, match=r"'<nowhere>' is not in its vocabulary"):
        give(Settings(path=str(folder), bos_token="<nowhere>"), tmp_path / "out")


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"model": {"type": "Nonsense"}}', "\x00\x01"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        give(Settings(path=str(tmp_path), bos_token="x"), tmp_path / "out")


def test_a_folder_without_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no tokenizer"):
        give(Settings(path=str(tmp_path)), tmp_path / "out")
    with pytest.raises(UserError, match="no such folder"):
        give(Settings(path=str(tmp_path / "nowhere")), tmp_path / "out")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hub": "gpt2"}, "revision"),
        ({"path": "a", "hub": "gpt2", "revision": "x"}, "not both"),
        ({"hub": "../../etc", "revision": "x"}, "hub"),
        ({"vocabulary": 200}, "258"),
        ({"vocabluary": 600}, "did you mean 'vocabulary'"),
    ],
)
def test_wrong_settings_are_explained(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        validate(Settings, wrong, "configuration")


@pytest.mark.parametrize("token", ["a", "!", "Ġ"])
def test_a_bos_token_that_stands_for_a_byte_is_refused(token: str) -> None:
    with pytest.raises(UserError, match="which stands for a byte of ordinary text; choose a longer one"):
        step.train(iter(["a text"]), 300, token)


def test_one_table_trains_a_tokenizer(prepared: Prepared, tmp_path: Path) -> None:
    for corpus in ([], [prepared.corpus, prepared.corpus]):
        with pytest.raises(UserError, match=f"--corpus: found {len(corpus)} tables, expected one"):
            step.main(Settings(), Output(tmp_path / "ledger.json"), corpus)
    assert not list(tmp_path.iterdir())
