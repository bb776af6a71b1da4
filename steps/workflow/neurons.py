"""What the rules of the neurons chapter need to know: its files, the size of the study, resources of jobs."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.corpus.sources.document import shown
from steps.neurons import explain as neurons_explain
from steps.neurons import figure as neurons_figure
from steps.neurons import histograms as neurons_histograms
from steps.neurons import plan as neurons_plan
from steps.neurons.figures import galleries
from steps.workflow.common import declarable, growing

if TYPE_CHECKING:
    from steps.workflow import Config

NEURONS = "<neurons>"
"""The folder of a study, as rules write it."""

GALLERIES = list(galleries.GALLERIES)
"""The galleries of families of neurons."""

COMPUTING = (
    *("moments", "histograms", "explain", "products", "correlate", "clusters", "page", "report"),
    *("similarity", "checkpoints"),
)
"""The steps of the neurons chapter that run models where no activations are kept."""

NEURON_FIGURES = [name for name in neurons_figure.FIGURES if name not in ("similarity", "checkpoints")]
"""The figures of the chapter's target."""


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
    return [f"<models>/{name}/ledger.json" for name in compared_models(config)]


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


def parts_of_models(config: Config, *files: str) -> list[str]:
    """``files`` of every part of every model's neurons, model by model."""
    return [
        f"{NEURONS}/parts/{name}/part-{part}/{file}"
        for name in compared_models(config)
        for part in range(config.neurons.parts)
        for file in files
    ]


def neuron_model(config: Config, name: str) -> neurons_plan.Model:
    """The size of a model: as it is trained, as its config.json says where that is here, else as planned."""
    chapter, planned = config.language_models, config.neurons.plan
    if not chapter.models:
        return neurons_plan.Model(
            name=name,
            layers=chapter.train.layers,
            width=4 * chapter.train.width,
            d_model=chapter.train.width,
            heads=chapter.train.heads,
            vocabulary=chapter.tokenizer.vocabulary,
            read_from="language_models.train",
        )
    source = chapter.source(name)
    found = neurons_plan.local_configuration(source.path, source.hub, source.revision)
    if found is not None:
        return neurons_plan.model_size(name, found)
    d_model = -(-planned.width // 4)
    return neurons_plan.Model(
        name=name,
        layers=planned.layers,
        width=planned.width,
        d_model=d_model,
        heads=-(-d_model // 64),
        vocabulary=planned.vocabulary,
        read_from="neurons.plan",
    )


def require_parts(config: Config) -> None:
    """Check that ``neurons.parts`` are there; where a model's size is not known yet, its jobs find out.

    Raises:
        UserError: a model has fewer, or a ``config.json`` says no sizes.
    """
    parts, at_once = config.neurons.parts, config.neurons.explain.neurons_at_once
    for model in [neuron_model(config, name) for name in compared_models(config)]:
        if model.read_from != "neurons.plan":
            neurons_histograms.part_layers(model.layers, parts, 0)
            neurons_explain.slices(model.neurons, at_once, parts, 0)


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
        parts=neurons.parts,
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
        page_neurons=neurons.page.neurons,
        page_examples=neurons.page.examples,
        snippets=neurons.report.clusters * neurons.report.snippets,
        explain=neurons.explain,
        weights=neurons.weights,
        cosines=neurons.cosines,
        attention=neurons.attention,
        intervene=neurons.intervene,
    )


def single_figures(config: Config) -> dict[str, str]:
    """The figures that are drawn by jobs of their own, since one table is all that they need, and that table.

    Those built only on request; and where roles are told from weights alone, theirs, so that no activations
    are needed.
    """
    tables = {"similarity": "similarity", "checkpoints": "checkpoints"}
    if not config.neurons.roles.activations:
        tables |= {"roles": "roles", "roles_by_depth": "depth"}
    return {name: f"results/neurons/{config.neurons.study}/{table}.parquet" for name, table in tables.items()}


def joint_figures(config: Config) -> list[str]:
    """The figures of the chapter's target that one job draws."""
    return [name for name in NEURON_FIGURES if name not in single_figures(config)]


def further_columns(config: Config) -> list[str]:
    """Tables whose columns the neuron table takes in."""
    return [f"{NEURONS}/weights.parquet"]


def logit_effects(config: Config) -> list[str]:
    """Tables of the tokens that each neuron promotes and suppresses most, for the neuron page."""
    return [f"{NEURONS}/logit_effects.parquet"]


def family_tables(config: Config) -> list[str]:
    """Tables of the family of each neuron and the evidence for it, for the neuron page."""
    return [f"{NEURONS}/explanations.parquet"]


def neuron_user_files(config: Config) -> dict[str, list[str]]:
    """The user's files that the chapter reads, by their setting, to be declared as input.

    Raises:
        UserError: one is missing, since Snakemake looks only where it makes something of it; or it has a
            name that Snakemake cannot hold.
    """
    neurons = config.neurons
    named: dict[str, list[str | Path | None]] = {
        "explain.topics": [neurons.explain.topics],
        "figure.beside": [*neurons.figure.beside],
        "published.table": [neurons.published.table],
    }
    found = {
        key: declarable([Path(os.path.expanduser(path)) for path in paths if path])
        for key, paths in named.items()
    }
    for key, paths in found.items():
        for path in map(Path, paths):
            own = path.is_relative_to(f"results/neurons/{neurons.study}")  # made on the way
            if not own and not path.is_file():
                raise UserError(f"neurons.{key}: found {shown(path)}, which is no file; name one that is")
    return found


def published_table(config: Config) -> list[str]:
    """The neuron table of others that is to be classified.

    Raises:
        UserError: none is named.
    """
    if config.neurons.published.table is None:
        raise UserError("neurons.published.table: found nothing, expected a CSV or parquet file to classify")
    return neuron_user_files(config)["published.table"]


def neuron_resources(config: Config, step: str) -> dict[str, Any]:
    """Megabytes and minutes that a step of the neurons chapter asks for, and a GPU where it helps.

    Memory and work are those of the planner, of the largest job of the step, and grow with each attempt;
    minutes assume 20 GFLOP/s per thread, or 5 TFLOP/s of an accelerator, and half of them lost. Models run on
    the device of the dump where they stand in for one, and else on the step's own, as all products. What the
    host does that is no product takes one core, whatever the threads.
    """
    jobs = neurons_plan.jobs(neuron_study(config), step)
    section, dump = getattr(config.neurons, step, None), config.neurons.dump
    own = models = "cpu" if step == "dump" else getattr(section, "device", "cpu")
    if step in (COMPUTING if dump.source == "model" else ("dump", "checkpoints")):
        models = dump.device
    threads = getattr(section, "threads", 1)

    def speed(device: str) -> float:
        return 20e9 * threads if device == "cpu" else 5e12

    def seconds(job: neurons_plan.Job) -> float:
        return job.forward / speed(models) + (job.flops - job.forward) / speed(own) + job.host

    minutes = 10 + 2 * max(map(seconds, jobs), default=0.0) / 60
    resources = growing(max((job.megabytes for job in jobs), default=1000), minutes)
    if {own, models} != {"cpu"}:
        resources["gpu"] = 1
    return resources


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
        "attention_heads",
        "attention_neurons",
        "attention_pairs",
        "interventions",
        "reversals",
        "suppression",
    )
    tables = [f"{name}.parquet" for name in (*names, "explanations", "tokens")]
    drawn = [f"figures/{figure}" for figure in NEURON_FIGURES]
    drawn += [f"galleries/{family}" for family in GALLERIES]
    files = [f"{name}.{kind}" for name in drawn for kind in ("svg", "json")]
    folder = f"results/neurons/{config.neurons.study}"
    return [f"{folder}/{file}" for file in ("report.json", "metrics.json", "neurons.html", *tables, *files)]
