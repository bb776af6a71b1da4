"""What the rules of the neurons chapter need to know: its files, the size of the study, resources of jobs."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from steps.core.errors import UserError
from steps.core.statistics import fewest_draws
from steps.core.text import shown
from steps.interp import path_ablation, sizes
from steps.neurons import attention as neurons_attention
from steps.neurons import baseline as neurons_baseline
from steps.neurons import checkpoints as neurons_checkpoints
from steps.neurons import clusters as neurons_clusters
from steps.neurons import composition as neurons_composition
from steps.neurons import correlate as neurons_correlate
from steps.neurons import cosines as neurons_cosines
from steps.neurons import dump as neurons_dump
from steps.neurons import explain as neurons_explain
from steps.neurons import figure as neurons_figure
from steps.neurons import gallery as neurons_gallery
from steps.neurons import histograms as neurons_histograms
from steps.neurons import intervene as neurons_intervene
from steps.neurons import logit_histograms as neurons_logit_histograms
from steps.neurons import moments as neurons_moments
from steps.neurons import page as neurons_page
from steps.neurons import plan as neurons_plan
from steps.neurons import products as neurons_products
from steps.neurons import published as neurons_published
from steps.neurons import report as neurons_report
from steps.neurons import roles as neurons_roles
from steps.neurons import similarity as neurons_similarity
from steps.neurons import weights as neurons_weights
from steps.neurons.activations.store import Precision
from steps.neurons.correlations.products import range_blocks, tile_rows
from steps.neurons.costs.rules import FORMULAS
from steps.neurons.costs.study import Job, Study
from steps.neurons.explanations import text as explained_text
from steps.neurons.figures import galleries
from steps.neurons.selection.universal import UniversalSettings
from steps.workflow.language_models import model_size
from steps.workflow.resources import growing
from steps.workflow.section import Name, StudySection
from steps.workflow.user_files import declarable

if TYPE_CHECKING:
    from steps.workflow.configuration import Config

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


class Neurons(UniversalSettings, StudySection):
    """Universal neurons: which neurons come back in the other models."""

    study: Name = pydantic.Field("default", description="name of the study, its folder in results/neurons")
    reference: Name | None = pydantic.Field(
        None, description="the model whose neurons are judged; null: the first"
    )
    pairs: Literal["reference", "all"] = pydantic.Field(
        "all",
        description="which models are correlated. reference: it with each other one (paper); all: every pair",
    )
    tiles: int = pydantic.Field(1, ge=1, le=1000, description="row tiles of each pair, one job each")
    ranges: int = pydantic.Field(
        1, ge=1, le=1000, description="token ranges of each tile, one job each; their products are merged"
    )
    parts: int = pydantic.Field(
        1,
        ge=1,
        le=1000,
        description="parts of each model's neurons for histograms and explanations, one job each",
    )
    precision: Precision = pydantic.Field(
        "float32",
        description="of products: float32, float64; float16, bfloat16 for accelerators; totals are float64",
    )
    allow_self: bool = pydantic.Field(False, description="let a model be compared with itself")
    q: float = pydantic.Field(
        0.05,
        gt=0,
        lt=1,
        description="false discovery rate of the calibrated threshold, edges, explanations, and position,"
        " attention and entropy neurons",
    )
    plan: neurons_plan.Settings = pydantic.Field(
        neurons_plan.Settings(),
        description="size of models and hardware, from which jobs ask for memory and time; `snakemake"
        " neurons_plan` prints bytes, FLOPs, memory and hours before anything is submitted",
    )
    dump: neurons_dump.Settings = pydantic.Field(neurons_dump.Settings(), description="activations")
    moments: neurons_moments.Settings = pydantic.Field(
        neurons_moments.Settings(), description="sums of activations, and the top examples of every neuron"
    )
    histograms: neurons_histograms.Settings = pydantic.Field(
        neurons_histograms.Settings(), description="histograms of pre-activations"
    )
    products: neurons_products.Settings = pydantic.Field(neurons_products.Settings(), description="products")
    correlate: neurons_correlate.Settings = pydantic.Field(
        neurons_correlate.Settings(), description="correlations and rotations"
    )
    baseline: neurons_baseline.Settings = pydantic.Field(
        neurons_baseline.Settings(), description="excess over the rotated baseline"
    )
    clusters: neurons_clusters.Settings = pydantic.Field(
        neurons_clusters.Settings(), description="clusters of the same neuron across models"
    )
    similarity: neurons_similarity.Settings = pydantic.Field(
        neurons_similarity.Settings(), description="other measures and nulls: `snakemake neurons_similarity`"
    )
    checkpoints: neurons_checkpoints.Settings = pydantic.Field(
        neurons_checkpoints.Settings(),
        description="universality over the training of models that are trained here: `snakemake"
        " neurons_checkpoints`",
    )
    figure: neurons_figure.Settings = pydantic.Field(
        neurons_figure.Settings(), description="the chapter's figures"
    )
    explain: explained_text.Settings = pydantic.Field(
        explained_text.Settings(), description="explanations and families"
    )
    gallery: neurons_gallery.Settings = pydantic.Field(
        neurons_gallery.Settings(), description="galleries of families of neurons"
    )
    page: neurons_page.Settings = pydantic.Field(neurons_page.Settings(), description="the neuron page")
    weights: neurons_weights.Settings = pydantic.Field(
        neurons_weights.Settings(), description="what weights alone say"
    )
    composition: neurons_composition.Settings = pydantic.Field(
        neurons_composition.Settings(), description="composition of neurons and heads"
    )
    cosines: neurons_cosines.Settings = pydantic.Field(
        neurons_cosines.Settings(),
        description="summaries of all cosines, built only on request:"
        " results/neurons/STUDY/cosines/MODEL.safetensors",
    )
    roles: neurons_roles.Settings = pydantic.Field(
        neurons_roles.Settings(), description="roles from the effect on the vocabulary"
    )
    logit_histograms: neurons_logit_histograms.Settings = pydantic.Field(
        neurons_logit_histograms.Settings(), description="galleries of logit effects"
    )
    attention: neurons_attention.Settings = pydantic.Field(
        neurons_attention.Settings(), description="neurons that steer attention heads"
    )
    intervene: neurons_intervene.Settings = pydantic.Field(
        neurons_intervene.Settings(), description="interventions on single neurons"
    )
    published: neurons_published.Settings = pydantic.Field(
        neurons_published.Settings(), description="neuron tables of others"
    )
    report: neurons_report.Settings = pydantic.Field(
        neurons_report.Settings(), description="the chapter's part of the report"
    )

    @pydantic.model_validator(mode="after")
    def _draws_can_pass(self) -> Neurons:
        for name, draws, judge in (
            ("correlate", self.correlate.draws, self.baseline),
            ("correlate", self.correlate.draws, self.clusters),
            ("checkpoints", self.checkpoints.draws, self.checkpoints),
        ):
            q = judge.q if "q" in judge.model_fields_set else self.q  # which it inherits
            if draws < (fewest := fewest_draws(q)):
                raise UserError(
                    f"neurons.{name}.draws: found {draws}, expected at least {fewest}: no p-value is below"
                    f" 1 / (draws + 1), so none could be at most the false discovery rate {q:g}; raise draws"
                    " or neurons.q"
                )
        return self

    def pathvars(self) -> dict[str, str]:
        return {"neurons": f"results/neurons/{self.study}", "neurons_study": self.study}

    def user_files(self, config: Config) -> dict[str, list[str]]:
        require_sizes(config)
        return user_files(self)

    def agree(self, config: Config) -> None:
        names = config.language_models.names()
        if self.reference is not None and self.reference not in names:
            raise UserError(
                f"neurons.reference: found {self.reference!r}, expected one of {', '.join(names)}"
            )
        double = config.language_models.same_place()
        if double is not None and not self.allow_self:
            raise UserError(
                f"language_models.models: found one model under two names, {double[0]!r} and {double[1]!r},"
                " expected different ones; list each once, or set neurons.allow_self to compare a model with"
                " itself"
            )

    def report_file(self) -> str:
        return f"results/neurons/{self.study}/report.json"


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


def require_sizes(config: Config) -> None:
    """Check that there are the parts, tiles, ranges, positions, neurons and heads that settings name.

    Where a model's size is not known yet, its jobs find out, each before it does anything else.

    Raises:
        UserError: one does not, or a ``config.json`` says no sizes.
    """
    neurons, context = config.neurons, config.language_models.rows.n_ctx
    rows = -(-neurons.dump.tokens // context)  # the corpus may have fewer
    range_blocks(-(-rows // max(1, neurons.dump.block_tokens // context)), neurons.ranges, 0)
    path_ablation.between(neurons.attention.positions, context)
    for place, model in enumerate(model_size(config, name) for name in compared_models(config)):
        if model.read_from == "neurons.plan":
            continue
        tile_rows(model.neurons, neurons.tiles, 0)
        neurons_histograms.part_layers(model.layers, neurons.parts, 0)
        neurons_explain.slices(model.neurons, neurons.explain.neurons_at_once, neurons.parts, 0)
        if place == 0:
            neurons_intervene.require_neurons(neurons.intervene.named, model.layers, model.d_mlp)
            path_ablation.require_pairs(neurons.attention.named, model.layers, model.d_mlp, model.heads)


def checkpointed_models(config: Config) -> list[str]:
    """Every model, the reference first, where checkpoints of them are kept.

    Raises:
        UserError: none are.
    """
    if config.language_models.models or not config.language_models.train.checkpoints:
        raise UserError(
            "neurons.checkpoints: found no checkpoints of the models, expected models that are trained here"
            " (language_models.seeds, no language_models.models) with language_models.train.checkpoints"
            " above 0"
        )
    return model_ledgers(config)


def local_configurations(config: Config) -> list[str]:
    """The ``config.json`` of listed models in local folders, from which the planner knows their size."""
    paths = [model.path for model in config.language_models.models if model.path is not None]
    found = [sizes.local_configuration(path, None, None) for path in paths]
    return declarable([path for path in found if path is not None])


def study(config: Config) -> Study:
    """What decides how much work the configured study is."""
    chapter, names = config.language_models, compared_models(config)
    trained = chapter.train.checkpoints if not chapter.models else 0
    return Study(
        section=config.neurons.model_dump(mode="json"),
        models=[model_size(config, name) for name in names],
        pairs=[(names.index(a), names.index(b)) for a, b in compared_pairs(config)],
        n_ctx=chapter.rows.n_ctx,
        checkpoints=trained + 1 if trained else 0,
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


def user_files(neurons: Neurons) -> dict[str, list[str]]:
    """The user's files that the chapter reads, by their setting, to be declared as input.

    Raises:
        UserError: one is missing, since Snakemake looks only where it makes something of it; or it has a
            name that Snakemake cannot hold.
    """
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
    return user_files(config.neurons)["published.table"]


def resources(config: Config, step: str) -> dict[str, Any]:
    """Megabytes and minutes that a step of the neurons chapter asks for, and a GPU where it helps.

    Memory and work are those of the planner, of the largest job of the step, and grow with each attempt;
    minutes assume 20 GFLOP/s per thread, or 5 TFLOP/s of an accelerator, and half of them lost. Models run on
    the device of the dump where they stand in for one, and else on the step's own, as all products. What the
    host does that is no product takes one core, whatever the threads.
    """
    jobs = FORMULAS[step].jobs(study(config))
    section, dump = getattr(config.neurons, step, None), config.neurons.dump
    own = models = "cpu" if step == "dump" else getattr(section, "device", "cpu")
    if step in (COMPUTING if dump.source == "model" else ("dump", "checkpoints")):
        models = dump.device
    threads = getattr(section, "threads", 1)

    def speed(device: str) -> float:
        return 20e9 * threads if device == "cpu" else 5e12

    def seconds(job: Job) -> float:
        return job.forward / speed(models) + (job.flops - job.forward) / speed(own) + job.host

    minutes = 10 + 2 * max(map(seconds, jobs), default=0.0) / 60
    megabytes = max((job.megabytes for job in jobs), default=1000)
    return growing(megabytes, minutes, gpu={own, models} != {"cpu"})


def files(config: Config) -> list[str]:
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
    drawings = [f"{name}.{kind}" for name in drawn for kind in ("svg", "json")]
    folder = f"results/neurons/{config.neurons.study}"
    return [
        f"{folder}/{file}" for file in ("report.json", "metrics.json", "neurons.html", *tables, *drawings)
    ]
