"""What the Snakefile needs to know of the chapters: the whole configuration and its helpers.

Nobody else imports this module.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pydantic

from steps.core.digest import code_digest, file_digest
from steps.core.errors import UserError
from steps.core.settings import Settings, deciding, validate, without_influence
from steps.corpus import documents as corpus_step
from steps.corpus import files as corpus_folder
from steps.corpus import hub as corpus_hub
from steps.corpus.document import shown
from steps.language_models import evaluate as language_models_evaluate
from steps.language_models import rows as language_models_rows
from steps.language_models import sources as language_models_sources
from steps.language_models import tokenizer as language_models_tokenizer
from steps.language_models import train as language_models_train
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
from steps.neurons import moments as neurons_moments
from steps.neurons import page as neurons_page
from steps.neurons import plan as neurons_plan
from steps.neurons import products as neurons_products
from steps.neurons import published as neurons_published
from steps.neurons import report as neurons_report
from steps.neurons import roles as neurons_roles
from steps.neurons import similarity as neurons_similarity
from steps.neurons import weights as neurons_weights
from steps.neurons.activations import Precision
from steps.neurons.statistic_figures import STATISTICS
from steps.neurons.universal import UniversalSettings
from steps.report import page as report_page

MADE = ("data/raw/embedded", "data/corpora", "data/models", "results", "logs")
"""What the workflow makes."""

ROOT = Path(__file__).resolve().parents[1]
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What studies and models may be called: safe as part of a path on any system."""

Name = Annotated[str, pydantic.Field(pattern=rf"^{NAME}$", max_length=80)]


class Corpus(Settings):
    """The corpus."""

    study: Name = pydantic.Field("embedded", description="name of the corpus, its folder in data/corpora")
    documents: corpus_step.Settings = pydantic.Field(
        corpus_step.Settings(), description="where the text comes from and how it is split"
    )


class ListedModel(language_models_sources.Source):
    """An existing model."""

    name: Name = pydantic.Field(description="what it is called here")

    @pydantic.model_validator(mode="after")
    def _has_a_place(self) -> ListedModel:
        if self.path is None and self.hub is None:
            raise ValueError("a path, or a hub id with a revision")
        if self.name in ("tokenizer", "rows"):
            raise ValueError(f"another name than {self.name!r}, which is taken")
        return self


class LanguageModels(Settings):
    """The language models."""

    study: Name = pydantic.Field("default", description="name of the study, its folder in data/models")
    seeds: list[Annotated[int, pydantic.Field(ge=0)]] = pydantic.Field(
        [1, 2, 3, 4, 5], min_length=1, description="seeds of the models that are trained"
    )
    models: list[ListedModel] = pydantic.Field([], description="existing models; then nothing is trained")
    tokenizer: language_models_tokenizer.Settings = pydantic.Field(
        language_models_tokenizer.Settings(), description="the tokenizer that all share"
    )
    rows: language_models_rows.Settings = pydantic.Field(
        language_models_rows.Settings(), description="rows of tokens"
    )
    train: language_models_train.Settings = pydantic.Field(
        language_models_train.Settings(), description="the model and its training"
    )
    evaluate: language_models_evaluate.Settings = pydantic.Field(
        language_models_evaluate.Settings(), description="held-out losses"
    )

    @pydantic.field_validator("seeds", "models")
    @classmethod
    def _names_differ(cls, values: list[Any]) -> list[Any]:
        names = [getattr(value, "name", value) for value in values]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"names or seeds that differ ({double!r} is there twice)")
        return values

    def names(self) -> list[str]:
        """The models' names, in the order of the configuration."""
        return [model.name for model in self.models] or [f"seed-{seed}" for seed in self.seeds]

    def source(self, name: str) -> language_models_sources.Source:
        """Where a listed model comes from."""
        model = next(model for model in self.models if model.name == name)
        return language_models_sources.Source(path=model.path, hub=model.hub, revision=model.revision)

    def shared_tokenizer(self) -> language_models_tokenizer.Settings:
        """The tokenizer's settings: that of the first listed model where there are some."""
        if self.tokenizer.brought or not self.models:
            return self.tokenizer
        return self.tokenizer.model_copy(update=self.source(self.models[0].name).model_dump())


class Neurons(UniversalSettings):
    """Universal neurons."""

    study: Name = pydantic.Field("default", description="name of the study, its folder in results/neurons")
    reference: Name | None = pydantic.Field(None, description="the model whose neurons are judged")
    pairs: Literal["reference", "all"] = pydantic.Field("all", description="which models are correlated")
    tiles: int = pydantic.Field(1, ge=1, le=1000, description="row tiles of each pair, one job each")
    ranges: int = pydantic.Field(1, ge=1, le=1000, description="token ranges of each tile, one job each")
    precision: Precision = pydantic.Field("float32", description="of products; totals are float64")
    allow_self: bool = pydantic.Field(False, description="let a model be compared with itself")
    q: float = pydantic.Field(0.05, gt=0, lt=1, description="false discovery rate")
    plan: neurons_plan.Settings = pydantic.Field(
        neurons_plan.Settings(), description="size of the models and hardware, for resources and the planner"
    )
    dump: neurons_dump.Settings = pydantic.Field(neurons_dump.Settings(), description="activations")
    moments: neurons_moments.Settings = pydantic.Field(neurons_moments.Settings(), description="moments")
    histograms: neurons_histograms.Settings = pydantic.Field(
        neurons_histograms.Settings(), description="histograms of pre-activations"
    )
    products: neurons_products.Settings = pydantic.Field(neurons_products.Settings(), description="products")
    correlate: neurons_correlate.Settings = pydantic.Field(
        neurons_correlate.Settings(), description="correlations and rotations"
    )
    baseline: neurons_baseline.Settings = pydantic.Field(
        neurons_baseline.Settings(), description="thresholds"
    )
    clusters: neurons_clusters.Settings = pydantic.Field(neurons_clusters.Settings(), description="clusters")
    similarity: neurons_similarity.Settings = pydantic.Field(
        neurons_similarity.Settings(), description="other measures and nulls"
    )
    checkpoints: neurons_checkpoints.Settings = pydantic.Field(
        neurons_checkpoints.Settings(), description="universality over training"
    )
    figure: neurons_figure.Settings = pydantic.Field(neurons_figure.Settings(), description="figures")
    explain: neurons_explain.Settings = pydantic.Field(
        neurons_explain.Settings(), description="explanations and families"
    )
    gallery: neurons_gallery.Settings = pydantic.Field(neurons_gallery.Settings(), description="galleries")
    page: neurons_page.Settings = pydantic.Field(neurons_page.Settings(), description="the neuron page")
    weights: neurons_weights.Settings = pydantic.Field(
        neurons_weights.Settings(), description="what weights alone say"
    )
    composition: neurons_composition.Settings = pydantic.Field(
        neurons_composition.Settings(), description="composition of neurons and heads"
    )
    cosines: neurons_cosines.Settings = pydantic.Field(
        neurons_cosines.Settings(), description="summaries of all cosines"
    )
    roles: neurons_roles.Settings = pydantic.Field(
        neurons_roles.Settings(), description="roles from the effect on the vocabulary"
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
    report: neurons_report.Settings = pydantic.Field(neurons_report.Settings(), description="the report")


class Report(Settings):
    """The report page."""

    page: report_page.Settings = pydantic.Field(
        default=report_page.Settings(), description="how the page is made"
    )


class Config(Settings):
    """The whole configuration, one section per chapter (``config/default.yaml`` explains it).

    What stands above a step holds for every step below that has a setting of that name.
    """

    seed: int = pydantic.Field(0, ge=0, description="of everything random that has no seed of its own")
    device: str = pydantic.Field("cpu", description="where models run")
    threads: int = pydantic.Field(1, ge=1, le=1024, description="arithmetic threads of each job")
    corpus: Corpus = pydantic.Field(Corpus(), description="the corpus")
    language_models: LanguageModels = pydantic.Field(LanguageModels(), description="the language models")
    neurons: Neurons = pydantic.Field(Neurons(), description="universal neurons")
    report: Report = pydantic.Field(default=Report(), description="the report page")

    @pydantic.model_validator(mode="after")
    def _reference_is_there(self) -> Config:
        reference, names = self.neurons.reference, self.language_models.names()
        if reference is not None and reference not in names:
            raise UserError(f"neurons.reference: found {reference!r}, expected one of {', '.join(names)}")
        return self


def configure(config: dict[str, Any]) -> Config:
    """Check the configuration that Snakemake merged.

    Raises:
        UserError: unknown or wrong keys, all of them in one line.
    """
    validate(Config, config, "configuration")  # what is wrong, where it was written, before it is inherited
    return validate(Config, _inherit(Config, config, {}), "configuration")


def _inherit(model: type[Settings], values: Any, above: dict[str, Any]) -> Any:
    """``values`` with what their settings model knows and only the levels above say."""
    if not isinstance(values, dict):
        return values
    fields = model.model_fields
    plain = {key: value for key, value in above.items() if key in fields}
    whole = plain | values
    shared = above | {key: value for key, value in whole.items() if not isinstance(value, dict)}
    for key, field in fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            whole[key] = _inherit(field.annotation, whole.get(key, {}), shared)
    return whole


def reports(config: Config) -> dict[str, str]:
    """The ``report.json`` of every configured chapter that writes one, in the order of the page."""
    order = ("language_models", "neurons", "fractal", "skills", "dafny", "audit")
    studies = {name: getattr(getattr(config, name, None), "study", None) for name in order}
    return {name: f"results/{name}/{study}/report.json" for name, study in studies.items() if study}


def corpus_snapshot(config: Config) -> list[str]:
    """The frozen table that the corpus is made from; empty where the source is another."""
    return ["data/raw/embedded/stdlib.parquet"] if config.corpus.documents.source == "embedded" else []


class UserFiles(NamedTuple):
    """The user's files that the workflow reads, each to be declared as input."""

    corpus: list[str]
    odd_corpus: list[str]
    """Name and SHA-256 of those that Snakemake cannot hold (braces, control characters, bytes that are
    no UTF-8), to be declared as parameters."""
    models: dict[str, list[str]]
    tokenizer: list[str]


def user_files(config: Config) -> UserFiles:
    """Look for the user's files, so that a missing folder is noticed at once.

    Raises:
        UserError: a folder is missing or holds nothing of use.
    """
    try:
        corpus, odd = corpus_files(config)
        return UserFiles(corpus, odd, listed_model_files(config), brought_tokenizer_files(config))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); name another") from None


def corpus_files(config: Config) -> tuple[list[str], list[str]]:
    """The user's files that the corpus is made from; see :class:`UserFiles`.

    Raises:
        UserError: the folder is missing, holds none, or is one that the workflow writes into.
    """
    documents = config.corpus.documents
    if documents.source == "files":
        folder, key = Path(str(documents.files.folder)), "corpus.documents.files.folder"
        look: Callable[[Path], list[Path]] = corpus_folder.list_files
    elif documents.source == "hub" and Path(str(documents.hub.dataset)).is_dir():
        folder, key = Path(str(documents.hub.dataset)), "corpus.documents.hub.dataset"
        look = corpus_hub.list_files
    else:
        return [], []
    for made in map(Path, MADE):
        if folder.resolve().is_relative_to(made.resolve()) or made.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{key}: found {shown(folder)}, expected a folder apart from {made}, which the workflow"
                " makes; put the texts in a folder of their own"
            )
    paths = look(folder)
    plain = [path for path in paths if not re.search(r"[{}\x00-\x1f\ud800-\udfff]", str(path))]
    others = [f"{shown(path)} {file_digest(path)}" for path in paths if path not in set(plain)]
    return [str(path) for path in plain], others


def _growing(megabytes: float, minutes: float) -> dict[str, Any]:
    """Resources that grow with each attempt: a job that was killed for too little gets more."""
    return {
        "mem_mb": lambda wildcards, attempt: round(megabytes * attempt),
        "runtime": lambda wildcards, attempt: round(minutes * attempt),
    }


def corpus_resources(config: Config) -> dict[str, Any]:
    """What the corpus needs: megabytes of memory and minutes.

    Texts are streamed; memory grows with the number of documents, about 400 bytes each.
    """
    documents = config.corpus.documents
    if documents.source == "embedded":
        return _growing(2_000, 10)
    millions = (documents.hub.maximum_documents or 20_000_000) / 1e6 if documents.source == "hub" else 3
    return _growing(2_000 + 350 * millions, 30 + 60 * millions)


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


STEP_FIGURES = ["roles", "roles_by_depth", "logit_histograms", "attention", "interventions"]
"""The figures that other steps than ``figure`` draw, beside their tables."""


def listed_model_files(config: Config) -> dict[str, list[str]]:
    """The files of each listed model that lies in a local folder, to be declared as input.

    Raises:
        UserError: a folder is missing, holds no model, or has a name that Snakemake cannot hold.
    """
    return {
        model.name: _declarable(language_models_sources.model_files(Path(model.path).expanduser()))
        for model in config.language_models.models
        if model.path is not None
    }


def brought_tokenizer_files(config: Config) -> list[str]:
    """The files of a tokenizer that lies in a local folder, to be declared as input.

    Raises:
        UserError: the folder is missing, or has a name that Snakemake cannot hold.
    """
    source = config.language_models.shared_tokenizer().source
    if source.path is None:
        return []
    folder = language_models_sources.fetch(source, ())
    return _declarable(language_models_sources.tokenizer_files(folder))


def _declarable(paths: list[Path]) -> list[str]:
    odd = next((path for path in paths if re.search(r"[{}\x00-\x1f\ud800-\udfff]", str(path))), None)
    if odd is not None:
        raise UserError(f"{str(odd)!r}: found braces or control characters in a path; rename the folder")
    return [str(path) for path in paths]


def language_model_resources(config: Config, step: str) -> dict[str, Any]:
    """Megabytes and minutes that a step of the language models asks for, and a GPU where it helps.

    Both grow with each attempt; minutes assume 20 GFLOP/s per thread. The size of listed models follows
    from ``neurons.plan``, MLPs taken to be four times as wide as the residual stream.
    """
    chapter = config.language_models
    train, context = chapter.train, chapter.rows.context
    parameters = 12 * train.layers * train.width**2 + (chapter.tokenizer.vocabulary + context) * train.width
    batch = train.batch_rows * context * (40 * train.layers * train.width + 3 * chapter.tokenizer.vocabulary)
    plan = config.neurons.plan
    listed = 1.5e8 + 0.75 * plan.layers * plan.width**2  # embeddings, blocks
    megabytes, work, threads, device = {
        "tokenizer": (3_000, 0.0, chapter.tokenizer.threads, "cpu"),
        "rows": (4_000, 0.0, chapter.rows.threads, "cpu"),
        "train": (
            2_000 + (16 * parameters + 4 * batch) / 1e6,
            6.0 * parameters * train.tokens,
            train.threads,
            train.device,
        ),
        "import": (6_000 + 4 * listed / 1e6, 0.0, 1, "cpu"),
        "evaluate": (
            4_000 + 5 * listed / 1e6 * bool(chapter.models),
            2.0
            * (listed if chapter.models else parameters)
            * chapter.evaluate.rows
            * context
            * len(chapter.names()),
            chapter.evaluate.threads,
            chapter.evaluate.device,
        ),
        "ngrams": (4_000, 0.0, 1, "cpu"),
    }[step]
    minutes = 20 + work / (20e9 * 60 * threads) * 2
    resources = _growing(megabytes, minutes)
    if device != "cpu":
        resources["gpu"] = 1
    return resources


def rows_ledger(config: Config) -> str:
    """The packed rows on which models are trained and compared."""
    return f"data/models/{config.language_models.study}/rows/{config.corpus.study}/ledger.json"


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
    return _declarable([path for path in found if path is not None])


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
        figures=len(NEURON_FIGURES),
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
    return [] if topics is None else _declarable([topics])


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
    resources = _growing(max((job.megabytes for job in jobs), default=1000), 10 + 2 * work / speed / 60)
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
        # All neurons' unit vectors, a raw and a processed layer, embedding and unembedding.
        "weights": (
            4.0 * (2 * count + 12 * width + 5 * vocabulary) * d_model + 1e9,
            4.0 * models * count * d_model * (0.75 * count * neurons.weights.redundancy + 25_000),
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


def prepare_environment() -> None:
    """Let jobs find this environment's ``python`` and this checkout's ``steps``."""
    for variable, folder in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", ROOT)):
        others = [p for p in os.environ.get(variable, "").split(os.pathsep) if p and p != str(folder)]
        os.environ[variable] = os.pathsep.join([str(folder), *others])


def step_params(config: Config) -> Callable[[str], dict[str, Any]]:
    """The helper ``step("chapter.step")`` with which a rule passes settings and code digest.

    Settings go behind a function of wildcards, since Snakemake formats plain strings and JSON is
    full of braces. Both are parameters, so a change of either reruns what depends on it. Settings without
    influence on the result are no parameters; rules take them from :func:`settings_aside`.
    """

    def step(name: str) -> dict[str, Any]:
        section, _, key = name.partition(".")
        settings = getattr(getattr(config, section), key, None)
        params: dict[str, Any] = {"code": code_digest(name)}
        if settings is not None:
            params["settings"] = tracked(settings)
        return params

    return step


def tracked(settings: Settings) -> Callable[[Any], str]:
    """Settings as a parameter: JSON of those that decide results."""
    text = json.dumps(deciding(settings), ensure_ascii=False)
    return lambda wildcards: text


def settings_aside(config: Config) -> dict[str, str]:
    """Of each step, by name, the settings without influence on the result, as JSON.

    Rules format them into the command, ``{aside[corpus.documents]:q}``, where no change makes anything anew.
    """
    return {
        f"{section}.{step}": json.dumps(without_influence(settings))
        for section, chapter in config
        if isinstance(chapter, Settings)
        for step, settings in chapter
        if isinstance(settings, Settings)
    }


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
    )
    tables = [f"{name}.parquet" for name in (*names, "explanations", "tokens")]
    drawn = [f"figures/{figure}" for figure in NEURON_FIGURES + STEP_FIGURES]
    drawn += [f"galleries/{family}" for family in GALLERIES]
    files = [f"{name}.{kind}" for name in drawn for kind in ("svg", "json")]
    folder = f"results/neurons/{config.neurons.study}"
    return [f"{folder}/{file}" for file in ("report.json", "metrics.json", "neurons.html", *tables, *files)]
