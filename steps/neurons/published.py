"""Classify the neurons of a published table, without their models.

    python -m steps.neurons.published --table neuron_stats.csv --out classified.parquet

Reads CSV (also compressed as ``.gz``) or parquet with a row per neuron and any of the columns of the paper's
tables (``layer neuron excess_corr mean_corr mean_baseline l2_penalty kurt vocab_var vocab_skew vocab_kurt``
and, of several models, ``model``). Names may differ in case; other columns are ignored. A cell that is no
finite number counts as missing, and a neuron whose excess is missing is not universal.

Writes ``layer``, ``neuron`` (and ``model``), then as far as the columns allow:

=======================  ==========================================================================
column                   definition
=======================  ==========================================================================
``excess_corr``          as given, or ``mean_corr - mean_baseline`` where only these are there
``universal``            excess above 0.5
``role``                 ``prediction``, ``suppression``, ``partition`` or empty (``neurons.roles``)
``entropy_rank[QUERY]``  place among the candidates of the paper's query ``small``, ``medium`` or
                         ``pythia``, from 1 at the smallest ``vocab_var``; null for others
=======================  ==========================================================================

``--out`` ends in ``.csv`` or ``.parquet``, which says what it is. Counts, and rules that could not be applied
with the columns they lack, are logged.
"""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.core.errors import UserError
from steps.core.runner import Output, final_name, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import write_table
from steps.neurons.selection.rules import (
    ENTROPY,
    EXCESS,
    ROLES,
    entropy_columns,
    entropy_ranks,
    finite,
    roles,
)

if TYPE_CHECKING:
    import pandas as pd


logger = logging.getLogger("reprise")


NUMBERS = (
    "excess_corr",
    "mean_corr",
    "mean_baseline",
    "l2_penalty",
    "kurt",
    "vocab_var",
    "vocab_skew",
    "vocab_kurt",
)


QUERIES = ("small", "medium", "pythia")


class Settings(BaseSettings):
    """The table to classify."""

    table: str | None = Field(
        None,
        min_length=1,
        description="a neuron table of others, CSV or parquet, for results/neurons/STUDY/published.parquet",
    )


def read_table(path: Path) -> pd.DataFrame:
    """The known columns of a neuron table, numbers as float64, layer and neuron whole.

    Raises:
        UserError: unreadable, a column twice, or rows that do not name one neuron each.
    """
    import numpy as np
    import pandas as pd

    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        raw = pd.read_parquet(path) if parquet else _read_csv(path)
    except UserError:
        raise
    except Exception as error:  # pandas and pyarrow raise exceptions of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{path}: expected a table as parquet or CSV, plain or in .gz, .bz2 or .xz ({reason})"
        ) from None
    names = [str(name).strip().lower() for name in raw.columns]
    raw.columns = pd.Index(names)
    known = [name for name in ("model", "layer", "neuron", *NUMBERS) if name in names]
    double = next((name for name in known if names.count(name) > 1), None)
    if double is not None:
        raise UserError(f"{path}: has the column {double!r} twice (ignoring case); leave one of them")
    lacking = [name for name in ("layer", "neuron") if name not in names]
    if lacking:
        raise UserError(
            f"{path}: lacks the columns {', '.join(lacking)}; found {', '.join(names[:20])!r};"
            " rows must say which neuron they are"
        )
    table = pd.DataFrame(index=pd.RangeIndex(len(raw)))
    for name in known:
        if name == "model":
            table[name] = _texts(raw[name]).fillna("").to_numpy()
            continue
        values = _numbers(raw[name])
        if name in ("layer", "neuron"):
            wrong = ~((values >= 0) & (values < 2**31) & (values == np.floor(values)))
            if wrong.any():
                place = int(np.flatnonzero(wrong)[0])
                raise UserError(
                    f"{path}: row {place + 1}: found {str(raw[name].iloc[place])[:60]!r} as {name},"
                    " expected a whole number from 0"
                )
            table[name] = values.astype("int32")
        else:
            table[name] = values
    keys = [name for name in ("model", "layer", "neuron") if name in table]
    again = table.duplicated(keys)
    if again.any():
        row = table.loc[again, keys].iloc[0].to_dict()
        raise UserError(
            f"{path}: {int(again.sum())} neurons are there twice, such as {row};"
            " leave one row each, or name their models in the column model"
        )
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    """All cells of a CSV file as texts.

    Raises:
        UserError: a row is longer than the header, or a cell holds a NUL.
    """
    import bz2
    import gzip
    import lzma

    import pandas as pd

    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with openers.get(path.suffix.lower(), open)(path, "rb") as file:
        content = file.read()
    try:
        # The header is read as a row: pandas would take surplus cells of the first row for its name.
        raw = pd.read_csv(io.BytesIO(content), dtype=str, encoding="utf-8-sig", header=None, low_memory=False)
    except pd.errors.ParserError as error:
        wrong = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if wrong is None:
            raise
        expected, line, found = wrong.groups()
        raise UserError(
            f"{path}: line {line}: found {found} cells, expected {expected} as in the first line; give every"
            " column a name there, and take away commas at the ends of lines"
        ) from None
    if b"\0" in content:  # pandas ends a cell there
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise UserError(
            f"{path}: line {line}: found a NUL byte, expected text; save the table as UTF-8 again"
        )
    raw.columns = pd.Index(raw.iloc[0].astype(str))
    return raw.iloc[1:].reset_index(drop=True)


def _texts(column: pd.Series) -> pd.Series:
    """A column as texts; bytes that are no UTF-8 are shown by their escapes."""

    def text(cell: Any) -> Any:
        return cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else cell

    return (column.map(text) if column.dtype == object else column).astype("string")


def _numbers(column: pd.Series) -> Any:
    """A column as float64, NaN where a cell is no finite number."""
    import numpy as np
    import pandas as pd

    if column.dtype == object or pd.api.types.is_string_dtype(column):
        column = _texts(column).str.strip()
    elif not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
        return np.full(len(column), np.nan)  # dates, lists and others
    return finite(pd.to_numeric(column, errors="coerce"))


def classify(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Apply every rule whose columns are there.

    Returns:
        the table of the module's docstring, and a line for each rule that could not be applied.
    """
    import pandas as pd

    found = table[[name for name in ("model", "layer", "neuron") if name in table]].copy()
    skipped = []

    def possible(rule: str, *needs: str) -> bool:
        lacking = [name for name in needs if name not in table]
        if lacking:
            skipped.append(f"{rule}: not applied, the table lacks {', '.join(lacking)}")
        return not lacking

    if "excess_corr" in table:
        found["excess_corr"] = table["excess_corr"]
    elif {"mean_corr", "mean_baseline"} <= set(table):
        found["excess_corr"] = table["mean_corr"] - table["mean_baseline"]
    if "excess_corr" in found:
        found["universal"] = finite(found["excess_corr"]) > EXCESS
    else:
        skipped.append("universal: not applied, the table lacks excess_corr (or mean_corr and mean_baseline)")
    if possible("prediction, suppression, partition", "vocab_kurt", "vocab_skew", "vocab_var"):
        found["role"] = pd.array(roles(table), dtype="str")
    for query in QUERIES:
        if possible(f"entropy query {query}", *entropy_columns(ENTROPY[query])):
            found[f"entropy_rank[{query}]"] = entropy_ranks(table, ENTROPY[query])
    return found, skipped


def main(table: Path, out: Output) -> None:
    """Classify ``table``."""
    name = final_name(out)
    kind = Path(name).suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise UserError(f"--out: found {name!r}, expected a name that ends in .csv or .parquet; change it")
    found, skipped = classify(read_table(table))
    for line in skipped:
        logger.warning("%s", line)
    if len(skipped) == 2 + len(QUERIES):
        raise UserError(f"{table}: has columns for none of the rules; " + "; ".join(skipped))
    counts = {"neurons": len(found)}
    if "universal" in found:
        counts["universal"] = int(found["universal"].sum())
    if "role" in found:
        counts |= {role: int((found["role"] == role).sum()) for role in ROLES}
    for query in QUERIES:
        if f"entropy_rank[{query}]" in found:
            counts[f"entropy candidates ({query})"] = int(found[f"entropy_rank[{query}]"].notna().sum())
    logger.info("%s", ", ".join(f"{name}: {count}" for name, count in counts.items()))
    if kind == ".csv":
        found.to_csv(out, index=False)
    else:
        write_table(found, out)


if __name__ == "__main__":
    run(main)
