"""The JSON file of a context set: images, and prompts on them.

`docs/how-to/prompts.md` describes the format for people, `prompts.schema.json` for editors.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from wsicl_jax.errors import DataError, PromptError, hint, located, reason
from wsicl_jax.inference.inputs.example import UNNAMED, Example
from wsicl_jax.inference.inputs.positions import MOST_POSITIONS, MOST_PROMPTS, Coordinates
from wsicl_jax.storage.documents import (
    DocumentError,
    RepeatedKeyError,
    as_text,
    parse_json,
    read_file,
)

_PROMPTS = ("points", "scribbles", "boxes", "mask", "markups")
_NEGATIVE = ("negative_points", "negative_scribbles", "negative_markups")
_NOT_BESIDE_STRUCTURES = ("structure", "labels", "points", "scribbles", "boxes", "markups")
_NOT_BESIDE_STRUCTURES += _NEGATIVE
_MARKUPS = ("markups", "negative_markups")

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Position = tuple[_Number, _Number, _Number]
_Range = tuple[_Number, _Number]
_Line = Annotated[list[_Position], Field(min_length=1, max_length=MOST_POSITIONS)]
_Most = Field(max_length=MOST_PROMPTS)
_Path = Annotated[str, Field(min_length=1)]
_Name = Annotated[str, Field(min_length=1)]
_Labels = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
_Value = Annotated[int, Field(ge=1, le=65535)]


@dataclass(frozen=True)
class Context:
    """The context set of a file, before its images are read."""

    structures: dict[str, list[Example]]
    values: dict[str, int]
    """Value of each structure in label maps."""
    network: str | None = None
    """Name of the network that it was made with, if the file tells."""


class _Schema(GenerateJsonSchema):
    """A schema without titles, which repeat names, and without null, which equals a missing key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> dict[str, Any]:
        content = super().default_schema(schema)
        return {key: value for key, value in content.items() if value is not None}


class ContextEntry(BaseModel):
    """A context image and its prompts."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        title="Context image",
        json_schema_extra={
            "anyOf": [
                {"required": [key], "properties": {key: {"minItems": 1}}}
                for key in (*_PROMPTS, *_NEGATIVE)
            ],
            "dependentRequired": {
                "labels": ["mask"],
                "structures": ["mask"],
            },
            "dependentSchemas": {
                "structures": {"properties": dict.fromkeys(_NOT_BESIDE_STRUCTURES, False)},
                "markup_axes": {"anyOf": [{"required": [key]} for key in _MARKUPS]},
            },
        },
    )

    image: _Path
    """File of the image; paths are relative to this JSON file."""
    structure: _Name | None = None
    """Name of the structure, if there are several."""
    points: Annotated[list[_Position], _Most] = []
    """Positions inside the structure, [x, y, z] each."""
    scribbles: Annotated[list[_Line], _Most] = []
    """Lines inside the structure, each a list of joined positions."""
    boxes: Annotated[list[tuple[_Range, _Range, _Range]], _Most] = []
    """Tight boxes around the structure, [[x0, x1], [y0, y1], [z0, z1]] each."""
    negative_points: Annotated[list[_Position], _Most] = []
    """Positions outside the structure, [x, y, z] each."""
    negative_scribbles: Annotated[list[_Line], _Most] = []
    """Lines outside the structure, each a list of joined positions."""
    mask: _Path | None = None
    """File of a label map on the image's grid."""
    labels: _Labels | None = None
    """Labels of the mask that form the structure; without, all but 0."""
    structures: Annotated[dict[_Name, _Labels], Field(min_length=1)] | None = None
    """Instead of `structure` and `labels`: each structure with its labels of the mask."""
    markups: list[_Path] = []
    """Files of prompts from 3D Slicer, napari or another tool."""
    negative_markups: list[_Path] = []
    """Files from the same tools, whose points and scribbles are outside the structure."""
    markup_axes: Literal["xyz", "zyx"] = "xyz"
    """Order of the axes in files with voxel indices, such as those of napari."""

    @model_validator(mode="after")
    def _check(self) -> "ContextEntry":
        if self.labels is not None and self.mask is None:
            raise _rule("labels: they choose among the labels of a mask, but mask is missing")
        if self.structures is not None:
            if self.mask is None:
                raise _rule("structures: they name labels of a mask, but mask is missing")
            if also := [key for key in _NOT_BESIDE_STRUCTURES if key in self.model_fields_set]:
                raise _rule(
                    f"structures: it goes with mask alone, not with {', '.join(also)}; give these "
                    "in an entry of their own"
                )
        if "markup_axes" in self.model_fields_set and not (self.markups or self.negative_markups):
            raise _rule("markup_axes: there are no markups whose axes it could say")
        if not any(getattr(self, key) for key in (*_PROMPTS, *_NEGATIVE)):
            raise _rule(f"image has no prompt; give {', '.join(_PROMPTS[:-1])} or {_PROMPTS[-1]}")
        return self


class _Request(BaseModel):
    """A context set: images, and prompts that mark structures on them."""

    model_config = ConfigDict(
        extra="forbid", strict=True, use_attribute_docstrings=True, title="Context set"
    )

    schema_: Annotated[str | None, Field(alias="$schema")] = None
    """Address of the schema of this format, for editors."""
    version: Literal[1] = 1
    """Version of this format."""
    network: _Name | None = None
    """Name of the network that the context set was made with; any other may use it."""
    software: _Name | None = None
    """Program and version that wrote the file."""
    coordinates: Coordinates = "voxel"
    """Coordinates of points, scribbles and boxes: voxels of the image, or RAS+ mm."""
    structures: Annotated[dict[_Name, _Value], Field(min_length=1)] | None = None
    """Value of each structure in results; without, 1, 2, ... as they appear."""
    context: Annotated[list[ContextEntry], Field(min_length=1)]
    """The context images."""

    @model_validator(mode="after")
    def _check(self) -> "_Request":
        if self.structures is None:
            return self
        known = list(self.structures)
        if len(set(self.structures.values())) < len(known):
            raise _rule(f"structures: two have the same value in {self.structures}")
        named = {name for entry in self.context for name in self.structures_of(entry)}
        for number, entry in enumerate(self.context, 1):
            for name in self.structures_of(entry):
                if name not in known:
                    raise _rule(
                        f"context {number}: structure {name!r} is not among structures, which are "
                        f"{known}"
                    )
        if missing := [name for name in known if name not in named]:
            raise _rule(f"structures: no context image shows {', '.join(map(repr, missing))}")
        return self

    def structures_of(self, entry: ContextEntry) -> dict[str, list[int] | None]:
        """The structures of an entry, each with its labels of the mask."""
        if entry.structures is not None:
            return dict(entry.structures)
        one = list(self.structures or {})
        default = one[0] if len(one) == 1 else UNNAMED
        return {entry.structure or default: entry.labels}


def read_context(path: str | Path) -> Context:
    """The context set of a JSON file, with structures in the order of their values.

    Images are not read; `Example.load` checks prompts against them.

    Raises:
        DataError: the file cannot be read, or is no JSON.
        PromptError: it does not have the documented form.
        Both name the file, the number of the context entry (from 1) and the key, and so do the
        errors of the examples.
    """
    path = Path(path)
    with located(str(path)):
        request = _parse(path)
    structures: dict[str, list[Example]] = {name: [] for name in request.structures or {}}
    for number, entry in enumerate(request.context, 1):
        for name, labels in request.structures_of(entry).items():
            example = _example(entry, labels, request.coordinates, path, number)
            structures.setdefault(name, []).append(example)
    values = request.structures or {name: value for value, name in enumerate(structures, 1)}
    by_value = sorted(structures, key=values.__getitem__)
    return Context({name: structures[name] for name in by_value}, dict(values), request.network)


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the format.

    It cannot check that values differ, that names match, or that prompts fit the images.
    """
    dialect = {"$schema": GenerateJsonSchema.schema_dialect}
    return dialect | _Request.model_json_schema(schema_generator=_Schema)


def _example(
    entry: ContextEntry, labels: list[int] | None, coordinates: Coordinates, path: Path, number: int
) -> Example:
    folder = path.parent
    suffix = "_mm" if coordinates == "mm" else ""
    listed = ("points", "scribbles", "boxes", "negative_points", "negative_scribbles")
    prompts = {f"{key}{suffix}": getattr(entry, key) for key in listed}
    return Example(
        folder / entry.image,
        mask=None if entry.mask is None else folder / entry.mask,
        labels=labels,
        markups=[folder / file for file in entry.markups],
        negative_markups=[folder / file for file in entry.negative_markups],
        markup_axes=entry.markup_axes,
        name=f"{path}: context {number}",
        **prompts,
    )


def _parse(path: Path) -> _Request:
    problems: Sequence[Any] = ()
    try:
        text = as_text(read_file(path))
        try:
            # First, since it stops at lists that are too long.
            request = _Request.model_validate_json(text)
        except ValidationError as error:
            problems = error.errors(include_url=False)
        if not problems or problems[0]["type"] == "json_invalid":
            parse_json(text, nan=True)
            return request
    except OSError as error:
        raise DataError(f"cannot be read: {reason(error)}") from error
    except RepeatedKeyError as error:
        raise PromptError(str(error)) from None
    except DocumentError as error:
        raise DataError(str(error)) from None
    # A misspelt key is also a missing key; the misspelling explains more.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    raise PromptError(_explain(problem["type"], problem["loc"], problem["msg"], problem["input"]))


def _explain(kind: str, location: tuple[int | str, ...], message: str, value: Any) -> str:
    if kind == "extra_forbidden":
        model = ContextEntry if len(location) > 1 else _Request
        keys = [field.alias or name for name, field in model.model_fields.items()]
        name = str(location[-1])
        message = f"unknown key {reprlib.repr(name)}; {hint(name, keys)}"
        location = location[:-1]
    elif kind == "missing" and isinstance(location[-1], str):
        message = f"key {location[-1]!r} is missing"
        location = location[:-1]
    elif kind != _RULE:
        # An error in a number or a range names the point or box that it belongs to.
        form = _FORMS.get(str(location[2])) if len(location) > 3 else None
        location = location[:4]
        message = f"{message[0].lower()}{message[1:]}".replace("tuple", "list")
        message = f"{message.replace(' after validation', '')}, got {reprlib.repr(value)}"
        message += f"; {form}" if form else ""
    where = "".join(f" {p + 1}" if isinstance(p, int) else f": {p}" for p in location)
    return f"{where}: {message}".removeprefix(": ")


_RULE = "rule"

_FORMS = {
    "points": "a point is [x, y, z]",
    "scribbles": "a scribble is a list of positions, [[x, y, z], ...]",
    "boxes": "a box is three ranges, [[x0, x1], [y0, y1], [z0, z1]]",
    "negative_points": "a point is [x, y, z]",
    "negative_scribbles": "a scribble is a list of positions, [[x, y, z], ...]",
}
"""The form of a prompt, for errors."""


def _rule(text: str) -> PydanticCustomError:
    return PydanticCustomError(_RULE, "{text}", {"text": text})
