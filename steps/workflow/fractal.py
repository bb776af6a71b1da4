"""The fractal generative models, as rules see them: their section, and resources of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic

from steps.core.errors import UserError
from steps.core.settings import Settings
from steps.fractal import evaluate as fractal_evaluate
from steps.fractal import figure as fractal_figure
from steps.fractal import images as fractal_images
from steps.fractal import likelihood as fractal_likelihood
from steps.fractal import sample as fractal_sample
from steps.fractal import train as fractal_train
from steps.fractal.generators import shapes
from steps.fractal.sources import embedded
from steps.workflow.resources import growing
from steps.workflow.section import Name, StudySection, distinct

if TYPE_CHECKING:
    from steps.workflow.configuration import Config


FIGURES = {name: kind for name, (kind, _) in fractal_figure.FIGURES.items()}
"""The kind of file of each figure."""


class Listed(shapes.Architecture):
    """A model of the study."""

    name: Name = pydantic.Field("ar", description="what it is called here")

    def architecture(self) -> Settings:
        """What it looks like, without its name."""
        return shapes.Architecture(**self.model_dump(exclude={"name"}))


class Fractal(StudySection):
    """Fractal generative models: trained from seeds on images, measured by likelihood and samples."""

    made: ClassVar[tuple[str, ...]] = ("data/images", "data/fractal")

    study: Name = pydantic.Field(
        "default",
        description="name of the study, its folder in data/images, data/fractal and results/fractal",
    )
    models: list[Listed] = pydantic.Field(
        [Listed(name="ar")],
        min_length=1,
        description="the models: name; of each level, from the whole image down to the pixel, the side in"
        " pixels, width, depth in blocks and attention heads. Headline figures are the first one's",
    )
    seeds: list[Annotated[int, pydantic.Field(ge=0, lt=2**63)]] = pydantic.Field(
        [1], min_length=1, description="each model is trained once from each"
    )
    images: fractal_images.Settings = pydantic.Field(
        fractal_images.Settings(), description="the images and their split"
    )
    train: fractal_train.Settings = pydantic.Field(fractal_train.Settings(), description="training")
    likelihood: fractal_likelihood.Settings = pydantic.Field(
        fractal_likelihood.Settings(), description="likelihoods of the test images"
    )
    sample: fractal_sample.Settings = pydantic.Field(
        fractal_sample.Settings(), description="images that the models draw"
    )
    evaluate: fractal_evaluate.Settings = pydantic.Field(
        fractal_evaluate.Settings(), description="what samples are compared with"
    )

    @pydantic.field_validator("seeds", "models")
    @classmethod
    def _names_differ(cls, values: list[Any]) -> list[Any]:
        return distinct(values, "names or seeds")

    def runs(self) -> list[str]:
        """What is trained, by the names of folders: each model from every seed."""
        return [f"{model.name}-{seed}" for model in self.models for seed in self.seeds]

    def model(self, name: str) -> Settings:
        """What the model of a name looks like."""
        return next(model for model in self.models if model.name == name).architecture()

    def pathvars(self) -> dict[str, str]:
        return {
            "fractal": f"results/fractal/{self.study}",
            "fractal_images": f"data/images/{self.study}",
            "fractal_models": f"data/fractal/{self.study}",
            "fractal_study": self.study,
        }

    def agree(self, config: Config) -> None:
        for number, model in enumerate(self.models):
            model.require_side(embedded.SIDE, f"fractal.models.{number}.sides")
        training = embedded.COUNT - self.images.test
        if self.sample.images > training:
            raise UserError(
                f"fractal.sample.images: found {self.sample.images}, expected at most {training}, the"
                " training images, of which as many are drawn beside the samples; lower it"
            )

    def report_file(self) -> str:
        return f"results/fractal/{self.study}/report.json"


def resources(config: Config, step: str) -> dict[str, Any]:
    """Megabytes and minutes that a step asks for, and a GPU where it helps; of the models the largest counts.

    Both grow with each attempt. Activations of a token: about 40 numbers for each unit of width and block, in
    training. Sampling holds keys and values of one sequence of each level, with the class and without, and
    the activations of one token. Minutes assume 10 GFLOP/s per thread.
    """
    chapter = config.fractal
    held, drawing, work = 0.0, 0.0, 0.0
    for model in chapter.models:
        size = caches = flops = 0.0
        patches = [*model.sides[1:], 1]
        for above, side, width, depth in zip(model.sides, patches, model.widths, model.depths, strict=True):
            tokens = (model.sides[0] / side) ** 2
            size += tokens * width * depth * 40
            caches += 2 * width * (2 * depth * (above / side) ** 2 + 40)
            flops += tokens * depth * (24 * width**2 + 1500 * width)
        held, drawing, work = max(held, size), max(drawing, caches), max(work, flops)
    train, score, sample = chapter.train, chapter.likelihood, chapter.sample
    drawn = sample.images * (sample.draws + 2 * len(sample.guidance))
    numbers, operations, threads, device = {
        "train": (4 * held * train.batch, 3 * work * train.batch * train.steps, train.threads, train.device),
        "likelihood": (2 * held * score.batch, 11 * work * chapter.images.test, score.threads, score.device),
        "sample": (4 * drawing * sample.batch, 4 * work * drawn, sample.threads, sample.device),
        "evaluate": (0.0, 0.0, chapter.evaluate.threads, "cpu"),
    }[step]
    minutes = 20 + operations / (10e9 * 60 * threads)
    return growing(1_500 + numbers / 1e6, minutes, gpu=device != "cpu")
