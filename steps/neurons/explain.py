"""What neurons fire on: all neurons against all features, on held-out tokens too (docs/neurons.md).

Reads the activations and moments of all models, their packed rows, tokenizer and weights (for topics), and
the word lists. All tokens count, BOS included, as in the paper's code. Writes two tables and arrays.

``explanations``: a row per neuron of every model, by model, layer and neuron, with

==============================  =======================================================================
column                          meaning
==============================  =======================================================================
``feature`` ``which``           best explanation; of the ``current`` or ``previous`` token, or the
``group``                       profile over ``position``; ``none`` where the neuron never varies
``variance_reduction``          in-sample, ddof 1 as in the paper's code (for position: squared
``variance_reduction_held_out`` correlation); and of the same explanation on held-out tokens
``difference``                  in-sample difference of means, of post-activations
``p`` ``p_adjusted``            of the test on held-out rows; Benjamini-Hochberg over the model's neurons
``family`` ``evidence``         by rule (``neurons.families``), and why
``role`` ``role_share``         the part of a word on which most of the response to a feature of the current
                                token falls, and its share
``letter_response``             alphabet: difference of means between other tokens that begin with the
                                letter and the rest
``position_mi``                 mutual information of firing and position, nats; of pre-activations
``position_p`` ``_adjusted``    that firing depends on the position, BOS's left out: ``passes.position_p``;
                                Benjamini-Hochberg over the model's neurons
``position_std``                std over positions of the mean post-activation
``within_position_std``         mean over positions of the std within one
``position_candidate``          pre-activation kurtosis below 2, the paper's first criterion
==============================  =======================================================================

``tokens``: for every neuron the token ids of largest mean and of largest maximum (``model layer neuron by
rank token text value count``). ``profiles`` (safetensors): ``MODEL.position_mean`` and ``_std`` [neurons,
context], ``MODEL.bins_on`` [neurons, 257], pre-activations on tokens with the best feature, in the bins of
``neurons.histograms``.

*In-sample and held out.* Of every block the last rows are held out. The best explanation is the one of
largest squared correlation in-sample.

*Test.* Tokens are not independent, rows nearly are (they are shuffled). So each held-out row gives one
number, the sum over its tokens of ``(y - mean y) (v - mean v)`` with in-sample means; under the null that
label and neuron are uncorrelated on held-out text these have mean 0, whatever the dependence within a row. p
is two-sided, from their sum over the root of their sum of squares, as normal. The choice among features used
other rows and costs nothing. Rows of one document are taken as independent, which they are not quite.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from steps.core.digest import code_digest, file_digest
from steps.core.errors import UserError
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.settings import deciding
from steps.core.stores import Folder, read_table
from steps.core.tensors import read_tensors, write_tensors
from steps.neurons import features as token_level
from steps.neurons import syntax
from steps.neurons.activations import Activations
from steps.neurons.baseline import benjamini_hochberg
from steps.neurons.confirm import Explained, second_pass
from steps.neurons.families import family, letter
from steps.neurons.features import Features
from steps.neurons.histograms import block_sources
from steps.neurons.labels import Labelling, by_combination, by_token, previous
from steps.neurons.moments import Moments
from steps.neurons.passes import Best, Reader, Split, best_explanations, first_pass
from steps.neurons.table import power_moments
from steps.neurons.transformer import open_reader, processed_ends

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Settings(BaseSettings):
    """What neurons are tested against."""

    tokens: int | None = Field(
        None, ge=1, description="tokens read, rounded up to whole blocks; null: all (paper: 10 million)"
    )
    held_out: float = Field(0.5, gt=0, lt=1, description="share of the rows of each block that is held out")
    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate")
    minimum_reduction: float = Field(
        0.2, ge=0, le=1, description="held-out variance reduction that puts a neuron into a family"
    )
    minimum_tokens: int = Field(20, ge=2, le=2**31, description="in-sample tokens with and without a feature")
    unigram_variants: int = Field(1, ge=1, description="tokens that a unigram group needs (paper: 4)")
    unigram_share: float = Field(
        3e-4,
        ge=0,
        le=1,
        description="share of the tokens that a unigram group needs (paper: 3000 of 10 million)",
    )
    topics: Path | None = Field(None, description="topic sets, JSON; null: learned from the embedding")
    topic_sets: int = Field(20, ge=0, description="topic sets that are learned (paper: 63, by hand)")
    topic_tokens: int = Field(15, ge=1, description="tokens of each learned topic set")
    small_norm: bool = Field(False, description="add the feature of an embedding norm below 0.52 (paper)")
    syntax: Literal["rules", "spacy"] = Field("rules", description="who labels words")
    spacy_model: str = Field("en_core_web_trf", description="spaCy's model (paper: en_core_web_trf)")
    code_sources: list[str] = Field(
        ["code"], description="sources of text that Python's own tokenizer labels too"
    )
    top_tokens: int = Field(
        10, ge=0, description="tokens kept per neuron, by mean and by maximum (paper: 100)"
    )
    top_count: int = Field(5, ge=1, le=2**31, description="occurrences that a token of large mean needs")
    neurons_at_once: int | None = Field(
        None,
        ge=1,
        description="neurons whose sums are held at once; fewer read the text more often; null: all",
    )
    device: str = Field("cpu", description="where sums are formed")
    threads: int = Field(1, ge=1, description="arithmetic threads")


@dataclasses.dataclass(frozen=True)
class Text:
    """What all models share: the tokens and their labels.

    Attributes:
        tokens: ``int32 [tokens]``.
        texts: of each token id.
        bos: id of the BOS token.
        roles: number in ``syntax.ROLES`` of each token.
        surroundings: source and syntax labels.
        lists: the word lists.
    """

    tokens: np.ndarray
    context: int
    texts: list[str]
    bos: int
    roles: np.ndarray
    surroundings: Labelling
    lists: dict[str, Any]


def read_text(source: Activations, rows: Path, tokenizer: Path, settings: Settings) -> Text:
    """Label the tokens of ``source``, as many as the settings ask for."""
    import numpy as np

    from steps.language_models.models import load_tokenizer

    packed = Folder(rows, "rows")
    packed.require_made_with(Folder(tokenizer, "tokenizer"))
    wanted = min(settings.tokens or len(source.tokens), len(source.tokens))
    end = source.block_slice(-(-wanted // source.block_tokens) - 1).stop
    tokens = source.tokens[:end]
    names: list[str] = packed.attributes["sources"]
    sources = block_sources(source, packed)[:end]
    texts = token_level.vocabulary_texts(load_tokenizer(tokenizer), packed.attributes["vocabulary"])
    lists = token_level.read_word_lists()
    by_row = tokens.reshape(-1, source.context)
    tagged = [syntax.labels(by_row, texts, _tagger(lists, settings), "word")]
    code = np.isin(sources[:: source.context], [names.index(n) for n in settings.code_sources if n in names])
    if code.any():
        python = syntax.labels(by_row, texts, syntax.python_tagger(code.tolist()), "python")
        tagged.append((python[0][:-1], python[1][:, :-1]))  # without "none", which says: other source
    labels = [np.arange(len(names)) == sources[:, None], *(matrix for _, matrix in tagged)]
    titles = [f"source {name}" for name in names], [name for found, _ in tagged for name in found]
    groups = ["source"] * len(titles[0]) + ["syntax"] * len(titles[1])
    surroundings = by_combination(np.concatenate(labels, axis=1), [*titles[0], *titles[1]], groups)
    roles = syntax.word_roles(by_row, texts)
    return Text(tokens, source.context, texts, packed.attributes["bos"], roles, surroundings, lists)


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
    least = settings.unigram_share * len(text.tokens)
    parts = [
        token_level.single_token("bos", text.bos, len(text.texts)),
        token_level.unigram_features(text.texts, counts, settings.unigram_variants, least),
        token_level.token_features(text.texts, text.lists),
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


def labellings(text: Text, of_tokens: Features) -> list[Labelling]:
    """All labels: of the token, its surroundings, and of the token before."""
    own = by_token(text.tokens, of_tokens)
    return [
        own,
        text.surroundings,
        # The position after BOS is a position; a row's source is the same before.
        previous(own, text.context, without=("bos",)),
        previous(text.surroundings, text.context, without=("source",)),
    ]


def embedding_matrix(model: Path, vocabulary: int) -> np.ndarray:
    """The token embedding ``[vocabulary, d_model]`` of a model, preprocessed as all weights, float32."""
    reader = open_reader(model)
    weight = processed_ends(reader.ends(), reader.facts).w_e.numpy()
    if len(weight) < vocabulary:
        raise UserError(f"{model}: embeds {len(weight)} tokens, its tokenizer has {vocabulary}")
    return weight[:vocabulary]


def slices(neurons: int, at_once: int | None, parts: int, part: int) -> list[slice]:
    """The neurons whose sums are held at once, in part ``part`` of ``parts`` of a model.

    Parts are whole slices, as equal in number as can be: so results do not depend on how many there are.

    Raises:
        UserError: no such part, or fewer slices than parts.
    """
    step = at_once or neurons
    every = [slice(start, min(start + step, neurons)) for start in range(0, neurons, step)]
    if parts > len(every):
        raise UserError(
            f"neurons.parts: found {parts}, expected at most {len(every)}: so many times"
            f" neurons.explain.neurons_at_once are in the {neurons} neurons of a model; lower either"
        )
    if not 0 <= part < parts:
        raise UserError(f"--part {part} of --parts {parts}: expected a part from 0 to --parts minus 1")
    return every[len(every) * part // parts : len(every) * (part + 1) // parts]


Explanations = tuple["pd.DataFrame", "pd.DataFrame", dict[str, "np.ndarray"]]
"""Explanations (before :func:`finish`), top tokens, and profiles by name, of neurons of one model."""


def explain_neurons(
    source: Activations,
    found: list[Labelling],
    text: Text,
    kurtosis: np.ndarray,
    settings: Settings,
    chosen: list[slice],
) -> Explanations:
    """Explain the neurons of ``chosen``, which follow one another; ``kurtosis`` is that of all neurons."""
    import numpy as np
    import pandas as pd

    split = Split(source, len(text.tokens), settings.held_out)
    explanations, tokens, profiles = [], [], []
    for neurons in progress(chosen, len(chosen), f"{source.name}: parts of the neurons explained"):
        start = neurons.start
        reader = Reader(split, neurons, settings.device)
        sums = first_pass(reader, found)
        best = best_explanations(sums, found, settings.minimum_tokens)
        sums.to_host()
        explained = second_pass(reader, found, best, sums, text.roles)
        table = explanation_table(
            best, explained, found, sums.letter_response(found[0], _letters(best, found))
        )
        table = table.assign(**sums.position_columns())
        table.insert(0, "number", np.arange(start, start + len(table)))
        explanations.append(table)
        tokens.append(sums.top_tokens(settings.top_tokens, settings.top_count).assign(start=start))
        mean, std = sums.position_profile()
        profiles.append({"position_mean": mean, "position_std": std, "bins_on": explained.bins_on})
    table = pd.concat(explanations, ignore_index=True)
    table["position_candidate"] = kurtosis[chosen[0].start : chosen[-1].stop] < 2
    top = pd.concat(tokens, ignore_index=True)
    top.insert(0, "number", top.pop("neuron") + top.pop("start"))
    top["text"] = [text.texts[token] for token in top["token"]]
    tables = [_with_place(part, source) for part in (table, top)]
    arrays = {name: np.concatenate([part[name] for part in profiles]) for name in profiles[0]}
    return tables[0], tables[1], arrays


def _with_place(table: pd.DataFrame, source: Activations) -> pd.DataFrame:
    number = table.pop("number")
    table.insert(0, "model", source.name)
    table.insert(1, "layer", (number // source.width).astype("int32"))
    table.insert(2, "neuron", (number % source.width).astype("int32"))
    return table


def _names(best: Best, found: list[Labelling]) -> list[tuple[str, str, str]]:
    """Which token, group and name of each neuron's best explanation."""
    everything: list[tuple[str, str, str]] = [
        (labelling.which, group, name)
        for labelling in found
        for group, name in zip(labelling.features.groups, labelling.features.names, strict=True)
    ]
    everything += [("position", "position", "position"), ("none", "none", "none")]
    return [everything[number] for number in best.feature]


def _letters(best: Best, found: list[Labelling]) -> list[str | None]:
    names = _names(best, found)
    return [letter(name, group) if which == "current" else None for which, group, name in names]


def explanation_table(
    best: Best, explained: Explained, found: list[Labelling], letter_response: np.ndarray
) -> pd.DataFrame:
    """What both passes found, a row per neuron."""
    import pandas as pd

    which, group, name = zip(*_names(best, found), strict=True)
    role = [
        syntax.ROLES[number] if w == "current" else None
        for number, w in zip(explained.role, which, strict=True)
    ]
    table = pd.DataFrame(
        {
            "feature": name,
            "which": which,
            "group": group,
            "variance_reduction": explained.reduction[0],
            "variance_reduction_held_out": explained.reduction[1],
            "difference": best.difference,
            "p": explained.p,
            "role": pd.array(role, dtype="str"),  # a string column with no string in it, too
            "role_share": explained.role_share,
            "letter_response": letter_response,
        }
    )
    table.loc[table["which"] != "current", "role_share"] = float("nan")
    return table


def finish(table: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The explanations of all neurons of a model, with what follows from them together."""
    table = table.assign(
        **{f"{name}_adjusted": benjamini_hochberg(table[name].to_numpy()) for name in ("p", "position_p")}
    )
    label_families(table, settings)
    return table


def label_families(table: pd.DataFrame, settings: Settings) -> None:
    """Add the columns ``family`` and ``evidence``."""
    strong = (table["p_adjusted"] <= settings.q) & (
        table["variance_reduction_held_out"] >= settings.minimum_reduction
    )
    # Position is more than a mean that differs: whether the neuron fires must tell where it is.
    strong &= (table["which"] != "position") | (table["position_p_adjusted"] <= settings.q)
    columns = [table[name] for name in ("which", "group", "feature", "difference")]
    table["family"] = [
        family(which, group, name, difference > 0, holds_up)
        for which, group, name, difference, holds_up in zip(*columns, strong, strict=True)
    ]
    table["evidence"] = [_evidence(row) for row in table.itertuples()]


def _evidence(row: Any) -> str:
    if row.which == "none":
        return "never varies"
    direction = (
        "" if row.which == "position" else ", fires on it" if row.difference > 0 else ", silenced by it"
    )
    role = (
        f", {100 * row.role_share:.0f} % of it on {row.role}s" if row.family == "unigram" and row.role else ""
    )
    token = {"current": "", "previous": "previous token: ", "position": ""}[row.which]
    return (
        f"{token}{row.feature}: variance reduction {row.variance_reduction:.2f}, held out"
        f" {row.variance_reduction_held_out:.2f}{direction}{role}; adjusted p {row.p_adjusted:.1g};"
        f" information about position {row.position_mi:.3f} nats, adjusted p {row.position_p_adjusted:.1g}"
    )


def explain(
    source: Activations,
    moments: list[Path],
    model: Path,
    text: Text,
    shared: Features,
    settings: Settings,
    parts: int = 1,
    part: int = 0,
) -> Explanations:
    """Explain part ``part`` of ``parts`` of the neurons of ``source``.

    Args:
        source: activations of the model.
        moments: its moments, a file per token range.
        model: its ledger.
        text: the tokens and their labels.
        shared: see :func:`shared_features`.
        settings: what neurons are tested against.
        parts: see :func:`slices`.
        part: the same.
    """
    chosen = slices(source.neurons, settings.neurons_at_once, parts, part)
    own = Moments(moments, source)
    kurtosis = power_moments(own.arrays["pre_powers"], int(own.arrays["count"][1]))["kurt"]
    needs_embedding = settings.small_norm or (settings.topics is None and settings.topic_sets > 0)
    of_model = (
        model_features(text, embedding_matrix(model, len(text.texts)), settings) if needs_embedding else []
    )
    found = labellings(text, token_level.join([shared, *of_model]))
    return explain_neurons(source, found, text, kurtosis, settings, chosen)


def read_parts(files: list[Path], source: Activations, settings: Settings) -> Explanations:
    """Put together what ``neurons.explain_part`` wrote of a model, three files of each part.

    Raises:
        UserError: a part is missing, there twice, of other activations or settings, or mixed with another.
    """
    import numpy as np
    import pandas as pd

    found, end = [], 0
    for *written, path in zip(files[::3], files[1::3], files[2::3], strict=True):
        arrays, facts = read_tensors(path, kind="explained")
        source.require_origin(path, facts["activations"])
        if facts["settings"] != deciding(settings):
            raise UserError(f"{path}: was made with other settings than these; make the part anew")
        for table, digest in zip(written, facts["tables"], strict=True):
            if file_digest(table) != digest:
                raise UserError(f"{table}: is not the table that belongs to {path}; make the part anew")
        start, stop = facts["neurons"]
        if start != end:
            raise UserError(
                f"{path}: begins at neuron {start}, expected {end}; give every part once, in order"
            )
        found.append(arrays)
        end = stop
    if end != source.neurons:
        raise UserError(
            f"--parts: end at neuron {end} of {source.name!r}, expected {source.neurons}; give all"
        )
    tables = [
        pd.concat([read_table(path).to_pandas() for path in files[kind::3]], ignore_index=True)
        for kind in (0, 1)
    ]
    return *tables, {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def main(
    activations: list[Path],
    moments: list[Path],
    models: list[Path],
    rows: Path,
    tokenizer: Path,
    parts: list[Path],
    settings: Settings,
    explanations: Output,
    tokens: Output,
    profiles: Output,
) -> None:
    """Explain all models, or put together what was explained part by part.

    ``moments`` lists the files of all ranges model by model, as ``activations``; ``parts`` those of
    ``neurons.explain_part``, if any, model by model and part by part.
    """
    import pandas as pd

    sources = [Activations(path) for path in activations]
    for source in sources:
        if source.store.made_from["tokens"] != sources[0].store.made_from["tokens"]:
            raise UserError(f"{source.store.path}: holds other tokens than {sources[0].store.path}")
    if parts:
        each = len(parts) // len(sources)
        found = [
            read_parts(parts[n * each : (n + 1) * each], source, settings) for n, source in enumerate(sources)
        ]
    else:
        text = read_text(sources[0], rows, tokenizer, settings)
        shared = shared_features(text, settings)
        ranges = len(moments) // len(sources)
        found = [
            explain(source, moments[n * ranges : (n + 1) * ranges], model, text, shared, settings)
            for n, (source, model) in enumerate(zip(sources, models, strict=True))
        ]
    table = pd.concat([finish(table, settings) for table, _, _ in found], ignore_index=True)
    table.to_parquet(explanations, index=False)
    pd.concat([top for _, top, _ in found], ignore_index=True).to_parquet(tokens, index=False)
    facts = {
        "kind": "explanation profiles",
        "activations": [source.store.fingerprint for source in sources],
        "code": code_digest("neurons.explain"),
    }
    arrays = {
        f"{source.name}.{name}": values
        for source, (_, _, own) in zip(sources, found, strict=True)
        for name, values in own.items()
    }
    write_tensors(profiles, arrays, facts)


if __name__ == "__main__":
    run(main)
