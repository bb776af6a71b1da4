"""The paper's rules by which a neuron table tells neurons apart, and their width-free forms.

A rule is a pure function of columns. The paper's limits on the variance of cosines hold for the width of
its models: a random cosine has variance about 1 / d_model. The width-free forms, ours, multiply by d_model
(0.005 and 0.001 at the width of GPT-2 medium, 1024, become 5.12 and 1.02), and take the depth of a layer
relative to the last and percentiles in place of norms.

A limit on the variance says little of one neuron: about half of all random directions are below 1 / d_model.
So there is also a calibrated test, ours: whether more of a neuron's output lies in the
null space of the unembedding than of a random direction.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from steps.core.statistics import adjusted_p_values

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


EXCESS = 0.5
"""Excess correlation above which the paper says universal."""


KURTOSIS = 10.0
"""Kurtosis of cosines above which a neuron predicts or suppresses, by the sign of the skewness."""


PARTITION_VARIANCE = 0.005
"""Variance of cosines above which any other neuron partitions the vocabulary (authors' code)."""


PARTITION_VARIANCE_TIMES_WIDTH = 5.12


ROLES = ("prediction", "suppression", "partition")


ROLE_COLUMNS = ("role", "role_width_free")
"""Columns of the table of roles: by the paper's rule, and by the width-free one."""


PERCENTILES = (5, 10, 25, 50, 75, 90, 95)
"""Those that the table of depths holds of a layer's neurons."""


@dataclasses.dataclass(frozen=True)
class EntropyQuery:
    """Limits for entropy neurons, all inclusive but ``norm_percentile``; None where there is none."""

    layer: int | None = None
    """Smallest layer, counted from 0."""
    depth: float | None = None
    """Smallest layer over the last layer."""
    l2_penalty: float | None = None
    """Smallest sum of squared norms."""
    norm_percentile: float | None = None
    """Percentile of ``l2_penalty`` among all neurons of the model to be above."""
    vocab_var: float | None = None
    vocab_var_times_width: float | None = None
    vocab_kurt: float | None = None
    kurt: float | None = None


ENTROPY = {
    "small": EntropyQuery(layer=10, l2_penalty=3, vocab_kurt=10, kurt=10),
    "medium": EntropyQuery(layer=22, l2_penalty=1, vocab_var=0.001, vocab_kurt=8, kurt=10),
    "pythia": EntropyQuery(layer=10, l2_penalty=2, vocab_var=0.001, vocab_kurt=7),
    "width_free": EntropyQuery(
        depth=0.9, norm_percentile=90, vocab_var_times_width=1.02, vocab_kurt=10, kurt=10
    ),
}
"""The queries of the authors' code for each model set, and ours for models of any size."""


def finite(column: pd.Series) -> np.ndarray:
    """A column as float64, NaN where a value is missing or not finite."""
    import numpy as np

    values = column.to_numpy(float, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def roles(table: pd.DataFrame, times_width: bool = False) -> np.ndarray:
    """The role of each neuron from ``vocab_kurt``, ``vocab_skew`` and ``vocab_var``.

    Kurtosis decides first, and only those that it leaves may partition; all limits are strict. Missing and
    infinite values pass none, and whose kurtosis is not known has no role.

    Args:
        table: a neuron table.
        times_width: the width-free rule, which needs the column ``d_model``, too.

    Returns:
        one of ``ROLES`` or the empty string.
    """
    import numpy as np

    kurt, skew, var = (finite(table[name]) for name in ("vocab_kurt", "vocab_skew", "vocab_var"))
    heavy, light = kurt > KURTOSIS, kurt <= KURTOSIS
    limit = PARTITION_VARIANCE
    if times_width:
        var, limit = var * table["d_model"].to_numpy(float), PARTITION_VARIANCE_TIMES_WIDTH
    return np.select(
        [heavy & (skew > 0), heavy & (skew < 0), light & (var > limit)], ROLES, default=""
    ).astype(object)


def clearest(roles: pd.DataFrame, role: str, count: int) -> tuple[pd.DataFrame, bool]:
    """The neurons that have a role most clearly, best first, and whether they have it by the paper's rule.

    Where none has it by the rule, those that come nearest; no row where none could have it, since
    skewness has the other sign or is undefined throughout.
    """
    if role == "partition":
        possible, measure = roles, "vocab_var"
    else:
        sign = 1 if role == "prediction" else -1
        possible, measure = roles[sign * roles["vocab_skew"].astype(float) > 0], "vocab_kurt"
    holders = possible[possible["role"] == role]
    ranked = (holders if len(holders) else possible).dropna(subset=[measure])
    order = ranked.sort_values([measure, "layer", "neuron"], ascending=[False, True, True], kind="stable")
    return order.head(count), bool(len(holders))


def entropy_columns(query: EntropyQuery) -> list[str]:
    """The columns that a query needs, ``vocab_var`` among them, by which candidates are sorted."""
    needs = {
        "layer": query.layer is not None or query.depth is not None,
        "l2_penalty": query.l2_penalty is not None or query.norm_percentile is not None,
        "vocab_var": True,
        "vocab_kurt": query.vocab_kurt is not None,
        "kurt": query.kurt is not None,
        "d_model": query.vocab_var_times_width is not None,
        "layers": query.depth is not None,
    }
    return [name for name, needed in needs.items() if needed]


def within_limits(table: pd.DataFrame, query: EntropyQuery) -> np.ndarray:
    """Whether each neuron is within all limits of a query (bool); a missing or infinite value passes none."""
    import numpy as np
    import pandas as pd

    def column(name: str) -> np.ndarray:
        return finite(table[name])

    chosen = ~np.isnan(column("vocab_var"))
    for name in ("vocab_var", "vocab_kurt", "kurt"):
        limit = getattr(query, name)
        if limit is not None:
            chosen &= column(name) <= limit
    for name in ("layer", "l2_penalty"):
        limit = getattr(query, name)
        if limit is not None:
            chosen &= column(name) >= limit
    if query.vocab_var_times_width is not None:
        chosen &= column("vocab_var") * column("d_model") <= query.vocab_var_times_width
    if query.depth is not None:
        last = column("layers") - 1
        chosen &= column("layer") >= query.depth * last
    if query.norm_percentile is not None:
        model = table["model"] if "model" in table else pd.Series("", index=table.index)
        rank = table["l2_penalty"].astype(float).groupby(model.to_numpy()).rank(pct=True)
        chosen &= 100 * rank.to_numpy() > query.norm_percentile
    return chosen


def entropy_ranks(table: pd.DataFrame, query: EntropyQuery) -> pd.Series:
    """Rank of each candidate of a query within its model, from 1 at the smallest ``vocab_var``.

    Ties go by layer and neuron. Null where a neuron is no candidate. The table may lack ``model``: then all
    rows are one model's.
    """
    import pandas as pd

    chosen = within_limits(table, query)
    model = table["model"] if "model" in table else pd.Series("", index=table.index)
    order = ["vocab_var", *(name for name in ("layer", "neuron") if name in table)]
    candidates = table.loc[chosen, order].assign(model=model[chosen])
    candidates = candidates.sort_values(order, kind="stable")
    ranks = candidates.groupby("model", sort=False).cumcount() + 1
    return ranks.reindex(table.index).astype("Int32")


def null_space_p(fraction: np.ndarray, k: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """P-values of null-space fractions: how often a random direction has at least as much there.

    Of a uniformly random direction in n dimensions, the squared share in k of them has the distribution
    Beta(k / 2, (n - k) / 2).

    Args:
        fraction: share of the norm in the null space, NaN where there is no direction.
        k: directions of the null space.
        chance: the root of k / n, by which n is known; n leaves out what a LayerNorm takes away.

    Returns:
        p-values, 1 where the null space is all there is, NaN where the fraction is.
    """
    import numpy as np
    from scipy.special import betaincc

    others = np.round(k / chance**2) - k
    p = betaincc(k / 2, np.maximum(others, 1) / 2, np.minimum(fraction, 1.0) ** 2)
    result: np.ndarray = np.where(np.isnan(fraction) | (others > 0), p, 1.0)
    return result


def entropy_test(table: pd.DataFrame, query: EntropyQuery) -> tuple[np.ndarray, np.ndarray]:
    """Test which neurons write into the null space of the unembedding more than random directions do.

    Tested are the neurons within the query's limits on layer, norm and activation kurtosis, which say nothing
    of a random direction, so false discoveries are controlled among those tested. The limits on the variance
    and the kurtosis over the vocabulary are left out: both follow from the direction that is tested.

    Returns:
        p-values of all neurons; and those of the tested ones adjusted within their model
        (Benjamini-Hochberg), NaN for all others.
    """
    import numpy as np

    names = ("null_space_fraction", "null_space_k", "null_space_chance")
    p = null_space_p(*(table[name].to_numpy(float, na_value=np.nan) for name in names))
    limits = dataclasses.replace(query, vocab_var=None, vocab_var_times_width=None, vocab_kurt=None)
    tested = within_limits(table, limits) & ~np.isnan(p)
    adjusted = np.full(len(table), np.nan)
    for model in table["model"].unique():
        own = tested & (table["model"] == model).to_numpy()
        adjusted[own] = adjusted_p_values(p[own])
    return p, adjusted


COUNTED = ["model", "role", "role_width_free", "entropy", "entropy_rank"]
"""The columns that :func:`metrics` reads."""


def role_metrics(table: pd.DataFrame) -> dict[str, int]:
    """Counts for the reference model, whose rows come first.

    ``entropy_candidates`` are the neurons of the calibrated call, ``entropy_ranked`` those within all limits
    of the configured query.
    """
    own = table[table["model"] == table["model"].iloc[0]]
    return {
        **{role: int((own["role"] == role).sum()) for role in ROLES},
        **{f"{role}_width_free": int((own["role_width_free"] == role).sum()) for role in ROLES},
        "entropy_candidates": int(own["entropy"].sum()),
        "entropy_ranked": int(own["entropy_rank"].notna().sum()),
    }
