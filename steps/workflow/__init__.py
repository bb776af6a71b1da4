"""What the Snakefile needs to know of the chapters: the whole configuration and its helpers.

Nobody else imports this module.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pydantic

from steps.core import sources
from steps.core.devices import Device
from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.settings import (  # noqa: F401 (for the Snakefile)
    Settings,
    deciding,
    require_unique_keys,
    validate,
    without_influence,
)
from steps.corpus import documents as corpus_step
from steps.corpus.sources import files as corpus_folder
from steps.corpus.sources import hub as corpus_hub
from steps.corpus.sources.document import shown
from steps.interp import loading
from steps.language_models import rows as language_models_rows
from steps.language_models import tokenizer as language_models_tokenizer
from steps.language_models.learning import loop, losses
from steps.neurons import attention as neurons_attention
from steps.neurons import baseline as neurons_baseline
from steps.neurons import checkpoints as neurons_checkpoints
from steps.neurons import clusters as neurons_clusters
from steps.neurons import composition as neurons_composition
from steps.neurons import correlate as neurons_correlate
from steps.neurons import cosines as neurons_cosines
from steps.neurons import dump as neurons_dump
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
from steps.neurons.explanations import text as explained_text
from steps.neurons.selection.universal import UniversalSettings
from steps.report import page as report_page
from steps.workflow.common import declarable, declared, growing
from steps.workflow.neurons import (  # noqa: F401 (for the rules)
    COMPUTING,
    GALLERIES,
    NEURON_FIGURES,
    NEURONS,
    activation_ledgers,
    compared_models,
    compared_pairs,
    correlation_files,
    family_tables,
    further_columns,
    joint_figures,
    local_configurations,
    logit_effects,
    model_ledgers,
    moment_files,
    neuron_files,
    neuron_model,
    neuron_resources,
    neuron_study,
    neuron_user_files,
    parts_of_models,
    product_ranges,
    published_table,
    ranges,
    require_parts,
    single_figures,
)

MADE = ("data/raw/embedded", "data/corpora", "data/models", "results", "logs")
"""What the workflow makes."""

ROOT = Path(__file__).resolve().parents[2]
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What studies and models may be called: safe as part of a path on any system."""

Name = Annotated[str, pydantic.Field(pattern=rf"^{NAME}$", max_length=80)]


class Corpus(Settings):
    """The corpus."""

    study: Name = pydantic.Field("embedded", description="name of the corpus, its folder in data/corpora")
    documents: corpus_step.Settings = pydantic.Field(
        corpus_step.Settings(), description="where the text comes from and how it is split"
    )


class ListedModel(sources.Source):
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
    seeds: list[Annotated[int, pydantic.Field(ge=0, lt=2**63)]] = pydantic.Field(
        [1, 2, 3, 4, 5], min_length=1, description="seeds of the models that are trained"
    )
    models: list[ListedModel] = pydantic.Field([], description="existing models; then nothing is trained")
    tokenizer: language_models_tokenizer.Settings = pydantic.Field(
        language_models_tokenizer.Settings(), description="the tokenizer that all share"
    )
    rows: language_models_rows.Settings = pydantic.Field(
        language_models_rows.Settings(), description="rows of tokens"
    )
    train: loop.Settings = pydantic.Field(loop.Settings(), description="the model and its training")
    evaluate: losses.Settings = pydantic.Field(losses.Settings(), description="held-out losses")

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

    def source(self, name: str) -> sources.Source:
        """Where a listed model comes from."""
        model = next(model for model in self.models if model.name == name)
        return sources.Source(path=model.path, hub=model.hub, revision=model.revision)

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
    parts: int = pydantic.Field(
        1, ge=1, le=1000, description="parts of each model that are counted and explained, one job each"
    )
    precision: Precision = pydantic.Field("float32", description="of products; totals are float64")
    allow_self: bool = pydantic.Field(False, description="let a model be compared with itself")
    q: float = pydantic.Field(
        0.05,
        gt=0,
        lt=1,
        description="false discovery rate of the calibrated threshold, edges, explanations, and position,"
        " attention and entropy neurons",
    )
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
    explain: explained_text.Settings = pydantic.Field(
        explained_text.Settings(), description="explanations and families"
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
    device: Device = pydantic.Field("cpu", description="where models run")
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
    """Name and SHA-256 of those that Snakemake cannot hold (braces, angle brackets, control characters,
    bytes that are no UTF-8), or one digest of all where they are very many, to be declared as parameters."""
    models: dict[str, list[str]]
    tokenizer: list[str]
    neurons: dict[str, list[str]]
    """By the setting that names them."""


def user_files(config: Config) -> UserFiles:
    """Look for the user's files, so that a missing folder is noticed at once.

    Raises:
        UserError: a folder is missing or holds nothing of use.
    """
    try:
        corpus, odd = corpus_files(config)
        models, tokenizer = listed_model_files(config), brought_tokenizer_files(config)
        return UserFiles(corpus, odd, models, tokenizer, neuron_user_files(config))
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
    if "\0" in str(folder):
        raise UserError(f"{key}: found {shown(folder)}, expected a path without NUL; name another folder")
    for made in map(Path, MADE):
        if folder.resolve().is_relative_to(made.resolve()) or made.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{key}: found {shown(folder)}, expected a folder apart from {made}, which the workflow"
                " makes; put the texts in a folder of their own"
            )
    return declared(look(folder))


def corpus_resources(config: Config) -> dict[str, Any]:
    """What the corpus needs: megabytes of memory and minutes.

    Texts are streamed; memory grows with the number of documents, about 400 bytes each.
    """
    documents = config.corpus.documents
    if documents.source == "embedded":
        return growing(2_000, 10)
    millions = (documents.hub.maximum_documents or 20_000_000) / 1e6 if documents.source == "hub" else 3
    return growing(2_000 + 350 * millions, 30 + 60 * millions)


def listed_model_files(config: Config) -> dict[str, list[str]]:
    """The files of each listed model that lies in a local folder, to be declared as input.

    Raises:
        UserError: a folder is missing, holds no model, or has a name that Snakemake cannot hold.
    """
    return {
        model.name: declarable(loading.model_files(sources.local_folder(model.path)))
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
    folder = sources.fetch(source, ())
    return declarable(loading.tokenizer_files(folder))


def language_model_resources(config: Config, step: str) -> dict[str, Any]:
    """Megabytes and minutes that a step of the language models asks for, and a GPU where it helps.

    Both grow with each attempt; minutes assume 20 GFLOP/s per thread. Of listed models the largest counts.
    """
    chapter = config.language_models
    train, context = chapter.train, chapter.rows.context
    parameters = 12 * train.layers * train.width**2 + (chapter.tokenizer.vocabulary + context) * train.width
    batch = train.batch_rows * context * (40 * train.layers * train.width + 3 * chapter.tokenizer.vocabulary)
    sizes = [neuron_model(config, name) for name in chapter.names()] if chapter.models else []
    listed = max((size.parameters + size.embeddings for size in sizes), default=0.0)
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
            4_000 + 5 * listed / 1e6,
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
    resources = growing(megabytes, minutes)
    if device != "cpu":
        resources["gpu"] = 1
    return resources


def pathvars(config: Config) -> dict[str, str]:
    """Where the configured studies lie: rules write ``<neurons>/excess.parquet`` instead of a wildcard."""
    studies = {name: getattr(config, name).study for name in ("corpus", "language_models", "neurons")}
    return {
        "corpus": f"data/corpora/{studies['corpus']}",
        "models": f"data/models/{studies['language_models']}",
        "language_models": f"results/language_models/{studies['language_models']}",
        "neurons": f"results/neurons/{studies['neurons']}",
        **{f"{name}_study": study for name, study in studies.items()},
    }


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

    Rules pass them as a resource (``{resources.aside:q}``): a change of parameters makes results anew.
    """
    return {
        f"{section}.{step}": json.dumps(without_influence(settings))
        for section, chapter in config
        if isinstance(chapter, Settings)
        for step, settings in chapter
        if isinstance(settings, Settings)
    }
