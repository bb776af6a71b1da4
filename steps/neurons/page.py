"""One self-contained page on which to search all neurons and look at each.

Reads the neuron table, the top examples, the edges between models, the histograms, the activations (for
the strength of the tokens around each example) and, where there are some, the logit effects and the
families of neurons. Writes one HTML file: a table that can be searched, filtered and sorted, and for
each neuron its statistics, histogram, examples, logit effects, partners and family.

The data stand in the page as JSON, texts are written as texts, and a Content-Security-Policy allows the
page's own script and style, by their hashes, and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.core.errors import UserError, size
from steps.core.pages import render
from steps.core.runner import Output, logger, progress, run
from steps.core.stores import Folder, read_json, read_table, require_rows
from steps.core.text import visible
from steps.language_models.text.tokenizers import TokenTexts
from steps.neurons.activations.bins import Histograms, bin_edges
from steps.neurons.activations.store import Activations, open_all, post_activations
from steps.neurons.selection.tables import KEYS, neuron_keys, read_examples, require_histograms
from steps.neurons.selection.universal import SET_COLUMNS, UniversalSettings, chosen, describe

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


READ = {
    "neurons": [*KEYS, "cluster", *SET_COLUMNS],
    "edges": [*(f"{key}_{side}" for side in "ab" for key in KEYS), "corr"],
    "logits": [*KEYS, "side", "rank", "token_id", "value"],
    "families": [*KEYS, "family", "evidence"],
}
"""Columns that each table must have."""


LEVELS = 9
"""Strengths of highlighting that are told apart: one digit each, and a class of the report's style."""


STATISTICS = {
    "excess_corr": "excess correlation",
    "mean_corr": "correlation, mean over partners",
    "mean_baseline": "correlation, rotated baseline",
    "activation_frequency": "activation frequency",
    "mean": "mean",
    "var": "variance",
    "skew": "skew",
    "kurt": "kurtosis",
    "input_bias": "input bias",
    "w_in_norm": "input norm",
    "w_out_norm": "output norm",
    "l2_penalty": "L2 penalty",
    "in_out_sim": "cos(in, out)",
    "vocab_var": "W_U variance",
    "vocab_skew": "W_U skew",
    "vocab_kurt": "W_U kurtosis",
    "null_space_fraction": "null space of W_U",
    "null_space_chance": "null space of W_U, by chance",
    "null_space_k": "null space of W_U, directions",
    "w_in_max_cos": "input, largest cosine",
    "w_out_max_cos": "output, largest cosine",
}
"""Columns of the neuron table that the page shows where they are there, and what it calls them."""


IN_TABLE = ("excess_corr", "activation_frequency", "kurt", "l2_penalty", "vocab_kurt")
"""Those that can be sorted by; more would leave no room for what a neuron fires on."""


class Settings(UniversalSettings):
    """What the page holds."""

    neurons: int = Field(
        3000,
        ge=1,
        description="neurons on the page at most: universal ones, then those with the largest excess",
    )
    examples: int = Field(8, ge=1, description="examples per neuron")
    context: int = Field(8, ge=0, description="tokens shown before and after the strongest one")


def select(table: pd.DataFrame, universal: np.ndarray, limit: int) -> pd.DataFrame:
    """The rows that are shown, in the order of the page.

    First the universal ones of the reference, then its others, each by excess, then the other models;
    ``universal`` (of all rows) becomes a column ``shown_universal``.
    """
    import numpy as np

    rows = table.assign(shown_universal=universal)
    excess = rows["excess_corr"].to_numpy(float, na_value=-np.inf)
    order = np.lexsort((np.arange(len(rows)), -excess, ~universal))
    return rows.iloc[order[:limit]].reset_index(drop=True)


def strengths(source: Activations, number: np.ndarray, token: np.ndarray, around: int) -> np.ndarray:
    """How strongly neurons fire around their examples.

    Args:
        source: the model's activations.
        number: the neuron of each example, ``[examples]``.
        token: where it fires.
        around: tokens shown before and after, within the row.

    Returns:
        int ``[examples, 2 * around + 1]``: 0 to ``LEVELS``, the post-activation over the largest one
        shown; -1 where the row begins or ends.
    """
    import numpy as np

    places = token[:, None] + np.arange(-around, around + 1)
    inside = places // source.n_ctx == token[:, None] // source.n_ctx
    names = ("pre", "up") if source.gated else ("pre",)
    kept = [np.zeros(places.shape, np.float32) for _ in names]
    layer = number // source.d_mlp
    # Of a store a block is read at once; what a model computes is no more than the rows that are shown.
    step = source.block_tokens if source.stored_here else source.n_ctx
    part = token // step
    for k in progress(np.unique(part), len(np.unique(part)), f"{source.name}: places of examples"):
        whole = slice(int(k) * step, min((int(k) + 1) * step, len(source.tokens)))
        for this in np.unique(layer[part == k]):
            here = np.flatnonzero((part == k) & (layer == this))
            stored = source.excerpt(int(this), whole)
            at = np.clip(places[here] - whole.start, 0, len(stored[0]) - 1)
            for values, found in zip(kept, stored, strict=True):
                values[here] = found[at, number[here, None] % source.d_mlp]
    post = np.where(inside, post_activations(source.activation, *kept), 0)
    largest = np.maximum(post.max(1, keepdims=True), 1e-12)
    return np.where(inside, np.rint(LEVELS * (post / largest).clip(0, 1)), -1).astype(int)


def example_lists(
    examples: pd.DataFrame, rows: pd.DataFrame, sources: dict[str, Activations], settings: Settings
) -> list[list[list[Any]]]:
    """For each of ``rows`` its examples ``[value, place of the strongest token, token ids, digits]``."""
    import numpy as np

    found: list[list[list[Any]]] = [[] for _ in range(len(rows))]
    places = rows[KEYS].assign(place=np.arange(len(rows)))
    kept = (
        examples[examples["rank"] < settings.examples].merge(places, on=KEYS).sort_values(["place", "rank"])
    )
    for name, part in kept.groupby("model", sort=False):
        source = sources[str(name)]
        number = (part["layer"] * source.d_mlp + part["neuron"]).to_numpy(np.int64)
        token = part["token_index"].to_numpy(np.int64)
        around = min(settings.context, source.n_ctx)  # what lies beyond the row takes memory only
        levels = strengths(source, number, token, around)
        for place, value, where, digits in zip(part["place"], part["value"], token, levels, strict=True):
            inside = np.flatnonzero(digits >= 0)
            first = where - around + inside[0]
            ids = source.tokens[first : first + len(inside)].tolist()
            text = "".join(map(str, digits[inside]))
            found[place].append([_short(value), int(around - inside[0]), ids, text])
    return found


def histogram_lists(histograms: Histograms, rows: pd.DataFrame, d_mlp: dict[str, int]) -> list[list[Any]]:
    """For each of ``rows`` ``[number of the first bar, counts]``.

    A bar holds two bins, so that one bar still ends at 0; the bin below all edges is bar 0.
    """
    import numpy as np

    found: list[list[Any]] = [[] for _ in range(len(rows))]
    for name, part in rows.groupby("model", sort=False):
        counts = histograms.counts(str(name))
        number = (part["layer"] * d_mlp[str(name)] + part["neuron"]).to_numpy(np.int64)
        whole = counts[:, number].sum(0, dtype=np.int64)
        bars = np.concatenate([whole[:, :1], whole[:, 1:].reshape(len(whole), -1, 2).sum(2)], axis=1)
        for place, bar in zip(part.index, bars, strict=True):
            full = np.flatnonzero(bar)
            found[place] = [int(full[0]), bar[full[0] : full[-1] + 1].tolist()] if len(full) else [0, []]
    return found


def partner_lists(rows: pd.DataFrame, edges: pd.DataFrame, models: list[str]) -> list[list[list[Any]]]:
    """For each of ``rows`` its partners ``[model, layer, neuron, correlation, whether mutual]``.

    The best match in each other model, known for the reference, and the mutual best matches of edges.
    """
    import numpy as np

    place = {key: index for index, key in enumerate(rows[KEYS].itertuples(index=False, name=None))}
    number = {name: index for index, name in enumerate(models)}
    found: list[dict[tuple[int, int, int], list[Any]]] = [{} for _ in range(len(rows))]

    def add(here: int, model: str, layer: int, neuron: int, corr: float, mutual: bool) -> None:
        key = (number[model], int(layer), int(neuron))
        mutual = mutual or bool(found[here].get(key, [False])[-1])
        found[here][key] = [*key, _short(corr), int(mutual)]

    for name in models:
        if f"neuron[{name}]" in rows:
            known = rows[rows[f"neuron[{name}]"].notna()]
            columns = (known[f"{what}[{name}]"] for what in ("layer", "neuron", "max_corr"))
            for here, layer, neuron, corr in zip(known.index, *columns, strict=True):
                add(here, name, layer, neuron, corr, mutual=False)
    for edge in edges.itertuples():
        a = (edge.model_a, edge.layer_a, edge.neuron_a)
        b = (edge.model_b, edge.layer_b, edge.neuron_b)
        for one, other in ((a, b), (b, a)):
            if one in place:
                add(place[one], *other, edge.corr, mutual=True)
    order = np.argsort(models, kind="stable").argsort()
    return [sorted(each.values(), key=lambda p: (order[p[0]], -(p[3] or 0))) for each in found]


def content(
    rows: pd.DataFrame,
    everything: int,
    edges: pd.DataFrame,
    examples: pd.DataFrame,
    histograms: Histograms,
    sources: dict[str, Activations],
    settings: Settings,
) -> dict[str, Any]:
    """What the page's script reads: lists, since keys repeated for every neuron would double the page."""
    models = list(sources)
    number = {name: index for index, name in enumerate(models)}
    shown = [name for name in STATISTICS if name in rows]
    columns = [[_short(value) for value in rows[name]] for name in shown]
    ranks = [
        [_percent(value) for value in rows[f"percentile[{name}]"]] if f"percentile[{name}]" in rows else None
        for name in shown
    ]
    labels = [name for name in histograms.sources if f"activation_frequency[{name}]" in rows]
    by_source = [[_short(value) for value in rows[f"activation_frequency[{name}]"]] for name in labels]
    lists = example_lists(examples, rows, sources, settings)
    universal = int(rows["shown_universal"].sum())
    return {
        "models": models,
        "everything": everything,
        "set": describe(settings.universal_set, settings.top_share, universal),
        "statistics": [[name, STATISTICS[name], int(name in IN_TABLE)] for name in shown],
        "sources": [visible(name) for name in labels],
        "edge": float(bin_edges()[0]),
        "bar": float(2 * (bin_edges()[1] - bin_edges()[0])),
        "neurons": [
            [number[key[0]], int(key[1]), int(key[2]), int(flag)]
            for key, flag in zip(rows[KEYS].to_numpy().tolist(), rows["shown_universal"], strict=True)
        ],
        "clusters": [None if value != value else int(value) for value in rows["cluster"].astype(float)],
        "values": columns,
        "percentiles": ranks,
        "by_source": by_source,
        "histograms": histogram_lists(histograms, rows, {n: s.d_mlp for n, s in sources.items()}),
        "examples": lists,
        "partners": partner_lists(rows, edges, models),
    }


def logit_lists(effects: pd.DataFrame, rows: pd.DataFrame) -> list[list[list[list[Any]]]]:
    """For each of ``rows`` the tokens that it promotes and suppresses most, ``[[id, effect], ...]`` each."""
    import numpy as np

    found: list[list[list[list[Any]]]] = [[[], []] for _ in range(len(rows))]
    places = rows[KEYS].assign(place=np.arange(len(rows)))
    kept = effects.merge(places, on=KEYS).sort_values(["place", "side", "rank"])
    for place, side, token, value in zip(
        kept["place"], kept["side"], kept["token_id"], kept["value"], strict=True
    ):
        found[place][int(side == "suppressed")].append([int(token), _short(value)])
    return found


def family_lists(families: pd.DataFrame, rows: pd.DataFrame) -> list[list[str] | None]:
    """For each of ``rows`` ``[family, what explains the neuron, in words]``, or nothing."""
    joined = rows[KEYS].merge(families, on=KEYS, how="left", validate="one_to_one")
    return [
        None
        if row.family is None or row.family != row.family
        else [visible(str(row.family)), visible(explanation(row))]
        for row in joined.itertuples()
    ]


PIECES = {
    "whole word": "whole words",
    "first piece": "first pieces of words",
    "later piece": "later pieces of words",
    "other": "tokens that are no part of a word",
}
"""The roles of ``neurons.explain`` as what a neuron fires on."""


def explanation(row: Any) -> str:
    """What explains a neuron, and why it has no family, from its row of ``neurons.explain``'s table.

    A table of family and evidence alone gives its evidence.
    """
    if getattr(row, "feature", None) is None:
        return "" if row.evidence != row.evidence else str(row.evidence)
    if row.which == "none":
        return "It never varies."
    feature = {
        "current": f"“{row.feature}”",
        "previous": f"“{row.feature}”, of the previous token",
        "position": "the position in the row",
    }[row.which]
    if row.family != "none":
        start = f"Best feature: {feature}."
    elif row.which != "position" and row.difference <= 0:
        start = f"Its best feature silences it: {feature}."
    else:
        start = f"Even its best feature explains too little of it on held-out tokens: {feature}."
    sentences = [start]
    if row.family == "unigram" and row.role in PIECES:
        share = f"{100 * row.role_share:.0f} %"
        sentences.append(f"{share} of its response to the feature falls on {PIECES[row.role]}.")
    sentences += [
        f"Variance reduction {row.variance_reduction_held_out:.2f} on held-out tokens (adjusted p"
        f" {row.p_adjusted:.1g}), {row.variance_reduction:.2f} on those by which the feature was chosen.",
        f"Whether it fires tells {row.position_mi:.3f} nats about the position (adjusted p"
        f" {row.position_p_adjusted:.1g}).",
    ]
    return " ".join(sentences)


def token_ids(data: dict[str, Any]) -> set[int]:
    """The ids of all tokens that the page shows."""
    found = {token for lists in data["examples"] for example in lists for token in example[2]}
    effects = data.get("logits") or []
    return found | {token for sides in effects for side in sides for token, _ in side}


def page(data: dict[str, Any], title: str) -> str:
    """The page; ``<`` in the data is written as its number, so that nothing in them can end a script."""
    from markupsafe import Markup

    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    here = Path(__file__)
    html = render(
        here.with_name("page.html"),
        style=here.with_name("page.css"),
        script=here.with_name("page.js"),
        title=title,
        data=Markup(text),
    )
    return html.encode("utf-8", "replace").decode()


def _short(value: Any) -> float | None:
    """A number with four digits; nothing where it is missing."""
    number = float("nan") if value is None or value != value else float(value)
    return float(f"{number:.4g}") if abs(number) < float("inf") else None


def _percent(value: Any) -> int | None:
    return None if value != value else round(float(value))


def require_tokenizer(path: Path, sources: dict[str, Activations]) -> None:
    """Refuse a tokenizer that is not that of the models; where these are gone, one that lacks tokens.

    Raises:
        UserError: it is another one.
    """
    from steps.interp.loading import load_tokenizer

    vocabulary, wanted = load_tokenizer(path), Folder(path, "tokenizer").fingerprint
    for source in sources.values():
        ledger = (source.store.folder / source.store.attributes["model_ledger"]).resolve()
        if ledger.is_file() and read_json(ledger)["attributes"]["tokenizer"] != wanted:
            raise UserError(f"{path}: not the tokenizer that {ledger} was made with; give that one")
        last = int(source.tokens.max())
        if vocabulary.id_to_token(last) is None:
            raise UserError(f"{path}: lacks token {last} of {source.store.path}; give that of the same study")


def main(
    study: str,
    tokenizer: Path,
    activations: list[Path],
    neurons: Path,
    examples: Path,
    edges: Path,
    histograms: Path,
    logits: list[Path],
    families: list[Path],
    settings: Settings,
    out: Output,
) -> None:
    """Write the page; ``logits`` and ``families`` hold one table each, or none."""
    from steps.interp.loading import load_tokenizer

    sources = open_all(activations)
    require_tokenizer(tokenizer, sources)
    everything = neuron_keys(sources)

    def read(kind: str, path: Path) -> pd.DataFrame:
        columns = None if kind in ("neurons", "families") else READ[kind]  # further ones are shown
        table: pd.DataFrame = read_table(path, columns, READ[kind]).to_pandas()
        keys = table[KEYS].drop_duplicates() if kind == "logits" else table[KEYS]
        require_rows(path, keys, everything, "the activations")
        return table

    table, tops = read("neurons", neurons), read_examples(examples, sources)
    matches = read_table(edges, READ["edges"]).to_pandas()
    for side in "ab":
        ends = matches[[f"{key}_{side}" for key in KEYS]].set_axis(KEYS, axis=1).drop_duplicates()
        require_rows(edges, ends, everything, "the activations", every=False)
    require_histograms(histograms, sources)
    judged = table["excess_corr"].notna().to_numpy()
    universal = judged.copy()
    universal[judged] = chosen(table[judged], settings.universal_set, settings.top_share)
    rows = select(table, universal, settings.neurons)
    data = content(
        rows,
        len(table),
        matches,
        tops,
        Histograms(histograms),
        sources,
        settings,
    )
    data["logits"] = logit_lists(read("logits", logits[0]), rows) if logits else None
    data["families"] = family_lists(read("families", families[0]), rows) if families else None
    texts = TokenTexts(load_tokenizer(tokenizer))
    data["tokens"] = {number: visible(texts.readable(number)) for number in sorted(token_ids(data))}
    text = page(data, f"Neurons of study {study}")
    out.write_text(text, "utf-8")
    logger.info("%d of %d neurons on a page of %s", len(rows), len(table), size(len(text.encode())))


if __name__ == "__main__":
    run(main)
