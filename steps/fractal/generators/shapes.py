"""What a model looks like: its levels, and the images that it makes. Knows no torch, so rules can read it."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from steps.core.errors import UserError
from steps.core.settings import Settings

Sizes = Annotated[list[Annotated[int, Field(ge=1, le=1 << 20)]], Field(min_length=2, max_length=12)]


class Images(NamedTuple):
    """What the images of a model are."""

    side: int
    """Pixels along a side."""
    channels: int
    values: int
    """How many values a pixel can have in each channel, from 0 on."""
    classes: int
    """How many classes there are; 0 where nothing is known of an image."""


class Architecture(Settings):
    """The levels of a model, from the whole image down to the pixel."""

    sides: Sizes = Field(
        [8, 4, 1], description="pixels along a side of the image, of its patches, of theirs, down to 1"
    )
    widths: Sizes = Field(
        [96, 96, 48], description="of each level; the last one is the pixel module, which goes by channels"
    )
    depths: Sizes = Field([3, 3, 1], description="blocks of each level")
    heads: Sizes = Field([4, 4, 4], description="attention heads of each level")

    @model_validator(mode="after")
    def _levels_fit(self) -> Architecture:
        for name in ("widths", "depths", "heads"):
            if len(getattr(self, name)) != len(self.sides):
                raise ValueError(
                    f"as many {name} ({len(getattr(self, name))}) as sides ({len(self.sides)}): one per level"
                )
        for side, patch in zip(self.sides, self.sides[1:], strict=False):
            if side % patch or side == patch:
                raise ValueError(
                    f"sides of which each divides the one before ({patch} does not divide {side})"
                )
        if self.sides[-1] != 1:
            raise ValueError(f"sides that end with 1, a pixel (the last one is {self.sides[-1]})")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise ValueError(f"widths that are multiples of their heads ({width} is none of {heads})")
        for width, heads in zip(self.widths[:-1], self.heads[:-1], strict=True):
            if width // heads % 4:
                raise ValueError(
                    f"heads of a width that is a multiple of 4, for rotary positions ({width} / {heads} is"
                    f" {width // heads})"
                )
        return self

    def require_side(self, side: int, where: str) -> None:
        """Refuse images of another size than the model's.

        Raises:
            UserError: they are.
        """
        if self.sides[0] != side:
            raise UserError(
                f"{where}: found sides that begin with {self.sides[0]}, expected {side}, the side of the"
                " images in pixels; change the first of them"
            )


def images_of(attributes: dict[str, Any]) -> Images:
    """What the images of a store of kind ``images`` are, by the attributes in its ledger."""
    return Images(
        attributes["side"], attributes["channels"], attributes["values"], len(attributes["classes"])
    )
