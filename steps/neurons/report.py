"""The chapter's headline figures and its part of the report page.

Reads the tables, the correlation files and activations, and the figures. Writes ``metrics.json`` and
``report.json``. Metrics, for the reference model unless the name says otherwise:

==========================  =========================================================================
name                        meaning
==========================  =========================================================================
``neurons_per_model``       neurons of the reference
``models``                  how many models were compared, the reference included
``tokens``                  tokens kept after exclusion
``draws``                   random rotations of each partner
``excess_max``              largest excess correlation (with draw 0, as in the paper)
``excess_mean``             its mean over neurons
``universal_at_half``       neurons whose excess is above the paper's threshold of 0.5
``universal_calibrated``    neurons of the privileged basis: mean largest correlation above its null, at a
                            false discovery rate of q where a layer is rotated as a whole; where some of
                            its neurons are shared, more of the others are called than that
                            (docs/neurons.md: 8 % with a sixth shared, 30 % with half)
``same_layer_match_share``  share of best matches that lie in the layer of the same number; neurons without
                            one (they or all partner neurons are constant) do not count
``clusters``                clusters over all models
``clustered_neurons``       neurons of all models that are in one
``explained_above_half``    share of the universal neurons (setting ``universal_set``) whose best explanation
                            reduces variance by more than 0.5 on held-out tokens; 0 where there are none
``family_count_FAMILY``     neurons whose best explanation puts them into a family: ``unigram``, ``alphabet``,
                            ``previous_token``, ``position``, ``syntax``, ``context``, ``bos``
``prediction suppression``  neurons of each role by the paper's rule, ``partition``, too; and, with
                            ``_width_free`` behind the name, by the rule that does not depend on width
``entropy_candidates``      neurons that write into the null space of the unembedding more than random
                            directions do, at false discovery rate q (``neurons.roles``)
``entropy_ranked``          neurons within all limits of the configured entropy query, chance included
``attention_score_max``     largest heuristic score of a neuron and a later head, towards BOS; null where
                            no head has one (rotary positions, one layer)
``attention_neurons``       neurons whose score with a later head is beyond random directions at rate q, over
                            all later heads; null as before
==========================  =========================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.core.errors import UserError
from steps.core.provenance import card, provenance
from steps.core.runner import Output, run
from steps.core.stores import Folder, read_json, read_table, require_rows, write_json
from steps.core.text import plural
from steps.neurons.activations.store import Activations, open_all, post_activations
from steps.neurons.correlations.pairs import Pair, load_pairs, require_one_reference, require_sources
from steps.neurons.explanations.families import FAMILIES, family_counts
from steps.neurons.figures.captions import CAPTIONS
from steps.neurons.selection.rules import COUNTED, ROLES, role_metrics
from steps.neurons.selection.tables import KEYS, neuron_keys, read_examples, read_excess, read_members
from steps.neurons.selection.universal import UniversalSettings, chosen, describe

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Settings(UniversalSettings):
    """What the report shows."""

    clusters: int = Field(12, ge=0, description="clusters shown with their snippets")
    snippets: int = Field(3, ge=1, description="snippets per cluster")
    context: int = Field(8, ge=1, description="tokens shown before and after the strongest one")


def metrics(excess: pd.DataFrame, clusters: pd.DataFrame, pairs: list[Pair], models: int) -> dict[str, Any]:
    """The flat figures of the module's docstring."""
    import numpy as np

    same = np.concatenate(
        [
            (np.arange(pair.neurons[0]) // pair.d_mlp[0] == pair.row_top_index[:, 0] // pair.d_mlp[1])[
                pair.matched
            ]
            for pair in pairs
        ]
    )
    return {
        "neurons_per_model": len(excess),
        "models": models,
        "tokens": pairs[0].tokens,
        "draws": len(pairs[0].rotated_max),
        "excess_max": float(excess["excess_corr"].max()),
        "excess_mean": float(excess["excess_corr"].mean()),
        "universal_at_half": int(excess["universal"].sum()),
        "universal_calibrated": int(excess["privileged_basis"].sum()),
        "same_layer_match_share": float(same.mean()) if len(same) else 0.0,
        "clusters": int(clusters["cluster"].nunique()),
        "clustered_neurons": len(clusters),
    }


def explanation_metrics(explanations: pd.DataFrame, universal: np.ndarray) -> dict[str, Any]:
    """Figures about the reference's rows of ``explanations``; ``universal`` says which are universal."""
    held_out = explanations["variance_reduction_held_out"].to_numpy()[universal]
    share = float((held_out > 0.5).mean()) if len(held_out) else 0.0
    return {"explained_above_half": share, **family_counts(explanations["family"].tolist())}


def snippet(
    source: Activations, layer: int, neuron: int, token: int, around: int, texts: dict[int, str]
) -> list[list[Any]]:
    """Tokens around ``token`` in its row, each with the neuron's post-activation there over the largest."""
    row = token // source.n_ctx * source.n_ctx
    span = slice(max(row, token - around), min(row + source.n_ctx, token + around + 1))
    post = post_activations(source.activation, *source.excerpt(layer, span))[:, neuron]
    strength = (post / max(float(post.max()), 1e-12)).clip(0, 1)
    return [
        [texts.get(int(number), f"[{number}]"), round(float(value), 3)]
        for number, value in zip(source.tokens[span], strength, strict=True)
    ]


def cluster_table(
    clusters: pd.DataFrame,
    examples: pd.DataFrame,
    sources: dict[str, Activations],
    texts: dict[int, str],
    settings: Settings,
) -> dict[str, Any]:
    """The largest and most stable clusters with the text on which one of their members fires."""
    best = clusters.drop_duplicates("cluster").sort_values(
        ["models", "stability", "mean_corr"], ascending=False, kind="stable"
    )
    rows = []
    for _, first in best.head(settings.clusters).iterrows():
        members = clusters[clusters["cluster"] == first["cluster"]]
        shown = members.iloc[0]
        chosen = examples[
            (examples["model"] == shown["model"])
            & (examples["layer"] == shown["layer"])
            & (examples["neuron"] == shown["neuron"])
        ].head(settings.snippets)
        cells: list[dict[str, Any] | None] = [
            {
                "snippet": snippet(
                    sources[shown["model"]],
                    int(shown["layer"]),
                    int(shown["neuron"]),
                    int(token),
                    settings.context,
                    texts,
                )
            }
            for token in chosen["token_index"]
        ]
        cells += [None] * (settings.snippets - len(cells))
        named = [f"{m.model} L{m.layer}.{m.neuron}" for m in members.drop_duplicates("model").itertuples()]
        further = len(members) - len(named)
        names = ", ".join(named) + (f" and {further} more" if further else "")
        rows.append([names, float(first["mean_corr"]), float(first["stability"]), *cells])
    return {
        "title": "Clusters and what they fire on",
        "caption": "Clusters that span most models and recur most often under resampling. The snippets"
        " are those on which the first member fires most; the shade is its post-activation there.",
        "columns": [
            "members",
            "correlation",
            "stability",
            *(f"example {n + 1}" for n in range(settings.snippets)),
        ],
        "rows": rows,
    }


def model_table(models: dict[str, Path]) -> dict[str, Any]:
    """The models' hyperparameters (the paper's first table), from the ledger of each."""
    from steps.interp.loading import config

    rows = []
    for name, ledger in models.items():
        found = config(ledger)
        # By family: a configuration keeps keys that the family's code never reads.
        gpt2 = found.model_type == "gpt2"
        d_mlp = (found.n_inner or 4 * found.hidden_size) if gpt2 else found.intermediate_size
        positions = "learned" if gpt2 else "rotary"
        share = found.rope_parameters["partial_rotary_factor"] if found.model_type == "gpt_neox" else 1
        if share != 1:
            positions += f", {100 * share:g} % of each head"
        rows.append(
            [
                *(name, found.model_type, found.num_hidden_layers, found.num_attention_heads),
                *(found.hidden_size, d_mlp, found.num_hidden_layers * d_mlp, found.vocab_size),
                found.max_position_embeddings,
                found.activation_function if gpt2 else found.hidden_act,
                positions,
                "yes" if found.tie_word_embeddings else "no",
                str(found.dtype).removeprefix("torch."),
            ]
        )
    return {
        "title": "Models",
        "caption": "The models that are compared, the reference first, as their configurations say.",
        "columns": [
            *("model", "family", "layers", "heads", "d_model", "d_mlp", "neurons", "vocabulary"),
            *("n_ctx", "activation", "positions", "tied embeddings", "precision"),
        ],
        "rows": rows,
    }


def token_texts(tokenizer: Path, tokens: np.ndarray) -> dict[int, str]:
    """The text of each token id that occurs, of special tokens their names."""
    import numpy as np

    from steps.interp.loading import load_tokenizer
    from steps.language_models.text.tokenizers import TokenTexts

    texts = TokenTexts(load_tokenizer(tokenizer))
    return {number: texts.text(number) or texts.readable(number) for number in np.unique(tokens).tolist()}


def kinds_table(numbers: dict[str, Any]) -> dict[str, Any]:
    """How many of the reference's neurons have each family and role, as the metrics count them."""
    kinds = [
        (family.replace("_", " "), "explanation on held-out text", numbers[f"family_count_{family}"])
        for family in FAMILIES
    ]
    for suffix, limits in (("", "the paper's limits"), ("_width_free", "limits without width")):
        kinds += [(role, f"weights, {limits}", numbers[f"{role}{suffix}"]) for role in ROLES]
    tested = "weights, test against random directions"
    kinds.append(("entropy", tested, numbers["entropy_candidates"]))
    kinds.append(("attention (de)activation", tested, numbers["attention_neurons"]))

    def share(count: int | None) -> float | None:
        """Nothing where no head has a score, so that no neuron was tested."""
        return None if count is None else round(100 * count / numbers["neurons_per_model"], 1)

    return {
        "title": "Kinds of neurons",
        "caption": "Of the reference's neurons. One may be of several: what it fires on, what it writes.",
        "columns": ["kind", "called by", "neurons", "% of all"],
        "rows": [[*kind, share(kind[-1])] for kind in kinds],
    }


def counted(count: int, what: str) -> str:
    """A count and what is counted."""
    return f"{count:,} {plural(count, what)}"


def headline_cards(
    numbers: dict[str, Any],
    study: str,
    correlations: list[Path],
    activations: list[Path],
    explanations: Path,
    roles: Path,
    attention: Path,
    universal: str,
) -> list[dict[str, Any]]:
    """The chapter's headline figures for the report page, with where each came from.

    ``universal`` says which neurons are those of ``explained_above_half``.
    """
    excess = [
        (
            "Universal, excess above 0.5",
            numbers["universal_at_half"],
            plural(numbers["universal_at_half"], "neuron"),
            "The paper's rule, which 1 to 4 % of the neurons of its models pass.",
        ),
        (
            "Privileged basis",
            numbers["universal_calibrated"],
            plural(numbers["universal_calibrated"], "neuron"),
            f"More similar to their partners than {counted(numbers['draws'], 'rotation')} of them allow,"
            " tested at rate q of false discoveries; in layers that mix shared and other neurons the rate is"
            " higher (docs/neurons.md).",
        ),
        (
            "Largest excess",
            round(numbers["excess_max"], 4),
            "correlation",
            "Largest correlation minus its rotated baseline, mean over partners.",
        ),
    ]
    same_layer = (
        "Best match in the same layer",
        round(100 * numbers["same_layer_match_share"], 1),
        "%",
        "Share of best matches that lie in the layer of the same number.",
    )
    clusters = (
        "Clusters",
        numbers["clusters"],
        "",
        f"Groups of mutual best matches; they hold {counted(numbers['clustered_neurons'], 'neuron')}.",
    )
    explained = (
        "Explained above one half",
        round(100 * numbers["explained_above_half"], 1),
        "%",
        "Share of the universal neurons whose best feature explains most of their variance on held-out text;"
        f" {universal}.",
    )
    entropy = (
        "Entropy neurons",
        numbers["entropy_candidates"],
        plural(numbers["entropy_candidates"], "neuron"),
        "Their output lies in the unembedding's null space more than random directions do.",
    )
    largest = numbers["attention_score_max"]
    score = (
        "Largest attention score",
        None if largest is None else round(largest, 3),
        "",
        "Of all pairs of a neuron and a later head: how much the neuron turns the head to BOS.",
    )
    return [
        *(card(*facts, step="neurons.baseline", study=study, inputs=correlations) for facts in excess),
        card(*same_layer, step="neurons.report", study=study, inputs=correlations),
        card(*clusters, step="neurons.clusters", study=study, inputs=[*correlations, *activations]),
        card(*explained, step="neurons.explain", study=study, inputs=[explanations]),
        card(*entropy, step="neurons.roles", study=study, inputs=[roles]),
        card(*score, step="neurons.attention", study=study, inputs=[attention]),
    ]


def require_models(models: list[Path], sources: dict[str, Activations], tokenizer: Path) -> None:
    """Refuse models or a tokenizer other than those of the activations.

    Raises:
        UserError: a model is missing, in another place, or another one; or the tokenizer is another one.
    """
    from steps.interp.loading import weights_fingerprint

    if len(models) != len(sources):
        raise UserError(f"--models: found {len(models)}, expected {len(sources)}, as many as --activations")
    vocabulary = Folder(tokenizer, "tokenizer")
    for ledger, source in zip(models, sources.values(), strict=True):
        model = Folder(ledger, "language_model")
        if weights_fingerprint(model) != source.store.made_from["model"]:
            raise UserError(
                f"--models: {ledger} is not the model of {source.store.path}; give those that the activations"
                " were made from, in their order"
            )
        model.require_made_with(vocabulary)


def require_figures(figures: list[Path], page: Path) -> None:
    """Refuse what is no figure of the study of ``page``, which the report page would show.

    Raises:
        UserError: a file is something else, or lies elsewhere.
    """
    if page.suffix != ".html":
        raise UserError(f"--page: found {page}, expected the HTML file of neurons.page")
    for path in figures:
        if path.suffix != ".svg" or path.stem not in CAPTIONS:
            raise UserError(f"{path}: no figure of this chapter; expected an SVG that one of its steps drew")
        if path.resolve().parent.parent != page.resolve().parent:
            raise UserError(
                f"{path}: not below {page.parent}, where {page.name} lies; give those of one study"
            )


def read_attention(path: Path) -> dict[str, Any]:
    """The metrics of ``neurons.attention``.

    Raises:
        UserError: the file holds something else.
    """
    found = read_json(path)
    names = {"attention_score_max", "attention_neurons"}
    if not isinstance(found, dict) or set(found) != names:
        raise UserError(
            f"{path}: not the metrics of neurons.attention, expected an object of {', '.join(sorted(names))};"
            " delete it and run snakemake again"
        )
    return found


def main(
    study: str,
    section: str,
    models: list[Path],
    tokenizer: Path,
    activations: list[Path],
    correlations: list[Path],
    excess: Path,
    clusters: Path,
    examples: Path,
    explanations: Path,
    figures: list[Path],
    galleries: list[Path],
    page: Path,
    roles: Path,
    attention: Path,
    settings: Settings,
    metrics_out: Output,
    report: Output,
) -> None:
    """Write the metrics and the report; ``section`` is the chapter's configuration as JSON.

    ``models`` are the ledgers of the models in the order of ``activations``.
    """
    import json

    pairs, sources = load_pairs(correlations), open_all(activations)
    require_one_reference(pairs)
    require_sources(pairs, sources)
    require_models(models, sources, tokenizer)
    require_figures([*figures, *galleries], page)
    everything, of_attention = neuron_keys(sources), read_attention(attention)
    excess_table, cluster_members = read_excess(excess, pairs), read_members(clusters, sources)
    example_table = read_examples(examples, sources)
    explained = read_table(explanations, [*KEYS, "family", "variance_reduction_held_out"]).to_pandas()
    roles_table = read_table(roles, list(dict.fromkeys([*KEYS, *COUNTED]))).to_pandas()
    for path, keys, every in (
        (clusters, cluster_members[KEYS], False),
        (explanations, explained[KEYS], True),
        (roles, roles_table[KEYS], True),
    ):
        require_rows(path, keys, everything, "the activations", every)
    universal = chosen(excess_table, settings.universal_set, settings.top_share)
    numbers = metrics(excess_table, cluster_members, pairs, len(sources))
    numbers |= explanation_metrics(explained[explained["model"] == pairs[0].a], universal)
    numbers |= role_metrics(roles_table)
    numbers |= of_attention
    tokens = next(iter(sources.values())).tokens
    write_json(metrics_out, numbers)
    table = cluster_table(cluster_members, example_table, sources, token_texts(tokenizer, tokens), settings)
    steps = ["dump", "moments", "correlate", "baseline", "clusters", "histograms", "merge_histograms"]
    steps += ["table", "text", "explain", "merge_explanations", "weights", "roles", "logit_histograms"]
    steps += ["attention", "intervene", "figure", "gallery", "page", "report"]
    content = {
        "chapter": "neurons",
        "study": study,
        "title": "Universal neurons",
        "summary": f"Which of the {counted(numbers['neurons_per_model'], 'neuron')} of the model {pairs[0].a}"
        f" recur in {counted(len(pairs), 'other model')} that saw the same"
        f" {counted(numbers['tokens'], 'token')}. After Gurnee et al., arXiv 2401.12181. The threshold of"
        " 0.5 is the paper's; the calibrated test, clusters and their stability are ours.",
        "cards": headline_cards(
            numbers,
            study,
            correlations,
            activations,
            explanations,
            roles,
            attention,
            describe(settings.universal_set, settings.top_share, int(universal.sum())),
        ),
        "figures": [
            {
                "file": f"{path.parent.name}/{path.name}",
                "caption": CAPTIONS[path.stem],
                "data": f"{path.parent.name}/{path.with_suffix('.json').name}",
            }
            for path in [*figures, *galleries]
        ],
        "tables": [table, kinds_table(numbers), model_table(dict(zip(sources, models, strict=True)))],
        "pages": [
            {
                "file": page.name,
                "title": "All neurons, one by one",
                "note": "Search and sort them; see what each fires on, its histogram and its partners.",
            }
        ],
        "provenance": provenance(
            [f"neurons.{step}" for step in steps],
            json.loads(section),
            [*activations, *correlations, excess, clusters, examples, explanations, roles],
        ),
    }
    write_json(report, content)


if __name__ == "__main__":
    run(main)
