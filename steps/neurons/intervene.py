"""Interventions on single neurons of the reference model (docs/neurons.md).

Reads the model, the tokens of its activations, the neuron table and the table of roles. Every position of a
neuron is changed and every prediction measured: scale of the final norm, entropy and loss (nats), 0-based
rank of the true next token and 1 / (rank + 1). Averages leave out the last token of each row and those that
settings exclude. The mean that mean ablation puts in is ``post_mean`` of the neuron table, which is over kept
tokens (by default neither BOS nor new lines), but it replaces the value at every position, these included.

Neurons and what is done to them:

===============  ==========================  ========================================================
role             which                       interventions
===============  ==========================  ========================================================
``named``        those of the settings       all: fixed values, clamped from above, ReLU of the
                                             pre-activation, total and direct effect of mean ablation
``entropy``      where none is named: those  all
                 that the test of
                 neurons.roles calls so
``nearest``      where there is none either: all
                 the first candidates of the
                 query, or large l2 penalty,
                 least variance over the
                 vocabulary, last two layers
``opposite``     writes against the first    all
                 of them most, last two
                 layers
``control``      random, last two layers     fixed values, total and direct effect
``universal``    drawn from the universal    fixed to 0
                 set
``matched``      like these by layer,        fixed to 0
                 activation frequency and
                 norm of w_out
===============  ==========================  ========================================================

``interventions`` (parquet): ``model``, ``layer``, ``neuron``, ``role``, ``pair`` (universal with matched),
``kind`` (nominal, fixed, clamp, relu, mean, direct), ``value``, ``tokens``; means over tokens: ``scale``,
``entropy``, ``loss``, ``rank``, ``reciprocal_rank``, ``entropy_change``, ``loss_change``,
``entropy_change_abs``, ``loss_change_abs``; shares of tokens: ``entropy_lowered``, ``entropy_raised``,
``rank_changed``. The first row, ``nominal``, is the model as it is.

``reversals`` (parquet): the tokens at which the largest fixed value moves entropy most against the mean;
neurons in the order of ``interventions``, of each the largest change first:
``model``, ``layer``, ``neuron``, ``role``, ``token_index`` (into the tokens), ``row``, ``position``,
``token_id``, ``next_token_id``, ``entropy``, ``entropy_change``.

``suppression`` (parquet): a row for each class of the clearest suppression neurons by their weights
(neurons.roles; where there is none, of the one that comes nearest): ``model``, ``layer``, ``neuron``,
``vocab_kurt``, ``vocab_skew``, ``by_the_rule`` (whether it is one), ``class``, ``feature``, ``token_ids``,
``inside`` and ``outside`` (how many next tokens are in the class or not), ``mean_inside``, ``mean_outside``
(activation before them), ``difference``, ``welch_t``. The class ``feature`` are the tokens of the neuron's
best vocabulary feature, where it lowers their logits; ``lowered`` the tokens whose logits it lowers most.

``arrays`` (safetensors): ``cosines`` (float64 ``[neurons, vocabulary]``) of the output weights of the swept
neurons with the unembedding, whose layer and number are ``swept`` (int64 ``[neurons, 2]``); ``counts`` (int64
``[rows of suppression, 2, bins]``), next tokens in the class and not by activation before them, see
:func:`steps.interp.interventions.activation_by_class`. Facts: which neurons count as universal, and how many.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from steps.core.digest import code_digest, file_digest
from steps.core.digest import seed as derived_seed
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.stores import Folder, read_table, write_table
from steps.core.tensors import write_tensors
from steps.interp.forward import Forward, ModelSettings
from steps.interp.interventions import Intervention, Suppressed, Sweep, activation_by_class, counted, sweep
from steps.interp.loading import load_tokenizer
from steps.interp.weights import processed_ends
from steps.neurons.activations.store import Activations, first_rows, open_model
from steps.neurons.explanations.features import Features, vocabulary_features
from steps.neurons.selection.candidates import (
    control_neurons,
    entropy_candidates,
    matched,
    opposite,
    suppressed_tokens,
    vocabulary_cosines,
)
from steps.neurons.selection.rules import clearest
from steps.neurons.selection.universal import SET_COLUMNS, UniversalSettings, chosen

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


WHOLE = ("named", "entropy", "nearest", "opposite")
"""Roles on which every intervention is tried."""


KEYS = ["model", "layer", "neuron"]


OF_NEURONS = ["activation_frequency", "post_mean", *SET_COLUMNS]


OF_ROLES = ["l2_penalty", "w_out_norm", "vocab_var", "vocab_skew", "vocab_kurt", "role", "entropy"]


OF_ROLES += ["entropy_rank", "null_space_p", "best_feature", "best_feature_sign"]
"""The columns read of the neuron table and of that of roles."""


PARTS = ["scale", "entropy", "loss", "rank", "reciprocal_rank", "entropy_change", "loss_change"]


PARTS += ["entropy_change_abs", "loss_change_abs", "entropy_lowered", "entropy_raised", "rank_changed"]


LARGEST = 65504.0
"""Largest value that a neuron is set to: what float16 can hold."""


Value = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class Settings(UniversalSettings, ModelSettings):
    """Which neurons are changed, how, and on which tokens."""

    seed: int = Field(0, ge=0, description="of random neurons")
    rows: int = Field(
        32, ge=1, description="rows of tokens, from the start of those of the activations (paper: 19,532)"
    )
    values: list[Value] = Field(
        [-0.17, 0, 1, 2, 3, 4, 5, 6],
        min_length=1,
        description="values that neurons are fixed to (paper; -0.17: the minimum of GELU)",
    )
    clamps: list[Value] = Field([0.0], description="values from which on activations are clamped")
    named: list[tuple[int, int]] = Field(
        [],
        description="[layer, neuron] each; none: entropy candidates by their weights, or what comes nearest",
    )
    candidates: int = Field(2, ge=1, description="entropy neurons by their weights, where none are named")
    controls: int = Field(
        20, ge=0, description="random neurons of the last two layers as controls (paper: 20)"
    )
    ablated: int = Field(
        16, ge=0, description="universal neurons set to 0, and as many like them that are not"
    )
    suppression: int = Field(
        20, ge=0, description="suppression neurons looked at, the clearest (largest kurtosis) first"
    )
    class_tokens: int = Field(
        20,
        ge=1,
        description="tokens that a suppression neuron lowers most: its class beside that of its best feature",
    )
    reversals: int = Field(
        20, ge=0, description="tokens kept per neuron at which entropy moves against the mean"
    )
    exclude_bos: bool = Field(
        True, description="leave predictions at BOS, where there is one, out of averages (authors' code)"
    )
    exclude_tokens: list[int] = Field(
        [],
        description="ids of further tokens whose predictions are left out (authors' code, Pythia: 0 and 1)",
    )

    @field_validator("named")
    @classmethod
    def _named_once(cls, named: list[tuple[int, int]]) -> list[tuple[int, int]]:
        double = next((list(each) for each in named if named.count(each) > 1), None)
        if double is not None:
            raise ValueError(f"each neuron once ({double} is there twice); leave one of them")
        return named


def require_neurons(named: list[tuple[int, int]], layers: int, d_mlp: int) -> None:
    """Refuse named neurons that a model of these sizes does not have.

    Raises:
        UserError: one does not exist.
    """
    for layer, neuron in named:
        if not (0 <= layer < layers and 0 <= neuron < d_mlp):
            raise UserError(
                f"neurons.intervene.named: found {[layer, neuron]}, expected [layer, neuron] of a model with"
                f" {layers} layers of {d_mlp} neurons; name another"
            )


def choose(
    table: pd.DataFrame, forward: Forward, settings: Settings, name: str
) -> list[tuple[int, str, int | None]]:
    """Rows of the neuron table with their role and the number of their pair.

    Args:
        table: the model's rows of the neuron table with those of the table of roles.
        forward: the model.
        settings: what is wanted.
        name: the model's name.
    """
    import numpy as np
    import torch

    facts = forward.facts
    named = np.array([layer * facts.d_mlp + neuron for layer, neuron in settings.named], int)
    first, ranked = (named, True) if len(named) else entropy_candidates(table, settings.candidates)
    role = "named" if len(named) else "entropy" if ranked else "nearest"
    picked: list[tuple[int, str, int | None]] = [(int(number), role, None) for number in first]
    last = np.flatnonzero(table["layer"] > table["layer"].max() - 2)
    written = torch.cat([forward.reader.layer(layer).w_out for layer in range(facts.layers)]).double()
    if facts.norm == "layer":
        written = written - written.mean(-1, keepdim=True)
    against = opposite(written.cpu().numpy(), last, int(first[0]))
    if against not in first:
        picked.append((against, "opposite", None))
    seen = np.array([number for number, _, _ in picked])
    seed = derived_seed(settings.seed, "neurons.intervene", name, "controls")
    picked += [(int(n), "control", None) for n in control_neurons(table, settings.controls, seed, seen)]
    pairs = matched(
        chosen(table, settings.universal_set, settings.top_share),
        table["layer"].to_numpy(),
        table["activation_frequency"].to_numpy(),
        table["w_out_norm"].to_numpy(),
        settings.ablated,
        derived_seed(settings.seed, "neurons.intervene", name, "matched"),
    )
    for number, pair in enumerate(pairs):
        picked += [(pair[0], "universal", number), (pair[1], "matched", number)]
    return picked


def read_tables(neurons: Path, roles: Path, source: Activations) -> pd.DataFrame:
    """The model's rows of the neuron table with its columns of the table of roles, in the order of neurons.

    Raises:
        UserError: neurons or columns are missing in one of them.
    """
    import pandas as pd

    tables = []
    for flag, path, columns in (("--neurons", neurons, OF_NEURONS), ("--roles", roles, OF_ROLES)):
        whole = read_table(path, [*KEYS, *columns]).to_pandas()
        own = whole[whole["model"] == source.name].sort_values(["layer", "neuron"], ignore_index=True)
        if len(own) != source.neurons:
            raise UserError(
                f"{flag}: {path} has {len(own)} neurons of {source.name!r}, expected {source.neurons};"
                " delete it and run snakemake again"
            )
        tables.append(own)
    table, known = tables
    return pd.concat([table, known.drop(columns=KEYS)], axis=1)


def interventions_on(
    role: str, layer: int, neuron: int, mean: float, settings: Settings
) -> list[Intervention]:
    """What is done to a neuron of a role, see the module's docstring; ``mean`` is its mean activation."""
    if role in ("universal", "matched"):
        return [Intervention(layer, neuron, "fixed", 0.0)]
    done = [Intervention(layer, neuron, "fixed", value) for value in settings.values]
    done += [Intervention(layer, neuron, "mean", mean), Intervention(layer, neuron, "direct", mean)]
    if role in WHOLE:
        done += [Intervention(layer, neuron, "clamp", value) for value in settings.clamps]
        done.append(Intervention(layer, neuron, "relu"))
    return done


def intervention_table(
    name: str, done: list[tuple[str, int | None, Intervention]], result: Sweep
) -> pd.DataFrame:
    """The table ``interventions`` of the module's docstring."""
    import pandas as pd

    count = len(result.tokens)
    unchanged = dict.fromkeys(PARTS[5:], 0.0)
    records: list[dict[str, Any]] = [
        {"model": name, "role": "nominal", "kind": "nominal", "tokens": count, **result.nominal, **unchanged}
    ]
    for (role, pair, each), means in zip(done, result.means, strict=True):
        record = {"model": name, "layer": each.layer, "neuron": each.neuron, "role": role, "pair": pair}
        record |= {"kind": each.kind, "value": None if each.kind == "relu" else each.value, "tokens": count}
        record |= means
        record |= {f"{what}_change": means[what] - result.nominal[what] for what in ("entropy", "loss")}
        records.append(record)
    columns = ["model", "layer", "neuron", "role", "pair", "kind", "value", "tokens", *PARTS]
    kinds = dict.fromkeys(("layer", "neuron", "pair"), "Int32") | {"value": "float64"}
    return pd.DataFrame(records, columns=columns).astype(kinds)


def reversal_table(
    name: str,
    done: list[tuple[str, int | None, Intervention]],
    result: Sweep,
    rows: np.ndarray,
    count: int,
) -> pd.DataFrame:
    """The table ``reversals``: tokens whose entropy moves most against the mean change."""
    import numpy as np
    import pandas as pd

    tables = []
    for number in sorted(result.entropy_changes):  # they came out of a set
        change, (role, _, each) = result.entropy_changes[number], done[number]
        against = change * -np.sign(change.mean())
        order = np.argsort(-against, kind="stable")[:count]
        order = order[against[order] > 0]
        token = result.tokens[order]
        tables.append(
            pd.DataFrame(
                {
                    "model": name,
                    "layer": np.int32(each.layer),
                    "neuron": np.int32(each.neuron),
                    "role": role,
                    "token_index": token,
                    "row": (token // rows.shape[1]).astype("int32"),
                    "position": (token % rows.shape[1]).astype("int32"),
                    "token_id": rows.reshape(-1)[token],
                    "next_token_id": rows.reshape(-1)[token + 1],
                    "entropy": result.entropy[order],
                    "entropy_change": change[order],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def suppressed_classes(
    found: pd.DataFrame, forward: Forward, features: Features, count: int
) -> list[tuple[int, str, str | None, Suppressed]]:
    """The classes of suppression neurons.

    Args:
        found: their rows.
        forward: the model.
        features: of its vocabulary.
        count: tokens of the class ``lowered``.

    Returns:
        The place in ``found``, the class's name and feature, and the neuron with the class's tokens; of each
        neuron the class ``feature`` first, where it has one.
    """
    import numpy as np

    layers = found["layer"].to_numpy()
    lowered: dict[tuple[int, int], np.ndarray] = {}
    for layer in np.unique(layers):
        neurons = found["neuron"][layers == layer].tolist()
        tokens = suppressed_tokens(forward, int(layer), neurons, count)
        lowered |= {(int(layer), neuron): ids for neuron, ids in zip(neurons, tokens, strict=True)}
    classes: list[tuple[int, str, str | None, Suppressed]] = []
    for place, row in enumerate(found.to_dict("records")):
        key, feature = (int(row["layer"]), int(row["neuron"])), row["best_feature"]
        if row["best_feature_sign"] < 0 and feature in features.names:
            tokens = np.flatnonzero(features.matrix[:, features.names.index(feature)])
            classes.append((place, "feature", feature, Suppressed(*key, tuple(tokens.tolist()))))
        classes.append((place, "lowered", None, Suppressed(*key, tuple(lowered[key].tolist()))))
    return classes


def suppression_table(
    name: str,
    table: pd.DataFrame,
    forward: Forward,
    rows: np.ndarray,
    excluded: list[int],
    features: Features,
    settings: Settings,
) -> tuple[pd.DataFrame, np.ndarray]:
    """The table ``suppression`` of the module's docstring, and the counts of :func:`activation_by_class`."""
    import numpy as np
    import pandas as pd

    found, by_the_rule = clearest(table, "suppression", settings.suppression)
    found = found if by_the_rule else found.head(1)
    classes = suppressed_classes(found, forward, features, settings.class_tokens)
    looked = [each for *_, each in classes]
    sums, counts = np.zeros((0, 2, 3)), np.zeros((0, 2, 0), np.int64)
    if looked:
        sums, counts = activation_by_class(forward, rows, looked, excluded, settings.batch_tokens)
    count, mean, variance = sums[:, :, 0], sums[:, :, 1], sums[:, :, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt((variance / (count - 1)).sum(1))  # variance / (n - 1): of a mean, ddof 1
        welch = (mean[:, 0] - mean[:, 1]) / error
    of = found.iloc[[place for place, *_ in classes]]
    whole = pd.DataFrame(
        {
            "model": pd.Series([name] * len(looked), dtype="str"),
            "layer": pd.Series([each.layer for each in looked], dtype="int32"),
            "neuron": pd.Series([each.neuron for each in looked], dtype="int32"),
            "vocab_kurt": of["vocab_kurt"].to_numpy(),
            "vocab_skew": of["vocab_skew"].to_numpy(),
            "by_the_rule": pd.Series([by_the_rule] * len(looked), dtype="bool"),
            "class": pd.Series([kind for _, kind, _, _ in classes], dtype="str"),
            "feature": pd.Series([feature for *_, feature, _ in classes], dtype="str"),
            "token_ids": pd.Series([list(each.tokens) for each in looked], dtype="object"),
            "inside": count[:, 0].astype("int64"),
            "outside": count[:, 1].astype("int64"),
            "mean_inside": mean[:, 0],
            "mean_outside": mean[:, 1],
            "difference": mean[:, 0] - mean[:, 1],
            "welch_t": welch,
        }
    )
    return whole, counts


def main(
    model: Path,
    activations: Path,
    neurons: Path,
    roles: Path,
    tokenizer: Path,
    settings: Settings,
    interventions: Output,
    reversals: Output,
    suppression: Output,
    arrays: Output,
) -> None:
    """Intervene on neurons of the model."""
    import numpy as np
    import torch

    source = Activations(activations)
    forward = open_model(model, source, settings.device, settings.dtype)
    require_neurons(settings.named, forward.facts.layers, forward.facts.d_mlp)
    Folder(model, "language_model").require_made_with(Folder(tokenizer, "tokenizer"))
    table = read_tables(neurons, roles, source)
    rows = first_rows(source, settings.rows)
    excluded = [*settings.exclude_tokens]
    if settings.exclude_bos and source.bos is not None:
        excluded.append(source.bos)
    if not counted(rows, excluded).any():
        raise UserError("neurons.intervene: no token is left after exclusion; raise rows or exclude fewer")
    with torch.inference_mode():
        picked = choose(table, forward, settings, source.name)
        done = [
            (role, pair, each)
            for number, role, pair in picked
            for each in interventions_on(
                role,
                *divmod(number, source.d_mlp),
                float(table["post_mean"].iloc[number]),
                settings,
            )
        ]
        highest = max(settings.values)
        look_into = {
            place
            for place, (role, _, each) in enumerate(done)
            if role in WHOLE and each.kind == "fixed" and each.value == highest
        }
        result = sweep(forward, rows, [each for *_, each in done], excluded, settings.batch_tokens, look_into)
        embedding = processed_ends(forward.reader.ends(), forward.facts).w_e
        features = vocabulary_features(load_tokenizer(tokenizer), embedding)
        by_class, counts = suppression_table(source.name, table, forward, rows, excluded, features, settings)
        swept = [divmod(number, source.d_mlp) for number, role, _ in picked if role in (*WHOLE, "control")]
        cosines = vocabulary_cosines(forward, swept)
    whole = intervention_table(source.name, done, result)
    against = reversal_table(source.name, done, result, rows, settings.reversals)
    write_table(whole, interventions)
    write_table(against, reversals)
    write_table(by_class, suppression)
    facts = {
        "kind": "interventions",
        "interventions": file_digest(interventions),
        "suppression": file_digest(suppression),
        "universal_set": settings.universal_set,
        "top_share": settings.top_share,
        "universal": int(chosen(table, settings.universal_set, settings.top_share).sum()),
        "code": code_digest("neurons.intervene"),
    }
    of_swept = {
        "swept": np.array(list(cosines), np.int64).reshape(-1, 2),
        "cosines": np.stack(list(cosines.values())),  # some neuron is always looked at
    }
    write_tensors(arrays, {**of_swept, "counts": counts}, facts)


if __name__ == "__main__":
    run(main)
