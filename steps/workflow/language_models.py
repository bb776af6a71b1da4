"""The language models, as rules see them: their section, the user's models, resources of their jobs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic

from steps.core import sources
from steps.interp import loading, sizes
from steps.language_models import rows as language_models_rows
from steps.language_models import tokenizer as language_models_tokenizer
from steps.language_models.learning import loop, losses
from steps.workflow.resources import growing
from steps.workflow.section import Name, StudySection, distinct
from steps.workflow.user_files import declarable

if TYPE_CHECKING:
    from steps.workflow.configuration import Config


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


class LanguageModels(StudySection):
    """Language models: trained from seeds on the corpus, or listed existing models."""

    made: ClassVar[tuple[str, ...]] = ("data/models",)

    study: Name = pydantic.Field(
        "default", description="name of the study, its folder in data/models and results/language_models"
    )
    seeds: list[Annotated[int, pydantic.Field(ge=0, lt=2**63)]] = pydantic.Field(
        [1, 2, 3, 4, 5], min_length=1, description="seeds of the models that are trained"
    )
    models: list[ListedModel] = pydantic.Field(
        [], description="existing models; then nothing is trained: {name, path} or {name, hub, revision} each"
    )
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
        return distinct(values, "names or seeds")

    def names(self) -> list[str]:
        """The models' names, in the order of the configuration."""
        return [model.name for model in self.models] or [f"seed-{seed}" for seed in self.seeds]

    def same_place(self) -> tuple[str, str] | None:
        """The names of two listed models that are one folder, or one revision of one hub id."""
        seen: dict[Any, str] = {}
        for model in self.models:
            place = model.hub or os.path.realpath(os.path.expanduser(str(model.path)))
            first = seen.setdefault((place, model.revision), model.name)
            if first != model.name:
                return first, model.name
        return None

    def source(self, name: str) -> sources.Source:
        """Where a listed model comes from."""
        model = next(model for model in self.models if model.name == name)
        return sources.Source(path=model.path, hub=model.hub, revision=model.revision)

    def shared_tokenizer(self) -> language_models_tokenizer.Settings:
        """The tokenizer's settings: that of the first listed model where there are some."""
        if self.tokenizer.user_supplied or not self.models:
            return self.tokenizer
        return self.tokenizer.model_copy(update=self.source(self.models[0].name).model_dump())

    def pathvars(self) -> dict[str, str]:
        return {
            "models": f"data/models/{self.study}",
            "language_models": f"results/language_models/{self.study}",
            "language_models_study": self.study,
        }

    def user_files(self, config: Config) -> dict[str, list[str]]:
        # No model is called tokenizer.
        return listed_model_files(self) | {"tokenizer": tokenizer_files(self)}

    def report_file(self) -> str:
        return f"results/language_models/{self.study}/report.json"


def model_size(config: Config, name: str) -> sizes.ModelSize:
    """The size of a model: as it is trained, as its config.json says where that is here, else as planned."""
    chapter, planned = config.language_models, config.neurons.plan
    if not chapter.models:
        return sizes.ModelSize(
            name=name,
            layers=chapter.train.layers,
            d_mlp=4 * chapter.train.d_model,
            d_model=chapter.train.d_model,
            heads=chapter.train.heads,
            vocabulary=chapter.tokenizer.vocabulary,
            read_from="language_models.train",
        )
    source = chapter.source(name)
    found = sizes.local_configuration(source.path, source.hub, source.revision)
    if found is not None:
        return sizes.model_size(name, found)
    d_model = -(-planned.d_mlp // 4)
    return sizes.ModelSize(
        name=name,
        layers=planned.layers,
        d_mlp=planned.d_mlp,
        d_model=d_model,
        heads=-(-d_model // 64),
        vocabulary=planned.vocabulary,
        read_from="neurons.plan",
    )


def listed_model_files(section: LanguageModels) -> dict[str, list[str]]:
    """The files of each listed model that lies in a local folder, to be declared as input.

    Raises:
        UserError: a folder is missing, holds no model, or one that does not take the rows of the study, or
            has a name that Snakemake cannot hold.
    """
    found = {}
    for model in section.models:
        if model.path is not None:
            folder = sources.local_folder(model.path)
            found[model.name] = declarable(loading.model_files(folder))
            loading.require_context(folder / "config.json", section.rows.n_ctx)
    return found


def tokenizer_files(section: LanguageModels) -> list[str]:
    """The files of a tokenizer that lies in a local folder, to be declared as input.

    Raises:
        UserError: the folder is missing, or has a name that Snakemake cannot hold.
    """
    source = section.shared_tokenizer().source
    if source.path is None:
        return []
    folder = sources.fetch(source, ())
    return declarable(loading.tokenizer_files(folder))


def resources(config: Config, step: str) -> dict[str, Any]:
    """Megabytes and minutes that a step of the language models asks for, and a GPU where it helps.

    Both grow with each attempt; minutes assume 20 GFLOP/s per thread. Of listed models the largest counts.
    """
    chapter = config.language_models
    train, n_ctx = chapter.train, chapter.rows.n_ctx
    parameters = 12 * train.layers * train.d_model**2 + (chapter.tokenizer.vocabulary + n_ctx) * train.d_model
    batch = train.batch_rows * n_ctx * (40 * train.layers * train.d_model + 3 * chapter.tokenizer.vocabulary)
    listed_sizes = [model_size(config, name) for name in chapter.names()] if chapter.models else []
    listed = max((size.parameters + size.embeddings for size in listed_sizes), default=0.0)
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
            * n_ctx
            * len(chapter.names()),
            chapter.evaluate.threads,
            chapter.evaluate.device,
        ),
        "ngrams": (4_000, 0.0, 1, "cpu"),
    }[step]
    minutes = 20 + work / (20e9 * 60 * threads) * 2
    return growing(megabytes, minutes, gpu=device != "cpu")
