"""What a study of this chapter takes, before anything is submitted: bytes, FLOPs, memory, jobs, hours.

Needs no data and no network. Writes JSON and logs it as a table. The formulas are those from which rules
ask for memory and time (``steps/workflow`` calls :func:`jobs`).

Every rule of the chapter is in it but this one. A multiplication and an addition are two FLOPs. Counted are
products of matrices: forward passes without the unembedding (attention in full, though half of it is masked;
interventions with it), products within layers (their upper triangle and what lies beside its diagonal),
products of pairs, rotations, products of weights. With ``dump.source: model`` every job that reads
activations runs the models again. Hours are FLOPs over the share of the peak that is reached, plus bytes over
the bandwidth of the disk. Whatever the device, one core of the host draws the rotations of
``neurons.correlate`` and summarises correlations, counts the bins of ``neurons.histograms``, draws the
normal numbers of ``neurons.similarity`` and, unless it has a device, forms the sums of ``neurons.explain``.
Start-up, scheduling and whatever else is no product are left out, and so are language models.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from steps.core.errors import UserError, size
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import write_json
from steps.interp.weights import BLOCK_VALUES
from steps.neurons import attention, cosines, intervene, weights
from steps.neurons.correlations.products import STRIP
from steps.neurons.costs.hardware import HARDWARE
from steps.neurons.explanations.text import Settings as ExplainSettings

logger = logging.getLogger("reprise")


ITEM = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


BINS = 101
"""Of the histograms of correlations, see ``neurons.correlate``."""


OPENED = 8.0
"""Bytes per token of opened activations: id, mask, and either of them once more while it is read."""


HISTOGRAM_BINS = 257
"""Of those of ``neurons.histograms``."""


MANY_SOURCES = 32
"""How many sources of text are assumed."""


MANY_FEATURES = 1000
"""How many features of token ids are assumed: 207, unigram groups and topics."""


TOKEN_FEATURES = 207
"""Of ``explanations.features``."""


COLUMNS = 2000.0
"""Bytes of a row of a table of neurons while the table is put together."""


MOST_RUNS = 256
"""Of token blocks that ``neurons.clusters`` resamples."""


STARTED = 1000.0
"""Megabytes of a job that has loaded its libraries and nothing else, with some room."""


BINNED = 15e-9
"""Seconds of a core for each activation that is counted into a bin, as measured."""


EXPLAINED = 50e-9
"""The same for each one that is explained, in both readings together."""


DRAWN = 30e-9
"""The same for each normal number in an activation's place."""


TURNED = 10e-9
"""The same for each number of a rotation: every device rotates by the same ones."""


SUMMARISED = 70e-9
"""The same for each correlation, which is ordered and counted in both views."""


TOP_TOKEN = 200.0
"""Bytes of a row of a table of neurons' tokens while the tables of all models are put together."""


class Settings(BaseSettings):
    """How large models are whose configuration is not here, and on what hardware the study is to run."""

    layers: int = Field(
        2, ge=1, le=10**6, description="MLP layers of listed models whose config.json is not here"
    )
    width: int = Field(256, ge=1, le=10**9, description="neurons per layer of the same")
    vocabulary: int = Field(512, ge=1, le=10**9, description="rows of the embedding of the same")
    hardware: Literal["cpu_core", "v100", "a100", "h100"] = Field(
        "cpu_core", description="whose peak and memory the planner takes"
    )
    peak_tflops: float | None = Field(None, gt=0, description="of products, 1e12 FLOP/s; null: the vendor's")
    share: float = Field(0.5, gt=0, le=1, description="share of the peak that is reached")
    memory_gb: float | None = Field(None, gt=0, description="of one device; null: the vendor's")
    disk_gb_per_s: float = Field(1.0, gt=0, description="read from and written to disk by one job")
    devices: int = Field(1, ge=1, le=10**9, description="that work at the same time")


class Model(BaseSettings):
    """The size of a model."""

    name: str
    layers: int = Field(ge=1)
    width: int = Field(ge=1, description="neurons per layer (d_mlp)")
    d_model: int = Field(ge=1)
    heads: int = Field(ge=1, description="per layer")
    vocabulary: int = Field(ge=1, description="rows of the embedding")
    gated: bool = False
    read_from: str = ""

    @property
    def neurons(self) -> int:
        """Of all layers."""
        return self.layers * self.width

    @property
    def vectors(self) -> int:
        """Of each neuron: one that writes, one or two that read."""
        return 3 if self.gated else 2

    @property
    def embeddings(self) -> float:
        """Parameters of embedding and unembedding."""
        return 2.0 * self.vocabulary * self.d_model

    @property
    def parameters(self) -> float:
        """Of all blocks; neither embeddings nor vectors."""
        return self.layers * (4.0 * self.d_model**2 + self.vectors * self.d_model * self.width)

    def forward(self, context: int) -> float:
        """FLOPs per token in rows of ``context``."""
        return 2 * self.parameters + 4.0 * context * self.d_model * self.layers


class Study(BaseSettings):
    """What decides how much work a study is."""

    name: str
    models: list[Model] = Field(min_length=1, description="the reference first")
    pairs: list[tuple[int, int]] = Field(description="which of them are correlated")
    tiles: int
    ranges: int
    parts: int = Field(1, description="of each model, for histograms and explanations")
    tokens: int
    context: int
    block_tokens: int
    source: Literal["dump", "model"]
    dtype: str = Field(description="of kept pre-activations")
    compute_dtype: str = Field(description="of models")
    precision: str = Field(description="of products")
    examples: int
    top: int
    draws: int
    similarity_tokens: int
    checkpoint_tokens: int
    checkpoint_draws: int
    checkpoints: int = Field(description="steps of training that are kept, the last one included")
    bootstraps: int = Field(description="of clusters")
    candidates: int = Field(description="partners of each neuron that are resampled")
    histogram_tokens: int
    page_neurons: int = Field(description="on the neuron page")
    page_examples: int = Field(description="of each neuron there")
    snippets: int = Field(description="on the report page")
    explain: ExplainSettings
    weights: weights.Settings
    cosines: cosines.Settings
    attention: attention.Settings
    intervene: intervene.Settings

    def model(self, name: str) -> Model:
        """By its name."""
        return next(model for model in self.models if model.name == name)


@dataclasses.dataclass
class Job:
    """What one job takes."""

    rule: str
    held: float = 0.0
    """Bytes of memory beyond what every job needs."""
    forward: float = 0.0
    """FLOPs of forward passes."""
    within: float = 0.0
    """FLOPs of products within layers."""
    products: float = 0.0
    """FLOPs of products of pairs."""
    rotations: float = 0.0
    """FLOPs of rotations."""
    weights: float = 0.0
    """FLOPs of products of weights."""
    host: float = 0.0
    """Seconds of a core of the host, whatever the device, for what is no product."""
    read: float = 0.0
    """Bytes from disk."""
    written: float = 0.0
    """Bytes that stay."""
    temporary: float = 0.0
    """Bytes that are written and deleted once they are merged."""

    @property
    def flops(self) -> float:
        """Of all kinds."""
        return sum(getattr(self, kind) for kind in KINDS)

    @property
    def megabytes(self) -> float:
        """Of memory."""
        return STARTED + self.held / 1e6


KINDS = ("forward", "within", "products", "rotations", "weights")
"""Of FLOPs."""


RULES = (
    *("dump", "moments", "histograms", "merge_histograms", "products", "correlate", "baseline", "clusters"),
    *("weights", "table", "text", "explain", "merge_explanations", "roles", "logit_histograms", "attention"),
    *("intervene", "gallery", "figure", "page", "report"),
)
"""Of the chapter's target, whose totals are given; those of single models and pairs cut into jobs."""


ON_REQUEST = ("similarity", "checkpoints", "composition", "cosines", "published")
"""What is made where somebody asks for it."""


IN_HOST_MEMORY = (
    *("histograms", "baseline", "table", "explain", "roles", "logit_histograms", "gallery", "figure", "page"),
    *("report", "published", "text", "merge_histograms", "merge_explanations"),
)
"""Rules that hold what takes memory on the host: whatever the device, but for the sums of explanations."""


def stored_bytes(study: Study, model: Model, tokens: float) -> float:
    """Of a model's kept values, before compression."""
    return tokens * model.neurons * ITEM[study.dtype] * (2 if model.gated else 1)


def moment_bytes(study: Study, model: Model) -> float:
    """Of the file of ``neurons.moments`` for one range."""
    return 8.0 * model.layers * model.width**2 + (72.0 + 12 * study.examples) * model.neurons


def product_bytes(rows: float, columns: float) -> float:
    """Of a product matrix in float64."""
    return 8.0 * rows * columns


def summary_bytes(study: Study, rows: float, columns: float) -> float:
    """Of the file of ``neurons.correlate`` for one tile."""

    def view(count: float, others: float) -> float:
        return count * (2 * 12 * min(study.top, others) + 4 * BINS + 4 * 8 + 1)

    return view(rows, columns) + view(columns, rows) + 8.0 * study.draws * rows


def product_flops(tokens: float, rows: float, columns: float) -> float:
    """Of all products of two models' neurons."""
    return 2.0 * tokens * rows * columns


def within_flops(tokens: float, model: Model) -> float:
    """Of the products within all layers: the upper triangle, in strips."""
    return tokens * model.neurons * min(2.0 * model.width, model.width + STRIP)


def rotation_flops(draws: float, rows: float, partner: Model) -> float:
    """Of the rotations of a partner, ``rows`` neurons of the other model looking on."""
    return 2.0 * draws * (rows + partner.width) * partner.neurons * partner.width


def profile_bytes(study: Study, model: Model) -> float:
    """Of a model's arrays in the file of ``neurons.explain``."""
    return (8.0 * study.context + 4.0 * HISTOGRAM_BINS) * model.neurons


def composition_bytes(model: Model) -> float:
    """Of the file of ``neurons.composition``."""
    return (2 + model.vectors) * 4.0 * model.neurons * model.layers * model.heads


def cosine_bytes(study: Study, model: Model) -> float:
    """Of the file of ``neurons.cosines``: of each vector's kinds with the vocabulary, and between neurons."""
    tokens, others = min(study.cosines.tokens, model.vocabulary), min(study.cosines.neurons, model.neurons)
    each, kinds = 4 * cosines.BINS + 8 * 4, model.vectors
    return float(model.neurons * kinds * (2 * (each + 16 * tokens) + kinds * (each + 16 * others)))


def jobs(study: Study, rule: str) -> list[Job]:
    """Every job of a rule (``moments`` for ``neurons_moments``)."""
    models = study.models
    if rule in ("dump", "moments", "composition", "cosines"):
        each_model = {"dump": _dump, "moments": _moments, "composition": _composition, "cosines": _cosines}
        repeats = study.ranges if rule == "moments" else 1
        return [each_model[rule](study, model) for model in models for _ in range(repeats)]
    if rule in ("products", "correlate"):
        make = _products if rule == "products" else _correlate
        each = study.tiles * (1 if rule == "correlate" else study.ranges if study.ranges > 1 else 0)
        return [make(study, models[a], models[b]) for a, b in study.pairs for _ in range(each)]
    if rule in ("histograms", "explain"):
        part_of = _histograms if rule == "histograms" else _explain
        return [part_of(study, model, part) for model in models for part in range(study.parts)]
    if rule == "text":
        return [_text(study)]
    if rule in ("merge_histograms", "merge_explanations"):
        return [_merge(study, rule)]
    if rule == "checkpoints" and not study.checkpoints:
        return []
    single = {
        "clusters": _clusters,
        "similarity": _similarity,
        "checkpoints": _checkpoints,
        "weights": _weights,
        "logit_histograms": _logit_histograms,
        "attention": _attention,
        "intervene": _intervene,
    }
    if rule in single:
        return [single[rule](study)]
    if rule in (*RULES, *ON_REQUEST):
        return [_tables(study, rule)]
    raise ValueError(rule)


def _block(study: Study, model: Model) -> float:
    """Bytes of a block of post-activations."""
    return max(4.0, ITEM[study.precision]) * _block_tokens(study) * model.neurons


def _block_tokens(study: Study) -> int:
    return min(study.block_tokens, study.tokens)


def _loaded(study: Study, model: Model) -> float:
    """Bytes of a model at work: its parameters, and again while they are converted; what a batch needs."""
    item = ITEM[study.compute_dtype]
    batch = 4096.0 * (8 * model.d_model + 3 * model.width) * item
    return (item + 4) * (model.parameters + model.embeddings) + batch


def _computed(study: Study, model: Model) -> float:
    """Bytes of the model and of a block of what it computes, where no activations are kept."""
    if study.source == "dump":
        return 0.0
    return _loaded(study, model) + stored_bytes(study, model, _block_tokens(study))


def _reading(study: Study, model: Model) -> float:
    """Bytes held by whoever reads all of a model's activations: a block, its parts; what computes it."""
    return 2 * _block(study, model) + _computed(study, model)


def _read(study: Study, tokens: float, *models: Model) -> dict[str, float]:
    """What reading ``tokens`` of models costs: bytes, or forward passes."""
    if study.source == "dump":
        return {"read": sum(stored_bytes(study, model, tokens) for model in models)}
    return {"forward": sum(tokens * model.forward(study.context) for model in models)}


def _ends(model: Model) -> float:
    """Bytes of embedding and unembedding, as read and preprocessed, in float32."""
    return 4.0 * 5 * model.vocabulary * model.d_model


def _layer(model: Model) -> float:
    """Bytes of a layer's weights, as read and preprocessed, in float32."""
    return 4.0 * 4 * model.parameters / model.layers


def _dump(study: Study, model: Model) -> Job:
    kept = study.source == "dump"
    return Job(
        "dump",
        held=kept * (3 * _block(study, model) + _loaded(study, model)) + 2 * OPENED * study.tokens,
        forward=study.tokens * model.forward(study.context) if kept else 0.0,
        written=5.0 * study.tokens + (stored_bytes(study, model, study.tokens) if kept else 0.0),
    )


def _moments(study: Study, model: Model) -> Job:
    tokens = study.tokens / study.ranges
    return Job(
        "moments",
        held=3 * 8.0 * model.layers * model.width**2 + _reading(study, model) + OPENED * study.tokens,
        within=within_flops(tokens, model),
        written=moment_bytes(study, model),
        **_read(study, tokens, model),
    )


def _histograms(study: Study, model: Model, part: int) -> Job:
    """The layers of a part; a model that computes them stops after the last."""
    tokens = min(study.histogram_tokens, study.tokens)
    layers = range(model.layers * part // study.parts, model.layers * (part + 1) // study.parts)
    neurons = len(layers) * model.width
    counts = 4.0 * MANY_SOURCES * HISTOGRAM_BINS * neurons
    cost = Job("histograms", temporary=counts, host=BINNED * tokens * neurons)
    _add(cost, _reading_layers(study, tokens, model, layers))
    cost.held = 2 * counts + _reading(study, model) + OPENED * study.tokens
    return cost


def _reading_layers(study: Study, tokens: float, model: Model, layers: range) -> dict[str, float]:
    """What reading some layers costs: their bytes, or forward passes that stop after the last."""
    share = (len(layers) if study.source == "dump" else layers.stop) / model.layers
    return {kind: share * cost for kind, cost in _read(study, tokens, model).items()}


def _merge(study: Study, rule: str) -> Job:
    """What the parts of models left: histograms of one model at a time, tables and profiles of all."""
    neurons = [model.neurons for model in study.models]
    if rule == "merge_histograms":
        each = 4.0 * MANY_SOURCES * HISTOGRAM_BINS
        held, read = 3 * each * max(neurons), each * sum(neurons)
        written = read
    else:
        profiles = sum(profile_bytes(study, model) for model in study.models)
        written = read = profiles + (300.0 + 30 * 2 * study.explain.top_tokens) * sum(neurons)
        held = 3 * profiles + (COLUMNS + 2 * TOP_TOKEN * study.explain.top_tokens) * sum(neurons)
    opened = OPENED * study.tokens * len(study.models)
    return Job(rule, held=held + opened, read=read, written=written)


def _products(study: Study, a: Model, b: Model) -> Job:
    tokens, rows = study.tokens / study.ranges, math.ceil(a.neurons / study.tiles)
    return Job(
        "products",
        held=product_bytes(rows, b.neurons)
        + _reading(study, a)
        + _reading(study, b)
        + 2 * OPENED * study.tokens,
        products=product_flops(tokens, rows, b.neurons),
        temporary=product_bytes(rows, b.neurons),
        **_read(study, tokens, a, b),
    )


def _correlate(study: Study, a: Model, b: Model) -> Job:
    rows = math.ceil(a.neurons / study.tiles)
    tile, moments = product_bytes(rows, b.neurons), moment_bytes(study, a) + moment_bytes(study, b)
    cut = study.ranges > 1
    read = {"read": tile * study.ranges} if cut else _read(study, study.tokens, a, b)
    return Job(
        "correlate",
        # Files that are mapped into memory count while there is room for them.
        held=(3 if cut else 1) * tile
        + (0 if cut else _reading(study, a) + _reading(study, b))
        + 4 * 8.0 * b.layers * b.width**2
        + 2 * summary_bytes(study, rows, b.neurons)
        + 2 * OPENED * study.tokens,
        products=0.0 if cut else product_flops(study.tokens, rows, b.neurons),
        rotations=rotation_flops(study.draws, rows, b),
        host=TURNED * study.draws * b.layers * b.width**2 + SUMMARISED * rows * b.neurons,
        written=summary_bytes(study, rows, b.neurons),
        **{**read, "read": read.get("read", 0.0) + study.ranges * moments},
    )


def _summaries(study: Study, pairs: list[tuple[int, int]]) -> float:
    return sum(
        study.tiles * summary_bytes(study, study.models[a].neurons / study.tiles, study.models[b].neurons)
        for a, b in pairs
    )


def _clusters(study: Study) -> Job:
    """Sums of each run of blocks: two of every neuron, one of every candidate pair; then its bootstraps."""
    summaries = _summaries(study, study.pairs)
    runs = min(MOST_RUNS, math.ceil(study.tokens / study.block_tokens))
    # The best of each neuron in either view, if none is in both.
    candidates = [
        study.candidates * (study.models[a].neurons + study.models[b].neurons) for a, b in study.pairs
    ]
    sums = 8.0 * runs * (2 * sum(model.neurons for model in study.models) + sum(candidates))
    resampled = (
        8.0 * study.bootstraps * (sum(candidates) + 6 * max(candidates, default=0))
    )  # and what one is made of
    return Job(
        "clusters",
        held=sum(_reading(study, model) + OPENED * study.tokens for model in study.models)
        + 2 * summaries
        + sums
        + resampled,
        products=2.0 * study.tokens * sum(candidates),
        **{**(cost := _read(study, study.tokens, *study.models)), "read": cost.get("read", 0.0) + summaries},
    )


def _tables(study: Study, rule: str) -> Job:
    """What reads tables, and hardly anything else."""
    first, neurons = study.models[0], sum(model.neurons for model in study.models)
    largest = max(study.models, key=lambda model: model.neurons)
    job = Job(rule)
    if rule != "published":
        job.held += COLUMNS * (first.neurons if rule == "baseline" else neurons)
    if rule in ("table", "roles", "intervene", "figure", "page"):  # the neuron table, of many columns
        job.held += COLUMNS * neurons
    if rule in ("baseline", "table", "figure", "report"):
        summaries = _summaries(study, [pair for pair in study.pairs if pair[0] == 0])
        job.held += 2 * summaries
        job.read += summaries
    if rule in ("table", "page", "report"):
        job.held += OPENED * study.tokens * len(study.models)
    if rule in ("table", "gallery", "page"):  # one model's counts by source, and what becomes of their sums
        job.held += (4.0 * MANY_SOURCES + 48) * HISTOGRAM_BINS * largest.neurons
    if rule == "table":  # one model's moments, and all examples
        job.held += 2 * (72.0 + 12 * study.examples) * largest.neurons + 120.0 * study.examples * neurons
        job.read += sum(study.ranges * moment_bytes(study, model) for model in study.models)
    if rule == "gallery":
        job.held += sum(profile_bytes(study, model) for model in study.models)
    if rule == "page":  # the rows of its examples (of a store, their blocks); tokens that neurons promote
        job.held += 2 * TOP_TOKEN * study.weights.effects * neurons
        each, left = (study.block_tokens if study.source == "dump" else study.context), study.page_neurons
        for model in study.models:  # the neurons of the reference come first
            shown = min(left, model.neurons)
            _add(job, _read(study, min(study.tokens, shown * study.page_examples * each), model))
            left -= shown
    if rule == "report":  # the rows of its snippets
        _add(job, _read(study, study.snippets * study.context, *study.models))
    if rule in ("page", "report") and study.source == "model":
        job.held += sum(_loaded(study, model) for model in study.models)
    return job


def _add(job: Job, cost: dict[str, float]) -> None:
    job.forward += cost.get("forward", 0.0)
    job.read += cost.get("read", 0.0)


def _text(study: Study) -> Job:
    """Labels of all tokens, features of the vocabulary, and one embedding after the other."""
    tokens = min(study.explain.tokens or study.tokens, study.tokens)
    features = max(model.vocabulary for model in study.models) * MANY_FEATURES
    opened = OPENED * study.tokens * len(study.models)
    return Job(
        "text",
        held=400.0 * tokens + 12.0 * features + max(map(_ends, study.models)) + opened,
        read=sum(map(_ends, study.models)),
        temporary=12.0 * tokens + features,
    )


def _explain(study: Study, model: Model, part: int) -> Job:
    """Sums by token id of some of the neurons of a part at a time.

    Bytes, per token id and neuron: three sums in float64 and a maximum in float32 (``first_pass``), and
    four more arrays in float64 while the best tokens are ranked. A block is there as values, squares, labels
    and what is made of them; the text as labels and codes. Tables and profiles are kept. A model that
    computes activations stops after the last layer that is read.
    """
    of = study.explain
    tokens = min(of.tokens or study.tokens, study.tokens)
    count = min(of.neurons_at_once or model.neurons, model.neurons)
    cost, explained = Job("explain"), 0
    runs = math.ceil(model.neurons / count)
    for number in range(runs * part // study.parts, runs * (part + 1) // study.parts):
        start, stop = number * count, min((number + 1) * count, model.neurons)
        layers = range(start // model.width, (stop - 1) // model.width + 1)
        _add(cost, _reading_layers(study, 2 * tokens, model, layers))
        explained += stop - start
    profiles = profile_bytes(study, model) * explained / model.neurons
    cost.temporary = profiles + (300.0 + 30 * 2 * of.top_tokens) * explained
    cost.held = (
        (28.0 + 32.0) * model.vocabulary * count
        + (40.0 * _block_tokens(study) + 64.0 * study.context + 48.0 * MANY_FEATURES) * count
        + 12.0 * model.vocabulary * MANY_FEATURES
        + 400.0 * tokens
        + (COLUMNS + 2 * TOP_TOKEN * of.top_tokens) * explained
        + 2 * profiles
        + _computed(study, model)
        + OPENED * study.tokens
    )
    if of.device == "cpu":  # an accelerator forms these sums in a fraction of its forward passes' time
        cost.host = EXPLAINED * tokens * explained
    return cost


def _weights(study: Study) -> Job:
    """Cosines with the vocabulary; with ``redundancy`` half of those between all neurons, of each vector and
    once more of those that write; with ``composition`` also that.
    """
    of, neurons = study.weights, sum(model.neurons for model in study.models)

    def held(model: Model) -> float:
        units = 4.0 * model.vectors * model.neurons * model.d_model if of.redundancy else 0.0
        if of.composition:
            units += 4.0 * (model.neurons * model.d_model + model.layers * model.d_model**2)
        measured = 8 * 4.0 * min(BLOCK_VALUES, model.width * model.vocabulary)  # eight arrays
        return units + _ends(model) + _layer(model) + 4.0 * TOKEN_FEATURES * model.vocabulary + measured

    return Job(
        "weights",
        held=max(map(held, study.models)) + (COLUMNS + 2 * TOP_TOKEN * of.effects) * neurons,
        weights=sum(
            2.0 * m.neurons * m.vocabulary * (m.d_model + TOKEN_FEATURES + 20)
            + 2.0 * m.vocabulary * m.d_model**2
            + of.redundancy * (1.0 + m.vectors) * m.neurons**2 * m.d_model
            + of.composition * _composition(study, m).weights
            for m in study.models
        ),
        read=sum(4.0 * (model.parameters + model.embeddings) for model in study.models),
        written=(300.0 + 30 * 2 * of.effects) * neurons,
    )


def _composition(study: Study, model: Model) -> Job:
    """Neurons' unit vectors, one factor per head, a layer; the result, and once more while it is written."""
    square = float(model.layers * model.d_model**2)
    return Job(
        "composition",
        held=2 * composition_bytes(model)
        + 4.0 * (model.neurons * model.d_model + square)
        + 2 * _layer(model),
        # Neurons before a head meet three factors of it, the others one.
        weights=(2.0 + model.vectors) * model.neurons * square,
        read=4.0 * (model.parameters + model.embeddings),
        written=composition_bytes(model),
    )


def _cosines(study: Study, model: Model) -> Job:
    """All unit vectors; a block with its bins and powers; the result in parts, whole, and written."""
    others = model.vectors * (2.0 * model.vocabulary + model.vectors * model.neurons)
    return Job(
        "cosines",
        held=4.0 * model.vectors * model.neurons * model.d_model
        + _ends(model)
        + _layer(model)
        + 10 * 4.0 * min(BLOCK_VALUES, model.width * max(model.width, model.vocabulary))
        + 3 * cosine_bytes(study, model),
        weights=2.0 * model.neurons * others * (model.d_model + 20),
        read=4.0 * (model.parameters + model.embeddings),
        written=cosine_bytes(study, model),
    )


def _logit_histograms(study: Study) -> Job:
    first, neurons = study.models[0], sum(model.neurons for model in study.models)
    return Job(
        "logit_histograms",
        held=_ends(first) + _layer(first) + 4.0 * TOKEN_FEATURES * first.vocabulary + COLUMNS * neurons,
        weights=3 * 2.0 * first.vocabulary * first.d_model,
        read=4.0 * first.embeddings,
    )


def _attention(study: Study) -> Job:
    """The model and its layers preprocessed, all neurons' directions and scores, what a pass keeps."""
    of, model = study.attention, study.models[0]
    item, batch = ITEM[of.dtype], max(of.batch_tokens, study.context)
    streams = (model.layers + 1) * model.d_model + 2 * model.neurons + 12 * model.width
    tokens = float(of.rows * study.context)
    projections = 10.0 * model.layers * model.d_model**2
    scores = 1.0 * model.neurons * model.layers * model.heads
    return Job(
        "attention",
        held=item * (2.0 * model.parameters + 2 * model.embeddings + model.neurons * model.d_model)
        + item * batch * (streams + 3.0 * model.heads * study.context)
        + 8 * scores
        + OPENED * study.tokens,
        forward=2 * tokens * (model.forward(study.context) + projections) + scores * model.d_model,
    )


def _intervene(study: Study) -> Job:
    """One prediction of every token for each intervention, and the blocks that come after its neuron.

    Entropy neurons, what is opposite to them and controls are in the last two layers, others anywhere.
    """
    of, model = study.intervene, study.models[0]
    item, batch = ITEM[of.dtype], max(of.batch_tokens, study.context)
    tokens = float(of.rows * study.context)
    whole = len(of.values) + len(of.clamps) + 3
    named = len(of.named) * whole
    late = (1 if of.named else of.candidates + 1) * whole + of.controls * (len(of.values) + 2)
    anywhere = named + 2 * of.ablated
    forward = model.forward(study.context)
    prediction = 2.0 * model.vocabulary * (model.d_model + 20)
    followed = 1 + (len(of.named) or of.candidates)
    streams = (model.layers + 2) * model.d_model + 2 * model.neurons + 12 * model.width
    return Job(
        "intervene",
        # All output weights are compared in float64; a batch has five arrays of logits.
        held=item * (model.parameters + 3 * model.embeddings)
        + (item + 24.0) * model.neurons * model.d_model
        + item * batch * (streams + 5.0 * model.vocabulary)
        + 16 * tokens * (2 + followed)
        + _tables(study, "intervene").held
        + OPENED * study.tokens,
        forward=tokens
        * ((2 + anywhere) * forward + late * forward / model.layers + (1 + anywhere + late) * prediction),
    )


def _similarity(study: Study) -> Job:
    """Four times (the partner and three nulls) values and 0 or 1, layer after layer of each partner."""
    first, partners = study.models[0], study.models[1:]
    tokens = min(study.similarity_tokens, study.tokens)
    item, block = max(4.0, ITEM[study.precision]), _block_tokens(study)
    largest = max(study.models, key=lambda model: model.width)
    passes = sum(model.layers for model in partners) + 1
    # Of a dump only the layer is read; a model computes all of them.
    again = [m for m in partners for _ in range(2 * (m.layers if study.source == "model" else 1))]
    return Job(
        "similarity",
        # A layer over all tokens and its order; sums; values of the reference, shifted, as 0 or 1 and in
        # float64; those of the layer and its nulls.
        held=(item * largest.width + 8.0) * tokens
        + 4 * 2 * product_bytes(first.neurons, largest.width)
        + (4 * item + 16.0) * block * first.neurons
        + 32.0 * item * block * largest.width
        + sum(_computed(study, model) for model in study.models)
        + OPENED * study.tokens * len(study.models),
        products=sum(8 * product_flops(tokens, first.neurons, model.neurons) for model in partners),
        rotations=sum(2.0 * tokens * model.neurons * model.width for model in partners),
        host=DRAWN * tokens * sum(model.neurons for model in partners),
        **_read(study, tokens, *[first] * passes, *again),
    )


def _checkpoints(study: Study) -> Job:
    first, partners = study.models[0], study.models[1:]
    tokens, steps = min(study.checkpoint_tokens, study.tokens), study.checkpoints
    largest = max(study.models, key=lambda model: model.neurons)
    return Job(
        "checkpoints",
        held=3 * (stored_bytes(study, largest, tokens) + 2 * _block(study, largest) + _loaded(study, largest))
        + 4 * 8.0 * largest.layers * largest.width**2
        + 2 * product_bytes(first.neurons, largest.neurons)
        + OPENED * study.tokens,
        forward=steps * sum(tokens * model.forward(study.context) for model in study.models),
        within=steps * sum(within_flops(tokens, model) for model in study.models),
        products=steps * sum(product_flops(tokens, first.neurons, model.neurons) for model in study.models),
        rotations=steps
        * sum(rotation_flops(study.checkpoint_draws, first.neurons, model) for model in partners),
    )


def seconds(job: Job, study: Study, settings: Settings) -> float:
    """Of one device at the share of its peak that is reached, of a core of the host, and of the disk."""

    def speed(dtype: str) -> float:
        peak = HARDWARE[settings.hardware].peak[dtype]
        if settings.peak_tflops is not None:
            peak = settings.peak_tflops * 1e12
        return settings.share * peak

    # Rotations are formed in float32 where products are in 16 bits.
    wide = "float32" if ITEM[study.precision] == 2 else study.precision
    computing = (
        job.forward / speed(study.compute_dtype)
        + (job.within + job.products) / speed(study.precision)
        + job.rotations / speed(wide)
        + job.weights / speed("float32")
    )
    disk = (job.read + job.written + job.temporary) / (settings.disk_gb_per_s * 1e9)
    return computing + job.host + disk


def plan(study: Study, settings: Settings) -> dict[str, Any]:
    """All of it, as ``plan.json`` holds it; bytes, FLOPs and hours are totals, ``megabytes`` of one job."""
    hardware = HARDWARE[settings.hardware]
    memory = settings.memory_gb or hardware.memory
    on_host = {*IN_HOST_MEMORY}
    if study.explain.device != "cpu":  # it holds the sums
        on_host.remove("explain")
    rules = {}
    for rule in (*RULES, *ON_REQUEST):
        work = jobs(study, rule)
        if not work:
            continue
        rules[rule] = {
            "jobs": len(work),
            "megabytes": max(job.megabytes for job in work),
            **{f"flops_{kind}": sum(getattr(job, kind) for job in work) for kind in KINDS},
            "bytes_read": sum(job.read for job in work),
            "bytes_written": sum(job.written for job in work),
            "bytes_temporary": sum(job.temporary for job in work),
            "hours": sum(seconds(job, study, settings) for job in work) / 3600,
            "hours_longest_job": max(seconds(job, study, settings) for job in work) / 3600,
            "fits_memory": (settings.hardware != "cpu_core" and rule in on_host)
            or max(job.megabytes for job in work) <= 1000 * memory,
            "on_request": rule in ON_REQUEST,
        }
    main_line = [row for row in rules.values() if not row["on_request"]]
    summed = [key for key in main_line[0] if key == "jobs" or key.startswith(("flops", "bytes"))]
    total: dict[str, Any] = {key: sum(row[key] for row in main_line) for key in summed}
    total["flops"] = sum(value for key, value in total.items() if key.startswith("flops"))
    total["megabytes"] = max(row["megabytes"] for row in main_line)
    total["hours"] = sum(row["hours"] for row in main_line)
    # What one rule waits for another is left out: at least the longest job of each.
    total["hours_on_all_devices"] = sum(
        max(row["hours"] / min(settings.devices, row["jobs"]), row["hours_longest_job"]) for row in main_line
    )
    # The dump that a study with dump.source: model does without.
    total["bytes_of_all_activations"] = sum(stored_bytes(study, m, study.tokens) for m in study.models)
    return {
        "study": study.model_dump(mode="json"),
        "hardware": {"name": settings.hardware, "what": hardware.what, "memory_gb": memory}
        | settings.model_dump(mode="json", exclude={"layers", "width", "memory_gb", "hardware"}),
        "rules": rules,
        "total": total,
    }


def table(planned: dict[str, Any]) -> str:
    """The plan for people."""
    study, hardware, total = planned["study"], planned["hardware"], planned["total"]
    lines = [f"study {study['name']}: {study['tokens']:,} tokens, dump.source {study['source']},"]
    lines[0] += f" {study['tiles']} tiles, {study['ranges']} ranges, products in {study['precision']}"
    for model in study["models"]:
        gated = ", gated" if model["gated"] else ""
        lines.append(
            f"  {model['name']}: {model['layers']} layers of {model['width']:,} neurons{gated}"
            f" ({model['read_from']})"
        )
    lines.append(f"hardware {hardware['name']}: {hardware['what']}")
    lines.append(
        f"  {100 * hardware['share']:.0f} % of the peak, {hardware['memory_gb']:g} GB,"
        f" disk {hardware['disk_gb_per_s']:g} GB/s, {hardware['devices']} at a time"
    )
    heads = ("rule", "jobs", "memory of a job", "FLOPs", "read", "written", "temporary", "hours")
    rows: list[tuple[str, ...]] = [heads]
    for rule, row in planned["rules"].items():
        flops = sum(value for key, value in row.items() if key.startswith("flops"))
        rows.append(_row(f"neurons_{rule}" + ("*" if row["on_request"] else ""), row, flops))
        if not row["fits_memory"]:
            rows[-1] = (*rows[-1][:2], rows[-1][2] + " (!)", *rows[-1][3:])
    rows.append(_row("all but *", total, total["flops"]))
    widths = [max(len(row[place]) for row in rows) for place in range(len(heads))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells))
    lines.append(
        f"FLOPs: {total['flops_forward']:.2g} forward, {total['flops_within']:.2g} within layers,"
        f" {total['flops_products']:.2g} products, {total['flops_rotations']:.2g} rotations,"
        f" {total['flops_weights']:.2g} products of weights"
    )
    lines.append(f"kept activations: {size(total['bytes_of_all_activations'])} if they were dumped")
    lines.append(f"{total['hours_on_all_devices']:.3g} hours on {hardware['devices']} at a time")
    lines.append("* no part of `snakemake neurons`: made where somebody asks for it")
    if any(not row["fits_memory"] for row in planned["rules"].values()):
        lines.append(
            "(!) more memory than such a device has: raise neurons.tiles, or lower neurons.dump.block_tokens,"
            " neurons.explain.neurons_at_once or the tokens of the target. What the host holds is not marked"
            " where another device is planned for."
        )
    return "\n".join(lines)


def _row(name: str, row: dict[str, Any], flops: float) -> tuple[str, ...]:
    sizes = (size(row[f"bytes_{kind}"]) for kind in ("read", "written", "temporary"))
    return (
        name,
        f"{row['jobs']:,}",
        size(1e6 * row["megabytes"]),
        f"{flops:.2g}",
        *sizes,
        "< 0.001" if 0 < row["hours"] < 0.001 else f"{row['hours']:.3g}",
    )


def local_configuration(path: str | None, hub: str | None, revision: str | None) -> Path | None:
    """The ``config.json`` of a model in a local folder or, downloaded before, in the hub's cache."""
    if path is not None:
        found: Any = str(Path(path).expanduser() / "config.json")
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(str(hub), "config.json", revision=revision)
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def model_size(name: str, config: Path) -> Model:
    """The size of the model that a ``config.json`` describes.

    Raises:
        UserError: it is no JSON, or says no sizes.
    """
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        hidden = values["n_embd"] if "n_embd" in values else values["hidden_size"]
        width = values.get("n_inner") if "n_embd" in values else values["intermediate_size"]
        return Model(
            name=name,
            layers=values["n_layer"] if "n_layer" in values else values["num_hidden_layers"],
            width=width or 4 * hidden,
            d_model=hidden,
            heads=values["n_head"] if "n_head" in values else values["num_attention_heads"],
            vocabulary=values["vocab_size"],
            gated=values.get("model_type") in ("llama", "qwen2"),
            read_from=str(config),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(
            f"{config}: found no sizes of a model in it ({type(error).__name__}: {error}), expected those of"
            " GPT-2, GPT-NeoX or Llama; check the file"
        ) from None


def main(study: Study, settings: Settings, out: Output) -> None:
    """Plan ``study``."""
    planned = plan(study, settings)
    write_json(out, planned)
    logger.info("%s", table(planned))


if __name__ == "__main__":
    run(main)
