"""The text that neurons are explained on, with its labels, and the features of its tokens."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from steps.core.devices import Device
from steps.core.errors import UserError
from steps.core.settings import Settings as BaseSettings
from steps.core.settings import deciding
from steps.core.statistics import exact
from steps.core.stores import Folder
from steps.core.tensors import read_tensors, write_tensors
from steps.language_models.text.tokenizers import token_texts
from steps.neurons.activations.bins import block_sources
from steps.neurons.activations.store import Activations
from steps.neurons.explanations import features as token_level
from steps.neurons.explanations import syntax
from steps.neurons.explanations.features import Features
from steps.neurons.explanations.labels import Labelling, by_combination, by_token, previous

if TYPE_CHECKING:
    import numpy as np


class Settings(BaseSettings):
    """What neurons are tested against."""

    tokens: int | None = Field(
        None,
        ge=1,
        description="tokens that explanations are tested on, rounded up to whole blocks; null: all"
        " (paper: 10 million)",
    )
    held_out: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the rows of each block that is held out, to test the best explanation on",
    )
    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate")
    minimum_reduction: float = Field(
        0.2,
        ge=0,
        le=1,
        description="held-out variance reduction that puts a neuron into a family (figures of the"
        " paper: 0.5)",
    )
    minimum_tokens: int = Field(
        20, ge=2, le=2**31, description="in-sample tokens that a feature must have, and leave"
    )
    unigram_variants: int = Field(
        1, ge=1, description='tokens that a unigram group needs, such as "on", " on", "On" (paper: 4)'
    )
    unigram_share: float = Field(
        3e-4,
        ge=0,
        le=1,
        description="share of all tokens that a unigram group needs (paper: 3000 of 10 million)",
    )
    topics: Path | None = Field(
        None,
        description="file of topic sets, JSON {topic: [word, ...]}; null: learned from the model's embedding",
    )
    topic_sets: int = Field(20, ge=0, description="topic sets that are learned; 0: none (paper: 63, by hand)")
    topic_tokens: int = Field(15, ge=1, description="tokens of each learned topic set")
    small_norm: bool = Field(
        False, description="add the feature of a short embedding, norm below 0.52 (paper)"
    )
    syntax: Literal["rules", "spacy"] = Field(
        "rules",
        description="who labels words. rules: word lists and suffixes; spacy: the extra of that name (paper)",
    )
    spacy_model: str = Field("en_core_web_trf", description="spaCy's model (paper: en_core_web_trf)")
    code_sources: list[str] = Field(
        ["code"], description="sources of text that Python's own tokenizer labels too"
    )
    top_tokens: int = Field(
        10, ge=0, description="tokens kept per neuron, by mean and by maximum (paper: 100)"
    )
    top_count: int = Field(
        5, ge=1, le=2**31, description="occurrences that a token needs to be ranked by its mean"
    )
    neurons_at_once: int | None = Field(
        None,
        ge=1,
        description="neurons whose sums are held at once; fewer read the text more often; null: all",
    )
    device: Device = Field("cpu", description="where sums are formed")
    threads: int = Field(1, ge=1, description="arithmetic threads")


@dataclasses.dataclass(frozen=True)
class Text:
    """What all models share: the tokens and their labels.

    Attributes:
        tokens: ``int32 [tokens]``.
        texts: of each token id.
        bos: id of the BOS token; None where rows have none.
        roles: number in ``syntax.ROLES`` of each token.
        surroundings: source and syntax labels.
    """

    tokens: np.ndarray
    n_ctx: int
    texts: list[str]
    bos: int | None
    roles: np.ndarray
    surroundings: Labelling


def read_text(source: Activations, rows: Path, tokenizer: Path, settings: Settings) -> Text:
    """Label the tokens of ``source``, as many as the settings ask for."""
    import numpy as np

    from steps.interp.loading import load_tokenizer

    packed = Folder(rows, "rows")
    packed.require_made_with(Folder(tokenizer, "tokenizer"))
    wanted = min(settings.tokens or len(source.tokens), len(source.tokens))
    end = source.block_slice(-(-wanted // source.block_tokens) - 1).stop
    tokens = source.tokens[:end]
    names: list[str] = packed.attributes["sources"]
    sources = block_sources(source, packed)[:end]
    texts = token_texts(load_tokenizer(tokenizer), packed.attributes["vocabulary"])
    lists = token_level.read_word_lists()
    by_row = tokens.reshape(-1, source.n_ctx)
    tagged = [syntax.labels(by_row, texts, _tagger(lists, settings), "word")]
    code = np.isin(sources[:: source.n_ctx], [names.index(n) for n in settings.code_sources if n in names])
    if code.any():
        python = syntax.labels(by_row, texts, syntax.python_tagger(code.tolist()), "python")
        tagged.append((python[0][:-1], python[1][:, :-1]))  # without "none", which says: other source
    labels = [np.arange(len(names)) == sources[:, None], *(matrix for _, matrix in tagged)]
    titles = [f"source {name}" for name in names], [name for found, _ in tagged for name in found]
    groups = ["source"] * len(titles[0]) + ["syntax"] * len(titles[1])
    surroundings = by_combination(np.concatenate(labels, axis=1), [*titles[0], *titles[1]], groups)
    roles = syntax.word_roles(by_row, texts)
    return Text(tokens, source.n_ctx, texts, packed.attributes["bos"], roles, surroundings)


def _tagger(lists: dict[str, Any], settings: Settings) -> syntax.Tagger:
    if settings.syntax == "spacy":
        return syntax.spacy_tagger(settings.spacy_model)
    return syntax.word_tagger(lists)


def shared_features(text: Text, settings: Settings) -> Features:
    """Features of token ids that are the same for all models.

    Where features hold for the same tokens the first is chosen; so the most special ones come first.
    """
    import numpy as np

    counts = np.bincount(text.tokens, minlength=len(text.texts))
    least = math.ceil(exact(settings.unigram_share) * len(text.tokens))
    bos = [] if text.bos is None else [token_level.single_token("bos", text.bos, len(text.texts))]
    parts = [
        *bos,
        token_level.unigram_features(text.texts, counts, settings.unigram_variants, least),
        token_level.token_features(text.texts, token_level.read_word_lists()),
    ]
    if settings.topics is not None:
        parts.append(token_level.topics_from_file(settings.topics, text.texts))
    return token_level.join(parts)


def model_features(text: Text, embedding: np.ndarray, settings: Settings) -> list[Features]:
    """Features of token ids that follow from a model's embedding."""
    import numpy as np

    parts = []
    if settings.small_norm:
        parts.append(token_level.small_norm(np.linalg.norm(embedding, axis=1)))
    if settings.topics is None and settings.topic_sets:
        counts = np.bincount(text.tokens, minlength=len(text.texts))
        sizes = settings.topic_sets, settings.topic_tokens
        parts.append(token_level.topics_by_svd(embedding, text.texts, counts, *sizes))
    return parts


def write_labels(
    path: Path, text: Text, shared: Features, of_models: dict[str, Features], facts: dict[str, Any]
) -> None:
    """Write a text with its labels and the features of its tokens, for :func:`read_labels`.

    Args:
        path: a safetensors file to make.
        text: the text, whose tokens are left to the activations.
        shared: features of token ids that are the same for all models.
        of_models: further ones, by the model's name.
        facts: what the text was made from.
    """
    named = {"shared": shared, "surroundings": text.surroundings.features}
    named |= {f"model {name}": features for name, features in of_models.items()}
    facts = {
        "kind": "labelled text",
        "n_ctx": text.n_ctx,
        "texts": text.texts,
        "bos": text.bos,
        "names": {name: features.names for name, features in named.items()},
        "groups": {name: features.groups for name, features in named.items()},
        **facts,
    }
    arrays = {name: features.matrix for name, features in named.items()}
    write_tensors(path, {"roles": text.roles, "codes": text.surroundings.codes, **arrays}, facts)


def read_labels(path: Path, source: Activations, settings: Settings) -> tuple[Text, Features]:
    """The text that :func:`write_labels` wrote and the features of token ids for the model of ``source``.

    Raises:
        UserError: it is of other tokens or settings.
    """
    arrays, facts = read_tensors(path, kind="labelled text")
    if facts["tokens"] != source.store.made_from["tokens"]:
        raise UserError(f"{path}: is of other tokens than {source.store.path}; give that of the same study")
    if facts["settings"] != deciding(settings):
        raise UserError(f"{path}: was made with other settings than these; delete it and run snakemake again")

    def features(name: str) -> Features:
        return Features(facts["names"][name], facts["groups"][name], arrays[name])

    surroundings = Labelling("current", arrays["codes"], features("surroundings"))
    tokens = source.tokens[: len(arrays["roles"])]
    text = Text(tokens, facts["n_ctx"], facts["texts"], facts["bos"], arrays["roles"], surroundings)
    own = [name for name in (f"model {source.name}",) if name in arrays]
    return text, token_level.join([features(name) for name in ("shared", *own)])


def labellings(text: Text, of_tokens: Features) -> list[Labelling]:
    """All labels: of the token, its surroundings, and of the token before."""
    own = by_token(text.tokens, of_tokens)
    return [
        own,
        text.surroundings,
        # The position after BOS is a position; a row's source is the same before.
        previous(own, text.n_ctx, without=("bos",)),
        previous(text.surroundings, text.n_ctx, without=("source",)),
    ]
