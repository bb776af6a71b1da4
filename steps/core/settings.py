"""Settings: typed, closed to unknown keys, and explained in one line when wrong."""

from __future__ import annotations

import difflib
import re
import typing
from typing import Any

import pydantic

from steps.core.errors import UserError

NO_INFLUENCE: dict[str, Any] = {"influence": False}
"""Given to a field as ``json_schema_extra``: it decides when a result is ready, never what it is."""

_SCIENTIFIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


class Settings(pydantic.BaseModel):
    """Base of every settings model: immutable, and unknown keys are errors.

    YAML reads ``1e-4`` as a string; fields that are not text take it as the number it means.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _numbers_in_scientific_notation(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields

        def number(key: str, value: Any) -> Any:
            if isinstance(value, list):
                return [number(key, item) for item in value]
            is_text = key in fields and "str" in str(fields[key].annotation)
            if isinstance(value, str) and not is_text and _SCIENTIFIC.fullmatch(value.strip()):
                return float(value)
            return value

        return {key: number(key, value) for key, value in values.items()}


def deciding(settings: Settings) -> dict[str, Any]:
    """The settings that decide results, at every depth: those marked ``NO_INFLUENCE`` are left out."""
    values = settings.model_dump(mode="json")
    for name in without_influence(settings):
        values.pop(name, None)
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings) and name in values:
            values[name] = deciding(value)
    return values


def without_influence(settings: Settings) -> dict[str, Any]:
    """The settings that are marked ``NO_INFLUENCE``."""
    fields = type(settings).model_fields.items()
    return {
        name: getattr(settings, name) for name, field in fields if field.json_schema_extra == NO_INFLUENCE
    }


S = typing.TypeVar("S", bound=Settings)


def validate(model: type[S], values: Any, where: str) -> S:
    """Check ``values`` against ``model``.

    Args:
        model: the settings model.
        values: what the user wrote, nested dictionaries.
        where: the file or option the values come from, for the message.

    Raises:
        UserError: one line that names every wrong key, what was found and what was expected.
    """
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [_explain(model, dict(item)) for item in error.errors(include_url=False)]
        raise UserError(f"{where}: {'; '.join(lines)}") from None


def _explain(model: type[Settings], item: dict[str, Any]) -> str:
    path = tuple(str(part) for part in item["loc"] if not str(part).startswith("function-"))
    key = ".".join(path) or "the configuration"
    found = repr(item.get("input"))
    found = found if len(found) <= 80 else found[:77] + "..."
    if item["type"] == "extra_forbidden":
        known = list(_model_at(model, path[:-1]).model_fields)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key (found {found}), {hint}"
    if item["type"] == "missing":
        return f"{key}: missing, add it"
    message = item["msg"].removeprefix("Value error, ")
    return f"{key}: found {found}, expected: {message[:1].lower()}{message[1:]}"


def _model_at(model: type[Settings], path: tuple[str, ...]) -> type[Settings]:
    for part in path:
        field = model.model_fields.get(part)
        for candidate in _models_in(field.annotation) if field else ():
            model = candidate
            break
    return model


def _models_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _models_in(part)]
