"""What the rules of the neurons chapter need to know: its files, the size of the study, resources of jobs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.neurons import figure as neurons_figure
from steps.neurons import gallery as neurons_gallery
from steps.neurons import plan as neurons_plan
from steps.neurons.statistic_figures import STATISTICS
from steps.workflow.common import declarable, growing

if TYPE_CHECKING:
    from steps.workflow import Config

NEURONS = "results/neurons/{study}"
"""The folder of a study, as rules write it."""

GALLERIES = list(neurons_gallery.GALLERIES)
"""The galleries of families of neurons."""

COMPUTING = (
    *("moments", "histograms", "explain", "products", "correlate", "clusters", "page", "report"),
    *("similarity", "checkpoints"),
)
"""The steps of the neurons chapter that run models where no activations are kept."""

NEURON_FIGURES = [*neurons_figure.FIGURES, *STATISTICS]
"""The figures of the neurons chapter."""


STEP_FIGURES = ["roles", "roles_by_depth", "logit_histograms", "attention", "interventions", "suppression"]
"""The figures that other steps than ``figure`` draw, beside their tables."""


def compared_models(config: Config) -> list[str]:
    """The models that are compared, the reference first."""
    names = config.language_models.names()
    reference = config.neurons.reference or names[0]
    return [reference, *(name for name in names if name != reference)]


def compared_pairs(config: Config) -> list[tuple[str, str]]:
    """The pairs of models that are correlated, those of the reference first."""
    names = compared_models(config)
    pairs = list(itertools.combinations(names, 2))
    return [pair for pair in pairs if config.neurons.pairs == "all" or pair[0] == names[0]]


def ranges(config: Config) -> range:
    """The numbers of the token ranges."""
    return range(config.neurons.ranges)


def product_ranges(config: Config) -> range:
    """The token ranges whose products are files of their own: none where there is one range."""
    return range(config.neurons.ranges if config.neurons.ranges > 1 else 0)


def activation_ledgers(config: Config) -> list[str]:
    """The activations of every model, the reference first."""
    return [f"{NEURONS}/activations/{name}/ledger.json" for name in compared_models(config)]


def model_ledgers(config: Config) -> list[str]:
    """Every model that is compared, the reference first."""
    return [
        f"data/models/{config.language_models.study}/{name}/ledger.json" for name in compared_models(config)
    ]


def moment_files(config: Config) -> list[str]:
    """The moments of every model and token range, model by model."""
    return [
        f"{NEURONS}/moments/{name}/range-{index}.safetensors"
        for name in compared_models(config)
        for index in ranges(config)
    ]


def correlation_files(config: Config, reference: bool = False) -> list[str]:
    """The correlations of every pair and tile; with ``reference``, of the reference's pairs only."""
    names = compared_models(config)
    return [
        f"{NEURONS}/correlations/{a}/{b}/tile-{tile}.safetensors"
        for a, b in compared_pairs(config)
        if not reference or a == names[0]
        for tile in range(config.neurons.tiles)
    ]


def neuron_model(config: Config, name: str) -> neurons_plan.Model:
    """The size of a model: as it is trained, as its config.json says where that is here, else as planned."""
    train, planned = config.language_models.train, config.neurons.plan
    if not config.language_models.models:
        width = 4 * train.width
        shape = {"layers": train.layers, "width": width, "d_model": train.width}
        return neurons_plan.Model(name=name, **shape, read_from="language_models.train")
    source = config.language_models.source(name)
    found = neurons_plan.local_configuration(source.path, source.hub, source.revision)
    if found is not None:
        return neurons_plan.model_size(name, found)
    shape = {"layers": planned.layers, "width": planned.width, "d_model": -(-planned.width // 4)}
    return neurons_plan.Model(name=name, **shape, read_from="neurons.plan")


def local_configurations(config: Config) -> list[str]:
    """The ``config.json`` of listed models in local folders, from which the planner knows their size."""
    paths = [model.path for model in config.language_models.models if model.path is not None]
    found = [neurons_plan.local_configuration(path, None, None) for path in paths]
    return declarable([path for path in found if path is not None])


def neuron_study(config: Config) -> neurons_plan.Study:
    """What decides how much work the configured study is."""
    neurons, chapter = config.neurons, config.language_models
    names = compared_models(config)
    trained = chapter.train.checkpoints if not chapter.models else 0
    return neurons_plan.Study(
        name=neurons.study,
        models=[neuron_model(config, name) for name in names],
        pairs=[(names.index(a), names.index(b)) for a, b in compared_pairs(config)],
        tiles=neurons.tiles,
        ranges=neurons.ranges,
        tokens=neurons.dump.tokens,
        context=chapter.rows.context,
        block_tokens=neurons.dump.block_tokens,
        source=neurons.dump.source,
        dtype=neurons.dump.dtype,
        compute_dtype=neurons.dump.compute_dtype,
        precision=neurons.precision,
        examples=neurons.moments.examples,
        top=neurons.correlate.top,
        draws=neurons.correlate.draws,
        similarity_tokens=neurons.similarity.tokens or neurons.dump.tokens,
        checkpoint_tokens=neurons.checkpoints.tokens,
        checkpoint_draws=neurons.checkpoints.draws,
        checkpoints=trained + 1 if trained else 0,
        bootstraps=neurons.clusters.bootstraps,
        candidates=neurons.clusters.candidates,
        histogram_tokens=neurons.histograms.tokens or neurons.dump.tokens,
        page_examples=neurons.page.neurons * neurons.page.examples,
        snippets=neurons.report.clusters * neurons.report.snippets,
    )


def further_columns(config: Config) -> list[str]:
    """Tables whose columns the neuron table takes in."""
    return [f"{NEURONS}/weights.parquet"]


def logit_effects(config: Config) -> list[str]:
    """Tables of the tokens that each neuron promotes and suppresses most, for the neuron page."""
    return [f"{NEURONS}/logit_effects.parquet"]


def family_tables(config: Config) -> list[str]:
    """Tables of the family of each neuron and the evidence for it, for the neuron page."""
    return [f"{NEURONS}/explanations.parquet"]


def topic_files(config: Config) -> list[str]:
    """The user's topic sets, to be declared as input; none where they are learned."""
    topics = config.neurons.explain.topics
    return [] if topics is None else declarable([topics])


def published_table(config: Config) -> str:
    """The neuron table of others that is to be classified.

    Raises:
        UserError: none is named.
    """
    if config.neurons.published.table is None:
        raise UserError("neurons.published.table: found nothing, expected a CSV or parquet file to classify")
    return config.neurons.published.table


def neuron_resources(config: Config, step: str) -> dict[str, Any]:
    """Megabytes and minutes that a step of the neurons chapter asks for, and a GPU where it helps.

    Memory and work are those of the planner, of the largest job of the step, and grow with each attempt;
    minutes assume 20 GFLOP/s per thread, or 5 TFLOP/s of an accelerator, and half of them lost.
    """
    neurons = config.neurons
    study = neuron_study(config)
    planned = step in (*neurons_plan.RULES, *neurons_plan.ON_REQUEST, "tables")
    jobs = neurons_plan.jobs(study, step) if planned else [_further_job(config, study, step)]
    section = getattr(neurons, step, None)
    devices = {getattr(section, "device", "cpu")} if step != "dump" else set()
    computed = neurons.dump.source == "model"
    if step in (COMPUTING if computed else ("dump", "checkpoints")):
        devices.add(neurons.dump.device)
    accelerated = bool(devices - {"cpu"})
    speed = 5e12 if accelerated else 20e9 * getattr(section, "threads", config.threads)
    work = max((job.flops for job in jobs), default=0.0)
    resources = growing(max((job.megabytes for job in jobs), default=1000), 10 + 2 * work / speed / 60)
    if accelerated:
        resources["gpu"] = 1
    return resources


def _further_job(config: Config, study: neurons_plan.Study, step: str) -> neurons_plan.Job:
    """What a step outside the planner's main line takes, of which all FLOPs are given as forward passes."""
    neurons = config.neurons
    largest = max(study.models, key=lambda model: model.neurons)
    width, layers, count, d_model = largest.width, largest.layers, largest.neurons, largest.d_model
    models, tokens, context = len(study.models), study.tokens, study.context
    vocabulary = neurons.plan.vocabulary
    block = 4.0 * study.block_tokens * count
    anew = largest.forward(context) if study.source == "model" else 10.0 * count  # per token
    explained = min(neurons.explain.tokens or tokens, tokens)
    at_once = min(neurons.explain.neurons_at_once or count, count)
    weights = 4.0 * (largest.parameters + vocabulary * d_model)
    tried = 3 * (len(neurons.intervene.values) + 3) + 10 * neurons.intervene.controls
    tried += 2 * neurons.intervene.ablated
    held, work = {
        # All neurons' unit vectors, a raw and a processed layer, embedding and unembedding; for composition a
        # matrix for each layer, and output vectors once more.
        "weights": (
            4.0 * (3 * count + 12 * width + 5 * vocabulary + layers * d_model) * d_model + 1e9,
            4.0
            * models
            * count
            * d_model
            * (
                0.75 * count * neurons.weights.redundancy
                + layers * d_model * neurons.weights.composition
                + 25_000
            ),
        ),
        # Heads are taken for a quarter of d_model in number, at most 64.
        "composition": (
            16.0 * count * layers * 64 + 4.0 * (count + 3 * layers * width) * d_model,
            2.0 * count * count * d_model,
        ),
        "cosines": (
            4.0 * (2 * count + 5 * vocabulary) * d_model + 2e9,
            4.0 * count * d_model * (2.0 * count + 200_000),
        ),
        # Five tables by token and the labels by code, and what a token's labels take while they are made.
        "explain": (
            48.0 * vocabulary * at_once + 6 * block + 400.0 * explained,
            models * (2 * -(-count // at_once) * anew + 60.0 * count) * explained,
        ),
        # All weights, the kept residual streams of a batch, and a batch's logits (three copies).
        "attention": (
            1.5 * weights + 16.0 * neurons.attention.batch_tokens * (count + 12 * width),
            24.0 * neurons.attention.rows * context * count * d_model,
        ),
        "intervene": (
            1.5 * weights + 12.0 * neurons.intervene.batch_tokens * (count + vocabulary),
            tried
            * neurons.intervene.rows
            * context
            * (largest.forward(context) + 2.0 * d_model * vocabulary),
        ),
    }[step]
    return neurons_plan.Job(step, held=held, forward=work)


def neuron_files(config: Config) -> list[str]:
    """What is kept of the neurons chapter.

    Raises:
        UserError: there are no two models to compare.
    """
    if len(models := config.language_models.names()) < 2:
        raise UserError(f"language_models: found one model ({models[0]}), expected at least 2 to compare")
    names = (
        "neurons",
        "examples",
        "excess",
        "clusters",
        "edges",
        "weights",
        "logit_effects",
        "roles",
        "depth",
        "attention_neurons",
    )
    tables = [f"{name}.parquet" for name in (*names, "explanations", "tokens")]
    drawn = [f"figures/{figure}" for figure in NEURON_FIGURES + STEP_FIGURES]
    drawn += [f"galleries/{family}" for family in GALLERIES]
    files = [f"{name}.{kind}" for name in drawn for kind in ("svg", "json")]
    folder = f"results/neurons/{config.neurons.study}"
    return [f"{folder}/{file}" for file in ("report.json", "metrics.json", "neurons.html", *tables, *files)]
