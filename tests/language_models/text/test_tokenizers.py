"""Tokenizers are compared by what they do, and every token has its text as it stands in running text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from steps.core.errors import UserError
from steps.language_models.text.tokenizers import (
    TokenTexts,
    behaviour_digest,
    bos_of,
    byte_signs,
    check_tokenizer,
    difference,
    named_bos,
    token_texts,
)

WORDS = [f"river {i} flows, the bridge stands\nand the café of March {i * 7} turns" for i in range(200)]


def byte_level() -> Tokenizer:
    """A tokenizer of GPT-2's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return tokenizer


def sentencepiece() -> Tokenizer:
    """A tokenizer of Llama 2's kind: blanks are written as signs, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [words.replace("\n", " ") for words in WORDS]
    trainer = trainers.BpeTrainer(
        vocab_size=400, max_token_length=6, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)

    def as_shipped(content: dict[str, Any]) -> None:
        content["added_tokens"] = content["added_tokens"][:3]
        for run in (2, 3, 8):
            content["model"]["vocab"]["\u2581" * run] = len(content["model"]["vocab"])

    return changed(tokenizer, as_shipped)


def changed(tokenizer: Tokenizer, change: Callable[[dict[str, Any]], object]) -> Tokenizer:
    """The same with its file edited."""
    content = json.loads(tokenizer.to_str())
    change(content)
    return Tokenizer.from_str(json.dumps(content))


BYTES, PIECES = byte_level(), sentencepiece()

GPT2_PATTERN = Regex(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def with_empty_prefixes(content: dict[str, Any]) -> None:
    content["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": "", "dropout": 0.0}


def with_an_unknown_token(content: dict[str, Any]) -> None:
    content["model"] |= {"unk_token": "<|endoftext|>", "fuse_unk": True}


def with_padding_token(content: dict[str, Any]) -> None:
    token = {**content["added_tokens"][0], "id": 400, "content": "[PAD]"}
    content["added_tokens"].append(token)


def respelled(*, split: bool = False) -> Tokenizer:
    tokenizer = Tokenizer.from_str(BYTES.to_str())
    part = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split, trim_offsets=False)
    before = [pre_tokenizers.Split(GPT2_PATTERN, "isolated")] if split else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, part])
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    return tokenizer


@pytest.mark.parametrize(
    "other",
    [
        respelled(),
        respelled(split=True),
        *(
            changed(BYTES, change)
            for change in (
                with_empty_prefixes,
                with_an_unknown_token,
                with_padding_token,
            )
        ),
    ],
)
def test_another_spelling_is_the_same_tokenizer(other: Tokenizer) -> None:
    assert other.to_str() != BYTES.to_str()
    assert difference(BYTES, other) is None
    assert difference(other, BYTES) is None
    if other.get_vocab_size() == BYTES.get_vocab_size():
        assert behaviour_digest(other) == behaviour_digest(BYTES)


def with_another_normalizer(kind: Any) -> Callable[[], Tokenizer]:
    def make() -> Tokenizer:
        tokenizer = Tokenizer.from_str(BYTES.to_str())
        tokenizer.normalizer = kind
        return tokenizer

    return make


def split_by(*parts: Any) -> Callable[[], Tokenizer]:
    def make() -> Tokenizer:
        tokenizer = Tokenizer.from_str(BYTES.to_str())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(parts))
        return tokenizer

    return make


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[], Tokenizer]:
    return lambda: changed(BYTES, change)


LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
QWEN_PATTERN = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    "make",
    [
        with_another_normalizer(normalizers.Lowercase()),
        with_another_normalizer(normalizers.NFC()),
        with_another_normalizer(normalizers.NFKC()),
        with_another_normalizer(normalizers.StripAccents()),
        with_another_normalizer(normalizers.Strip()),
        split_by(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        split_by(pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)),
        split_by(pre_tokenizers.Split(QWEN_PATTERN, "isolated"), LEVEL),
        split_by(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False)),
        edited(lambda content: content["model"]["merges"].reverse()),
        edited(lambda content: content["model"]["merges"].pop()),
        edited(lambda content: content["model"].update(ignore_merges=True)),
        edited(
            lambda content: content["added_tokens"].append(
                {**content["added_tokens"][0], "id": 400, "content": "March 7", "special": False}
            )
        ),
    ],
)
def test_another_behaviour_is_another_tokenizer(make: Callable[[], Tokenizer]) -> None:
    other = make()
    assert difference(BYTES, other) is not None
    assert difference(other, BYTES) is not None
    assert behaviour_digest(other) != behaviour_digest(BYTES)


def test_a_blank_before_a_text_is_part_of_the_behaviour() -> None:
    """transformers saves Llama 2's tokenizer so that a text that begins with a blank gets no second one."""
    other = Tokenizer.from_str(PIECES.to_str())
    other.normalizer = None
    other.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="first", split=False)
    found = difference(PIECES, other)
    assert found is not None
    assert found.startswith("' ' is [")


def test_a_tokenizer_that_transformers_saved_again_is_the_same(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    content = json.loads(BYTES.to_str())["model"]
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(content["vocab"]))
    (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, content["merges"])) + "\n")
    (old / "config.json").write_text('{"model_type": "gpt2"}')
    AutoTokenizer.from_pretrained(old, bos_token="<|endoftext|>").save_pretrained(new)
    check_tokenizer(old, BYTES)
    check_tokenizer(new, BYTES)
    assert named_bos(new) == ["<|endoftext|>"]


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_texts_of_tokens_are_those_of_the_text(text: str) -> None:
    for tokenizer in (BYTES, PIECES):
        texts, ids = TokenTexts(tokenizer), tokenizer.encode(text, add_special_tokens=False).ids
        joined = b"".join(texts.bytes(number) for number in ids)
        if tokenizer is PIECES:  # which puts a blank before each text that is not empty
            assert joined == (f" {text}" if text else "").replace("\u2581", " ").encode()
        else:
            assert joined == text.encode()


def test_runs_of_blanks_and_bytes_have_their_text() -> None:
    texts, ids = token_texts(PIECES), PIECES.get_vocab()
    assert {run: texts[ids["\u2581" * run]] for run in (1, 2, 3, 8)} == {n: " " * n for n in (1, 2, 3, 8)}
    assert (texts[ids["<0x20>"]], texts[ids["<0x0A>"]], texts[ids["<0xE2>"]]) == (" ", "\n", "\ufffd")
    assert texts[ids["<s>"]] == ""
    assert TokenTexts(PIECES).readable(ids["<s>"]) == "<s>"
    assert TokenTexts(PIECES).tokens_of("\n") == [ids["<0x0A>"]]
    assert TokenTexts(PIECES).tokens_of(" ") == sorted([ids["\u2581"], ids["<0x20>"]])
    assert TokenTexts(PIECES).tokens_of("") == []


def test_texts_do_not_need_a_decoder() -> None:
    for tokenizer in (BYTES, PIECES):
        bare = changed(tokenizer, lambda content: content.update(decoder=None))
        assert token_texts(bare) == token_texts(tokenizer)


def test_added_tokens_are_text_as_they_stand() -> None:
    tokenizer = Tokenizer.from_str(BYTES.to_str())
    tokenizer.add_tokens([AddedToken("   ", normalized=True), AddedToken("ñandú", normalized=False)])
    assert token_texts(tokenizer, 403)[400:] == ["   ", "ñandú", ""]
    tokenizer = Tokenizer.from_str(PIECES.to_str())
    first = tokenizer.get_vocab_size()
    tokenizer.add_tokens([AddedToken("\u2581x", normalized=True), AddedToken("\u2581y", normalized=False)])
    assert token_texts(tokenizer)[first:] == [" x", "\u2581y"]


def test_pieces_of_words_stand_apart() -> None:
    tokenizer = Tokenizer(models.WordPiece({"play": 0, "##ing": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    assert token_texts(tokenizer)[:2] == [" play", "ing"]


@pytest.mark.parametrize(
    ("files", "wanted", "bos"),
    [
        ({"tokenizer_config.json": {"bos_token": None}}, None, None),
        ({"tokenizer_config.json": {"bos_token": None}, "vocab.json": {}}, None, None),
        ({"tokenizer_config.json": {"bos_token": None}}, "<|endoftext|>", "<|endoftext|>"),
        ({"tokenizer_config.json": {"bos_token": "<|endoftext|>"}}, False, None),
        ({"tokenizer_config.json": {"bos_token": {"content": "<|endoftext|>"}}}, None, "<|endoftext|>"),
        (
            {
                "tokenizer_config.json": {"bos_token": None},
                "special_tokens_map.json": {"bos_token": "<|endoftext|>"},
            },
            None,
            "<|endoftext|>",
        ),
        ({"vocab.json": {}}, None, "<|endoftext|>"),
        ({}, False, None),
    ],
)
def test_bos_is_what_settings_say_or_else_the_files(
    tmp_path: Path, files: dict[str, Any], wanted: Any, bos: str | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert bos_of(BYTES, wanted, named_bos(tmp_path), "here") == bos


@pytest.mark.parametrize(
    ("files", "wanted", "says"),
    [
        ({}, None, "here: does not say which token is BOS; set language_models.tokenizer.bos_token to"),
        ({"tokenizer_config.json": {"model_max_length": 9}}, None, "or to false if they saw none"),
        ({}, "<s>", "here: the BOS token '<s>' is not in its vocabulary"),
        ({"tokenizer_config.json": {"bos_token": "<s>"}}, None, "or to false for rows without BOS"),
    ],
)
def test_a_bos_that_nobody_knows_is_asked_for(
    tmp_path: Path, files: dict[str, Any], wanted: Any, says: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        bos_of(BYTES, wanted, named_bos(tmp_path), "here")
    assert says in str(caught.value)


def test_parts_of_characters_are_shown_as_their_bytes() -> None:
    from tokenizers import decoders

    names = ["âĤ", "Ġâ", "¬", "âĤ¬", "ĠaÃ", "ï¿½", "ok", "Ã©Ã©"]
    vocabulary = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="ok"))
    vocabulary.decoder = decoders.ByteLevel()
    shown = [TokenTexts(vocabulary).readable(number) for number in range(len(names))]
    assert shown == ["<0xE2><0x82>", " <0xE2>", "<0xAC>", "€", " a<0xC3>", "\ufffd", "ok", "éé"]
    assert TokenTexts(vocabulary).readable(99) == ""
    names = ["<0xE2>", "<0xE2>x", "\ufffd", "▁a"]
    vocabulary = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="▁a"))
    vocabulary.decoder = decoders.ByteFallback()
    shown = [TokenTexts(vocabulary).readable(number) for number in range(len(names))]
    assert shown == ["<0xE2>", "<0xE2>x", "\ufffd", "▁a"]


def test_every_byte_has_a_sign_of_its_own() -> None:
    from tokenizers import pre_tokenizers

    signs = byte_signs()
    assert set(signs) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(signs.values()) == list(range(256))


def test_texts_of_a_vocabulary_keep_leading_blanks_and_leave_out_special_tokens() -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models

    plain = Tokenizer(models.WordLevel({"\u2581on": 0, "on": 1, "<s>": 2}, unk_token="<s>"))
    plain.decoder = decoders.Metaspace()
    plain.add_special_tokens([AddedToken("<s>", special=True)])
    assert token_texts(plain, 4) == [" on", "on", "", ""]
