"""Activation stores, models and rows whose contents are known, made without training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from steps.core.digest import fingerprint
from steps.core.runner import Output
from steps.core.stores import ArrayWriter, Ledger, write_array
from steps.neurons import (
    correlate,
    explain,
    figure,
    histograms,
    merge_explanations,
    merge_histograms,
    moments,
    products,
    text,
)
from steps.neurons.explanations.text import Settings as ExplainSettings

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

VOCABULARY = 48
CONTEXT = 12


def write_activations(
    folder: Path,
    pre: np.ndarray,
    *,
    name: str = "a",
    layers: int = 2,
    activation: str = "linear",
    keep: np.ndarray | None = None,
    block_tokens: int = 64,
    context: int = 16,
    tokens: np.ndarray | None = None,
    codec: str = "zstd",
    up: np.ndarray | None = None,
    model: str | None = None,
) -> Path:
    """Write pre-activations ``[tokens, neurons]`` as ``neurons.dump`` would; returns the ledger.

    ``up``, of the same shape, makes it a gated MLP; ``model`` is the fingerprint of the weights.
    """
    count, neurons = pre.shape
    d_mlp = neurons // layers
    dtype = pre.dtype.name
    keep = np.ones(count, bool) if keep is None else keep
    tokens = np.arange(count, dtype=np.int32) % 50 if tokens is None else tokens.astype(np.int32)
    made_from = {
        "model": model or [name, pre[:8].tolist()],
        "tokens": tokens.tolist(),
        "exclude": keep.tolist(),
        "settings": {"split": "held_out"},
    }
    ledger = Ledger(folder / "ledger.json", "activations", made_from)
    write_array(ledger, "tokens", tokens, ("token",))
    write_array(ledger, "keep", keep.astype("uint8"), ("token",))
    for kind, values in {"pre": pre, "up": up}.items():
        if values is None:
            continue
        shape, block = (layers, count, d_mlp), (1, block_tokens, d_mlp)
        array = ArrayWriter(ledger, kind, shape, block, dtype, codec, dims=("layer", "token", "neuron"))
        for layer in range(layers):
            for k in range(-(-count // block_tokens)):
                part = values[k * block_tokens : (k + 1) * block_tokens, layer * d_mlp : (layer + 1) * d_mlp]
                array.write((layer, k, 0), part[None])
    ledger.finish(
        {
            "model": name,
            "source": "dump",
            "layers": layers,
            "d_mlp": d_mlp,
            "n_ctx": context,
            "bos": 0,
            "block_tokens": block_tokens,
            "dtype": dtype,
            "compute_dtype": "float32",
            "batch_tokens": 4096,
            "device": "cpu",
            "activation": activation,
            "gated": up is not None,
            "weights": [],
            "kept": int(keep.sum()),
            "model_ledger": "",
        }
    )
    return folder / "ledger.json"


def write_labelled_rows(folder: Path, tokens: np.ndarray, context: int, labels: np.ndarray) -> Path:
    """The rows that ``tokens`` are, each with the number of its source: code, names or prose."""
    ledger = Ledger(folder / "ledger.json", "rows", {"tokens": tokens.tolist(), "labels": labels.tolist()})
    write_array(ledger, "held_out", tokens.reshape(-1, context).astype(np.int32), ("row", "position"))
    write_array(ledger, "held_out_source", labels.astype(np.uint16), ("row",))
    ledger.finish({"n_ctx": context, "bos": 0, "vocabulary": 50, "sources": ["code", "names", "prose"]})
    return folder / "ledger.json"


def draw_figure(
    folder: Path,
    name: str,
    files: Iterable[Path],
    correlations: Iterable[Path] = (),
    beside: Iterable[Path] = (),
    **settings: Any,
) -> tuple[str, dict[str, Any]]:
    """Draw a figure from ``files``, which have the names that the chapter's steps give them: SVG and data."""
    out, data = folder / f"{name}.svg", folder / f"{name}.json"
    chosen = figure.Settings(**settings)
    inputs = list(files), list(correlations), list(beside)
    figure.main(*inputs, chosen, {name: Output(out)}, {name: Output(data)})
    ElementTree.parse(out)
    return out.read_text("utf-8"), json.loads(data.read_text("utf-8"))


def histogram_parts(
    folder: Path,
    activations: list[Path],
    rows: Path,
    settings: histograms.Settings | None = None,
    parts: int = 1,
) -> list[Path]:
    """Count what is cut into ``parts`` of each model, model by model; returns the files."""
    files = []
    for number, ledger in enumerate(activations):
        for part in range(parts):
            files.append(folder / f"histograms-{number}-{part}")
            chosen = settings or histograms.Settings()
            histograms.main(ledger, rows, parts, part, chosen, Output(files[-1]))
    return files


def write_histograms(
    folder: Path, activations: list[Path], rows: Path, settings: histograms.Settings | None = None
) -> Path:
    """Histograms of all models, as the chapter's steps make them; returns the ledger."""
    out = folder / "histograms" / "ledger.json"
    merge_histograms.main(activations, histogram_parts(folder, activations, rows, settings), Output(out))
    return out


def explanation_parts(
    folder: Path,
    activations: list[Path],
    own: list[Path],
    models: list[Path],
    rows: Path,
    tokenizer: Path,
    settings: ExplainSettings,
    parts: int = 1,
) -> list[Path]:
    """Explain what is cut into ``parts`` of each model, model by model; ``own`` are moments. The files."""
    labels = folder / "text"
    text.main(activations, models, rows, tokenizer, settings, Output(labels))
    files: list[Path] = []
    for number, (ledger, sums) in enumerate(zip(activations, own, strict=True)):
        for part in range(parts):
            out = [folder / f"explained-{number}-{part}-{kind}" for kind in range(3)]
            explain.main(ledger, [sums], labels, parts, part, settings, *map(Output, out))
            files += out
    return files


def write_explanations(
    folder: Path,
    activations: list[Path],
    own: list[Path],
    models: list[Path],
    rows: Path,
    tokenizer: Path,
    settings: ExplainSettings,
) -> list[Path]:
    """Explanations, tokens and profiles of all models, as the chapter's steps make them."""
    files = explanation_parts(folder, activations, own, models, rows, tokenizer, settings)
    out = [folder / name for name in ("explanations", "tokens", "profiles")]
    merge_explanations.main(activations, files, settings, *map(Output, out))
    return out


def activate(name: str, x: np.ndarray) -> np.ndarray:
    """The activation function ``name`` written out, in float64."""
    from scipy.special import erf

    x = x.astype(np.float64)
    if name == "gelu":
        return 0.5 * x * (1 + erf(x / math.sqrt(2)))
    if name == "gelu_new":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return {"linear": x, "relu": np.maximum(x, 0)}[name]


def stored_pre(ledger: Path) -> np.ndarray:
    """All stored pre-activations ``[tokens, neurons]``, read with nothing but zarr, float64."""
    import zarr

    pre = np.asarray(zarr.open_array(str(ledger.parent / "pre"), mode="r")[:])
    return pre.transpose(1, 0, 2).reshape(pre.shape[1], -1).astype(np.float64)


def stored_post(ledger: Path, activation: str, keep: np.ndarray | None = None) -> np.ndarray:
    """Post-activations ``[kept tokens, neurons]`` of the stored values, float64."""
    post = activate(activation, stored_pre(ledger))
    return post if keep is None else post[keep]


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``numpy.corrcoef`` between the columns of ``a`` and ``b``; 0 where one does not vary."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rho: np.ndarray = np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]
    rho[np.ptp(a, axis=0) == 0] = 0
    rho[:, np.ptp(b, axis=0) == 0] = 0
    return rho


def write_moments(folder: Path, ledger: Path, ranges: int = 1, precision: str = "float64") -> list[Path]:
    """Run ``neurons.moments`` for every token range."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"range-{index}.safetensors" for index in range(ranges)]
    for index, out in enumerate(files):
        settings = moments.Settings.model_validate({"precision": precision})
        moments.main(ledger, ranges, index, settings, Output(out))
    return files


def correlate_pair(
    folder: Path,
    a: Path,
    b: Path,
    *,
    tiles: int = 1,
    ranges: int = 1,
    order: Iterable[int] | None = None,
    precision: str = "float64",
    **settings: Any,
) -> list[Path]:
    """Run ``neurons.moments``, ``products`` (where there are ranges) and ``correlate`` on a pair.

    Args:
        folder: where all files go.
        a: the reference's activations.
        b: the partner's activations.
        tiles: of the reference's neurons.
        ranges: of the tokens.
        order: in which the files of the ranges are given; by number by default.
        precision: of everything.
        settings: further settings of ``neurons.correlate``.

    Returns:
        One file per tile.
    """
    order = list(range(ranges) if order is None else order)
    own, partner = (
        write_moments(folder / name, ledger, ranges, precision) for name, ledger in (("a", a), ("b", b))
    )
    allow_self = settings.get("allow_self", False)
    chosen = correlate.Settings.model_validate({"precision": precision, "draws": 2, **settings})
    summed = products.Settings.model_validate({"precision": precision, "allow_self": allow_self})
    files = []
    for tile in range(tiles):
        parts = [
            folder / f"products-{tile}-{index}.safetensors" for index in range(ranges if ranges > 1 else 0)
        ]
        for index, part in enumerate(parts):
            products.main(a, b, tiles, tile, ranges, index, summed, Output(part))
        files.append(folder / f"tile-{tile}.safetensors")
        correlate.main(
            a,
            b,
            [own[index] for index in order],
            [partner[index] for index in order],
            [parts[index] for index in order if parts],
            tiles,
            tile,
            chosen,
            Output(files[-1]),
        )
    return files


TOKENIZER = fingerprint(["tokenizer", {"words": VOCABULARY, "name": "planted"}])
"""The fingerprint of what :func:`write_tokenizer` writes."""


def write_tokenizer(folder: Path, name: str = "planted") -> Path:
    """A tokenizer of ``VOCABULARY`` words: ``<bos>`` is 0, a new line is 1, then ``w2``, ``w3``, ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<bos>": 0, "\n": 1} | {f"w{number}": number for number in range(2, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    ledger = Ledger(
        folder / "ledger.json", "tokenizer", {"words": VOCABULARY, "name": name}, contents_named=True
    )
    ledger.place("tokenizer.json")
    tokenizer.save(str(folder / "tokenizer.json"))
    ledger.record("tokenizer.json")
    ledger.finish({})
    return folder / "ledger.json"


def rows_of(count: int = 6, vocabulary: int = 300, context: int = CONTEXT, seed: int = 0) -> np.ndarray:
    """Random rows ``[count, context]`` of token ids, BOS (0) first."""
    rows = np.random.default_rng(seed).integers(1, vocabulary, (count, context), dtype=np.int32)
    rows[:, 0] = 0
    return rows


def write_rows(folder: Path, rows: int = 20, seed: int = 0, bos: int | None = 0) -> Path:
    """Random rows ``[rows, CONTEXT]`` of ``held_out`` tokens, BOS first if any, new lines among them."""
    tokens = np.random.default_rng(seed).integers(1, VOCABULARY, (rows, CONTEXT), dtype=np.int32)
    if bos is not None:
        tokens[:, 0] = bos
    tokens[::3, 5] = 1
    ledger = Ledger(folder / "ledger.json", "rows", {"rows": rows, "seed": seed})
    write_array(ledger, "held_out", tokens, ("row", "position"))
    write_array(ledger, "train", tokens[::-1].copy(), ("row", "position"))
    facts = {"n_ctx": CONTEXT, "bos": bos, "vocabulary": VOCABULARY, "sources": ["planted"]}
    ledger.finish({**facts, "tokenizer": TOKENIZER})
    return folder / "ledger.json"


def write_model(folder: Path, seed: int = 0, scale: float = 1.0, **changes: Any) -> Path:
    """A random GPT-2 of 2 layers, d_model 16, 64 neurons a layer; ``scale`` multiplies what MLPs read."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    shape = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**{**shape, "initializer_range": 0.3, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains too, which start at 0 and 1
            parameter.add_(0.2 * torch.randn_like(parameter))
        for block in model.transformer.h:
            block.mlp.c_fc.weight.mul_(scale)
    return save_model(folder, model, {"seed": seed, "scale": scale, **changes})


def save_model(folder: Path, model: GPT2LMHeadModel, made_from: dict[str, Any]) -> Path:
    """Write a model as ``language_models`` does; returns the ledger."""
    ledger = Ledger(folder / "ledger.json", "language_model", made_from)
    model.save_pretrained(folder)
    for file in ("config.json", "model.safetensors"):
        ledger.record(file)
    ledger.finish({"tokenizer": TOKENIZER, "source": "planted"})
    return folder / "ledger.json"
