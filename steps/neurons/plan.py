"""What a study of this chapter takes, before anything is submitted: bytes, FLOPs, memory, jobs, hours.

Needs no data and no network. Writes JSON and logs it as a table. The formulas are those from which rules
ask for memory and time (``steps/workflow`` calls :func:`jobs`).

A multiplication and an addition are two FLOPs. Counted are products of matrices: forward passes without the
unembedding (attention in full, though half of it is masked), products within layers (their upper triangle
and what lies beside its diagonal), products of pairs, rotations. With ``dump.source: model`` every job that
reads activations runs the models again. Hours are FLOPs over the share of the peak that is reached, plus
bytes over the bandwidth of the disk; start-up, scheduling and everything else that is not a product are
left out, and so are language models.
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
from steps.neurons.hardware import HARDWARE
from steps.neurons.moments import STRIP

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

MOST_RUNS = 256
"""Of token blocks that ``neurons.clusters`` resamples."""

STARTED = 1000.0
"""Megabytes of a job that has loaded its libraries and nothing else, with some room."""


class Settings(BaseSettings):
    """How large models are whose configuration is not here, and on what hardware the study is to run."""

    layers: int = Field(2, ge=1, description="MLP layers of listed models whose config.json is not here")
    width: int = Field(256, ge=1, description="neurons per layer of the same")
    vocabulary: int = Field(512, ge=1, description="tokens of the vocabulary")
    hardware: Literal["cpu_core", "v100", "a100", "h100"] = Field(
        "cpu_core", description="whose peak and memory the planner takes"
    )
    peak_tflops: float | None = Field(None, gt=0, description="of products, 1e12 FLOP/s; null: the vendor's")
    share: float = Field(0.5, gt=0, le=1, description="share of the peak that is reached")
    memory_gb: float | None = Field(None, gt=0, description="of one device; null: the vendor's")
    disk_gb_per_s: float = Field(1.0, gt=0, description="read from and written to disk by one job")
    devices: int = Field(1, ge=1, description="that work at the same time")


class Model(BaseSettings):
    """The size of a model."""

    name: str
    layers: int = Field(ge=1)
    width: int = Field(ge=1, description="neurons per layer (d_mlp)")
    d_model: int = Field(ge=1)
    gated: bool = False
    read_from: str = ""

    @property
    def neurons(self) -> int:
        """Of all layers."""
        return self.layers * self.width

    @property
    def parameters(self) -> float:
        """Of all blocks; neither embeddings nor vectors."""
        return self.layers * (4.0 * self.d_model**2 + (3 if self.gated else 2) * self.d_model * self.width)

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
    page_examples: int = Field(description="on the neuron page")
    snippets: int = Field(description="on the report page")

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
    read: float = 0.0
    """Bytes from disk."""
    written: float = 0.0
    """Bytes that stay."""
    temporary: float = 0.0
    """Bytes that are written and deleted once they are merged."""

    @property
    def flops(self) -> float:
        """Of all kinds."""
        return self.forward + self.within + self.products + self.rotations

    @property
    def megabytes(self) -> float:
        """Of memory."""
        return STARTED + self.held / 1e6


RULES = (
    *("dump", "moments", "histograms", "products", "correlate", "baseline", "clusters", "table", "figure"),
    *("page", "report"),
)
"""Of the chapter's target, whose totals are given; those of single models and pairs cut into jobs."""

ON_REQUEST = ("similarity", "checkpoints")
"""Targets of their own."""


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


def jobs(study: Study, rule: str) -> list[Job]:
    """Every job of a rule (``moments`` for ``neurons_moments``; ``tables``: any that reads tables only)."""
    models = study.models
    if rule == "dump":
        return [_dump(study, model) for model in models]
    if rule == "moments":
        return [_moments(study, model) for model in models for _ in range(study.ranges)]
    if rule in ("products", "correlate"):
        make = _products if rule == "products" else _correlate
        each = study.tiles * (1 if rule == "correlate" else study.ranges if study.ranges > 1 else 0)
        return [make(study, models[a], models[b]) for a, b in study.pairs for _ in range(each)]
    if rule == "histograms":
        return [_histograms(study)]
    if rule == "clusters":
        return [_clusters(study)]
    if rule in ("page", "report"):
        return [_shown(study, rule)]
    if rule == "similarity":
        return [_similarity(study)]
    if rule == "checkpoints":
        return [_checkpoints(study)] if study.checkpoints else []
    if rule in ("baseline", "table", "figure", "tables"):
        return [_tables(study, rule)]
    raise ValueError(rule)


def _block(study: Study, model: Model) -> float:
    """Bytes of a block of post-activations."""
    return max(4.0, ITEM[study.precision]) * min(study.block_tokens, study.tokens) * model.neurons


def _weights(study: Study, model: Model) -> float:
    """Bytes of a model at work: its parameters, and again while they are converted; what a batch needs."""
    item = ITEM[study.compute_dtype]
    embeddings = 60_000.0 * model.d_model if model.d_model > 256 else 4000.0 * model.d_model
    batch = 4096.0 * (8 * model.d_model + 3 * model.width) * item
    return (item + 4) * (model.parameters + embeddings) + batch


def _reading(study: Study, model: Model) -> float:
    """Bytes held by whoever reads a model's activations: a block, its parts; the model itself if need be."""
    block = 2 * _block(study, model)
    if study.source == "dump":
        return block
    return block + _weights(study, model) + stored_bytes(study, model, study.block_tokens)


def _read(study: Study, tokens: float, *models: Model) -> dict[str, float]:
    """What reading ``tokens`` of models costs: bytes, or forward passes."""
    if study.source == "dump":
        return {"read": sum(stored_bytes(study, model, tokens) for model in models)}
    return {"forward": sum(tokens * model.forward(study.context) for model in models)}


def _dump(study: Study, model: Model) -> Job:
    kept = study.source == "dump"
    return Job(
        "dump",
        held=3 * _block(study, model) + _weights(study, model) + 2 * OPENED * study.tokens,
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


def _histograms(study: Study) -> Job:
    tokens = min(study.histogram_tokens, study.tokens)
    largest = max(study.models, key=lambda model: model.neurons)
    counts = 4.0 * MANY_SOURCES * HISTOGRAM_BINS
    return Job(
        "histograms",
        held=2 * counts * largest.neurons
        + sum(_reading(study, model) + OPENED * study.tokens for model in study.models),
        written=sum(counts * model.neurons for model in study.models),
        **_read(study, tokens, *study.models),
    )


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
    summaries = _summaries(study, [pair for pair in study.pairs if pair[0] == 0])
    moments = sum(study.ranges * moment_bytes(study, model) for model in study.models)
    largest = max(study.models, key=lambda model: model.neurons)
    opened = {"table": 1, "page": len(study.models), "report": len(study.models)}.get(rule, 0)
    return Job(
        rule,
        held=2 * summaries
        + 2 * 8.0 * largest.layers * largest.width**2
        + 2000.0 * sum(model.neurons for model in study.models)
        + OPENED * study.tokens * opened,
        read=summaries + (moments if rule == "table" else 0),
    )


def _shown(study: Study, rule: str) -> Job:
    """The page reads the blocks of its examples, the report the rows of its snippets."""
    job = _tables(study, rule)
    if rule == "page":
        tokens = min(study.tokens, study.page_examples * study.block_tokens)
        job.held += sum(_reading(study, model) for model in study.models)
    else:
        tokens = study.snippets * study.context
        if study.source == "model":
            job.held += sum(_weights(study, model) for model in study.models)
    cost = _read(study, tokens, *study.models)
    job.forward += cost.get("forward", 0.0)
    job.read += cost.get("read", 0.0)
    return job


def _similarity(study: Study) -> Job:
    """Four times (the partner and three nulls) values and 0 or 1, layer after layer of each partner."""
    first, partners = study.models[0], study.models[1:]
    tokens = min(study.similarity_tokens, study.tokens)
    item = max(4.0, ITEM[study.precision])
    largest = max(study.models, key=lambda model: model.width)
    passes = sum(model.layers for model in partners) + 1
    # Of a dump only the layer is read; a model computes all of them.
    again = [m for m in partners for _ in range(2 * (m.layers if study.source == "model" else 1))]
    return Job(
        "similarity",
        held=item * tokens * largest.width
        + 4 * 2 * product_bytes(first.neurons, largest.width)
        + 4 * _reading(study, first)
        + 24.0 * item * study.block_tokens * largest.width
        + (_reading(study, largest) if study.source == "model" else 0.0)
        + OPENED * study.tokens * len(study.models),
        products=sum(8 * product_flops(tokens, first.neurons, model.neurons) for model in partners),
        rotations=sum(2.0 * tokens * model.neurons * model.width for model in partners),
        **_read(study, tokens, *[first] * passes, *again),
    )


def _checkpoints(study: Study) -> Job:
    first, partners = study.models[0], study.models[1:]
    tokens, steps = min(study.checkpoint_tokens, study.tokens), study.checkpoints
    largest = max(study.models, key=lambda model: model.neurons)
    return Job(
        "checkpoints",
        held=3
        * (stored_bytes(study, largest, tokens) + 2 * _block(study, largest) + _weights(study, largest))
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
    """Of one device at the share of its peak that is reached, and of the disk."""
    hardware = HARDWARE[settings.hardware]

    def speed(dtype: str) -> float:
        peak = hardware.peak[dtype] if settings.peak_tflops is None else settings.peak_tflops * 1e12
        return settings.share * peak

    # Rotations are formed in float32 where products are in 16 bits.
    wide = "float32" if ITEM[study.precision] == 2 else study.precision
    computing = (
        job.forward / speed(study.compute_dtype)
        + (job.within + job.products) / speed(study.precision)
        + job.rotations / speed(wide)
    )
    return computing + (job.read + job.written + job.temporary) / (settings.disk_gb_per_s * 1e9)


def plan(study: Study, settings: Settings) -> dict[str, Any]:
    """All of it, as ``plan.json`` holds it; bytes, FLOPs and hours are totals, ``megabytes`` of one job."""
    hardware = HARDWARE[settings.hardware]
    memory = settings.memory_gb or hardware.memory
    rules = {}
    for rule in (*RULES, *ON_REQUEST):
        work = jobs(study, rule)
        if not work:
            continue
        kinds = ("forward", "within", "products", "rotations")
        rules[rule] = {
            "jobs": len(work),
            "megabytes": max(job.megabytes for job in work),
            **{f"flops_{kind}": sum(getattr(job, kind) for job in work) for kind in kinds},
            "bytes_read": sum(job.read for job in work),
            "bytes_written": sum(job.written for job in work),
            "bytes_temporary": sum(job.temporary for job in work),
            "hours": sum(seconds(job, study, settings) for job in work) / 3600,
            "hours_longest_job": max(seconds(job, study, settings) for job in work) / 3600,
            "fits_memory": max(job.megabytes for job in work) <= 1000 * memory,
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
        f" {total['flops_products']:.2g} products, {total['flops_rotations']:.2g} rotations"
    )
    lines.append(f"kept activations: {size(total['bytes_of_all_activations'])} if they were dumped")
    lines.append(f"{total['hours_on_all_devices']:.3g} hours on {hardware['devices']} at a time")
    lines.append("* a target of its own: snakemake neurons_NAME")
    if any(not row["fits_memory"] for row in planned["rules"].values()):
        lines.append(
            "(!) more memory than such a device has: raise neurons.tiles, or lower neurons.dump.block_tokens"
            " or the tokens of the target"
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
        f"{row['hours']:.3g}",
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
