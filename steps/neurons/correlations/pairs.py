"""Correlations of two models, put together from the files of their row tiles."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.core.tensors import read_tensors

if TYPE_CHECKING:
    import numpy as np

    from steps.neurons.activations.store import Activations


def require_one_reference(pairs: list[Pair]) -> None:
    """Refuse pairs of several reference models.

    Raises:
        UserError: their first models differ.
    """
    references = sorted({pair.a for pair in pairs})
    if len(references) != 1:
        raise UserError(f"--correlations: files of reference models {references}, expected one")


@dataclasses.dataclass
class Pair:
    """Summaries of all correlations of model ``a`` (rows) with model ``b`` (columns).

    The arrays are those of ``neurons.correlate``, rows of all tiles; the columns' extremes, histograms
    and powers are merged over tiles.
    """

    a: str
    b: str
    neurons: tuple[int, int]
    d_mlp: tuple[int, int]
    tokens: int
    row_top_value: np.ndarray
    row_top_index: np.ndarray
    row_bottom_value: np.ndarray
    row_bottom_index: np.ndarray
    row_histogram: np.ndarray
    row_powers: np.ndarray
    row_constant: np.ndarray
    column_top_value: np.ndarray
    column_top_index: np.ndarray
    column_bottom_value: np.ndarray
    column_bottom_index: np.ndarray
    column_histogram: np.ndarray
    column_powers: np.ndarray
    column_constant: np.ndarray
    rotated_max: np.ndarray
    activations: tuple[str, str]
    """Fingerprints of what the models' correlations were made from."""

    @property
    def matched(self) -> np.ndarray:
        """Which rows have a best match: neither they nor their best column are constant, ``[rows]``."""
        best = self.row_top_index[:, 0]
        matched: np.ndarray = (self.row_constant == 0) & (self.column_constant[best] == 0)
        return matched


def load_pairs(files: list[Path]) -> list[Pair]:
    """Read the files of any number of pairs, each cut into any number of tiles.

    Returns:
        The pairs, in the order in which they first appear.

    Raises:
        UserError: there is none, one is damaged, a pair lacks a tile, or they do not belong together.
    """
    tiles: dict[tuple[str, str], list[_Tile]] = {}
    seen: dict[str, tuple[Any, Path]] = {}
    for path in files:
        arrays, facts = read_tensors(path, kind="correlations")
        for what, value in (
            (f"activations of {facts['a']}", facts["activations"][0]),
            (f"activations of {facts['b']}", facts["activations"][1]),
            ("settings of neurons.correlate", facts["settings"]),
            ("numbers of tokens", facts["tokens"]),
        ):
            first, where = seen.setdefault(what, (value, path))
            if first != value:
                raise UserError(
                    f"{where} and {path}: made from different {what};"
                    " delete the older one and run snakemake again"
                )
        tiles.setdefault((facts["a"], facts["b"]), []).append((facts["rows"], path, arrays, facts))
    if not tiles:
        raise UserError("--correlations: found no file, expected one per pair of models and tile")
    return [_merge(sorted(parts, key=lambda part: part[0])) for parts in tiles.values()]


def require_sources(pairs: list[Pair], sources: dict[str, Activations]) -> None:
    """Refuse correlations and activations that do not belong together.

    Raises:
        UserError: a model is in one of them only, or its activations are others.
    """
    origins = {pair.a: pair.activations[0] for pair in pairs}
    origins |= {pair.b: pair.activations[1] for pair in pairs}
    for there, lacking, remedy in (
        (origins, sources, "--activations: none of"),
        (sources, origins, "--correlations: none of"),
    ):
        missing = sorted(set(there) - set(lacking))
        if missing:
            raise UserError(f"{remedy} {', '.join(missing)}; give those of every model")
    for name, source in sources.items():
        if source.store.fingerprint != origins[name]:
            raise UserError(
                f"--correlations: those of {name} were not made from {source.store.path} as it is now;"
                " delete them and run snakemake again"
            )


_Tile = tuple[list[int], Path, "dict[str, np.ndarray]", "dict[str, Any]"]


def _merge(tiles: list[_Tile]) -> Pair:
    import numpy as np

    facts = tiles[0][3]
    end = 0
    for rows, path, _, _ in tiles:
        if rows[0] != end:
            raise UserError(f"{path}: begins at row {rows[0]}, expected {end}; give every tile once")
        end = rows[1]
    if end != facts["neurons"][0]:
        raise UserError(f"{tiles[-1][1]}: ends at row {end}, expected {facts['neurons'][0]}; give all tiles")

    def parts(name: str) -> list[np.ndarray]:
        return [arrays[name] for _, _, arrays, _ in tiles]

    merged = {}
    for name in ("top_value", "top_index", "bottom_value", "bottom_index", "histogram", "constant"):
        merged[f"row_{name}"] = np.concatenate(parts(f"row_{name}"))
    for name in ("row_powers", "rotated_max"):
        merged[name] = np.concatenate(parts(name), axis=1)
    for name in ("column_histogram", "column_powers"):
        merged[name] = np.sum(parts(name), axis=0)
    merged["column_constant"] = parts("column_constant")[0]
    for extreme, sign in (("top", -1), ("bottom", 1)):
        value = np.concatenate(parts(f"column_{extreme}_value"), axis=1)
        index = np.concatenate(parts(f"column_{extreme}_index"), axis=1)
        keep = np.lexsort((index, sign * value), axis=1)[:, : facts["settings"]["top"]]
        merged[f"column_{extreme}_value"] = np.take_along_axis(value, keep, 1)
        merged[f"column_{extreme}_index"] = np.take_along_axis(index, keep, 1)
    return Pair(
        a=facts["a"],
        b=facts["b"],
        neurons=(facts["neurons"][0], facts["neurons"][1]),
        d_mlp=(facts["d_mlp"][0], facts["d_mlp"][1]),
        tokens=facts["tokens"],
        activations=(facts["activations"][0], facts["activations"][1]),
        **merged,
    )
