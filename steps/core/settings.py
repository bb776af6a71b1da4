"""Settings: typed, closed to unknown keys, and explained in one line when wrong."""

from __future__ import annotations

import contextlib
import datetime
import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pydantic

from steps.core.errors import UserError

NO_INFLUENCE: dict[str, Any] = {"influence": False}
"""Given to a field as ``json_schema_extra``: it decides when a result is ready, never what it is."""

_SCIENTIFIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


class Settings(pydantic.BaseModel):
    """Base of every settings model: immutable, and unknown keys are errors.

    YAML reads ``1e-4`` as a string; fields that are not text take it as the number it means. What YAML
    reads as something else than was probably meant is refused: true and false where numbers belong, 1
    where true belongs, 2024 or a date where text belongs.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    renamed: ClassVar[dict[str, str]] = {}
    """Keys of earlier versions, which are refused, and what each is called now."""

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        return _meant(cls.model_fields[str(info.field_name)].annotation, value)


def _meant(annotation: Any, value: Any) -> Any:
    """What YAML made of a value as the field's type means it.

    Raises:
        ValueError: it is of a type that pydantic would turn into another without a word.
    """
    kinds = set(_alternatives(annotation))
    if isinstance(value, (list, tuple)):
        inside = next((typing.get_args(kind) for kind in kinds if typing.get_origin(kind) in _ROWS), ())
        if not inside:
            return value
        places = inside if len(inside) == len(value) and ... not in inside else inside[:1] * len(value)
        return [_meant(kind, item) for kind, item in zip(places, value, strict=True)]
    if isinstance(value, dict):
        inside = next((typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is dict), ())
        return {key: _meant(inside[1], item) for key, item in value.items()} if inside else value
    numbers, texts = kinds & {int, float}, kinds & {str, Path}
    if isinstance(value, str) and numbers and not texts and _SCIENTIFIC.fullmatch(value.strip()):
        return float(value)
    if isinstance(value, bool) and numbers and bool not in kinds:
        raise ValueError("a number, neither true nor false")
    if kinds - {type(None)} == {bool} and value is not None and str(value).lower() not in _TRUTHS:
        raise ValueError("true or false")
    named = [
        each for kind in kinds if typing.get_origin(kind) is typing.Literal for each in typing.get_args(kind)
    ]
    if any(value is each for each in named):  # such as false beside text
        return value
    if isinstance(value, (bool, int, float, datetime.date)) and texts and not numbers:
        text = json.dumps(value) if isinstance(value, (bool, int, float)) else str(value)
        raise ValueError(f"text; put it in quotes: '{text}'")
    return value


_TRUTHS = ("true", "false", "yes", "no", "on", "off")
"""What YAML takes for true and false, which ``--config`` passes on as text where it is in braces."""

_ROWS = (list, tuple, set, frozenset)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, without what ``Annotated`` adds."""
    if typing.get_origin(annotation) is typing.Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _alternatives(part)
    else:
        yield annotation


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
        at = _model_at(model, path[:-1])
        if path[-1] in at.renamed:
            return f"{key}: renamed, now {at.renamed[path[-1]]}"
        known = list(at.model_fields)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key (found {found}), {hint}"
    if item["type"] == "missing":
        return f"{key}: missing, add it"
    if item["type"] in _PLAIN:
        message = _PLAIN[item["type"]]
        if item["type"] == "model_type" and item["input"] is None:
            found = "nothing"
            message += "; add some or remove the line" if path else ""
    else:
        message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if item["type"].startswith(("greater_than", "less_than")):
            message = f"a number {message}"
        message = f"{message[:1].lower()}{message[1:]}"
    return f"{key}: found {found}, expected: {message}"


_PLAIN = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list in brackets: [...]"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "settings below it, as key: value"),
    **dict.fromkeys(("string_type", "path_type"), "text"),
    "dict_type": "key: value pairs",
    "finite_number": "a finite number",
}
"""What is expected, by the name that pydantic has for a mistake, where its own words name its types."""


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


def require_unique_keys(paths: Iterable[str | Path]) -> None:
    """Refuse configuration files in which a key stands twice: YAML and JSON keep the last one in silence.

    Files that are missing or neither YAML nor JSON are left to who reads them.

    Raises:
        UserError: the file, both lines, and the key with those above it.
    """
    import yaml

    for path in paths:
        with contextlib.suppress(OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError):
            text = Path(path).read_text(encoding="utf-8")
            with contextlib.suppress(ValueError):
                json.loads(text)
                text = text.replace("\t", " ")  # JSON may be indented with tabs, YAML may not
            twice = _key_twice(yaml.compose(text, Loader=yaml.SafeLoader), (), set())
            if twice is not None:
                key, first, second = twice
                raise UserError(
                    f"{path}, line {second}: found the key {key} again, which is in line {first}, expected it"
                    " once: the second would replace the first; put what they say together"
                )


def _key_twice(node: Any, above: tuple[str, ...], seen: set[int]) -> tuple[str, int, int] | None:
    """A key that is there twice in a YAML tree, and its two lines, counted from 1."""
    import yaml

    parts = []
    if id(node) in seen:  # an alias, which may be one of many
        return None
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        parts = [(str(number), item) for number, item in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            kind, name, line = key.tag, str(key.value), key.start_mark.line + 1
            if (kind, name) in lines and kind != "tag:yaml.org,2002:merge":
                return ".".join((*above, name)), lines[kind, name], line
            lines[kind, name] = line
            parts.append((name, value))
    found = (_key_twice(value, (*above, name), seen) for name, value in parts)
    return next((twice for twice in found if twice is not None), None)
