"""What a session holds, and what requests may contain, as checked types."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsicl_jax.inference.inputs.positions import MOST_POSITIONS

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Position = tuple[_Number, _Number, _Number]
_Range = tuple[int, int]
_Text = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
_Value = Annotated[int, Field(ge=1, le=255)]

Role = Literal["unused", "context", "target"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class NewSession(_Document):
    """A request for a session."""

    name: _Text = "Untitled"
    """Its name, for people."""


class Structure(_Document):
    """A structure of a session."""

    value: _Value
    """Its value in label maps."""
    name: _Text
    """Its name in results."""
    colour: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
    """Its colour on the page, such as #33aa55."""


class Structures(_Document):
    """All structures of a session."""

    structures: Annotated[list[Structure], Field(min_length=1, max_length=255)]

    @model_validator(mode="after")
    def _check(self) -> "Structures":
        for key in ("value", "name"):
            given = [getattr(structure, key) for structure in self.structures]
            if len(set(given)) < len(given):
                raise ValueError(f"two structures have the same {key}: {given}")
        return self


class NewRole(_Document):
    """The use of an image."""

    role: Role


class Prompt(_Document):
    """A prompt in voxels of its image; one of `point`, `box` and `scribble`."""

    structure: _Value
    """Value of the structure that it marks."""
    point: _Position | None = None
    """A position inside the structure."""
    box: tuple[_Range, _Range, _Range] | None = None
    """Half-open ranges of voxels around the structure, on a slice or in 3D."""
    scribble: Annotated[list[_Position], Field(min_length=1, max_length=MOST_POSITIONS)] | None = (
        None
    )
    """A line inside the structure."""
    inside: bool = True
    """False: the point or scribble lies outside the structure."""

    @model_validator(mode="after")
    def _check(self) -> "Prompt":
        kinds = [kind for kind in ("point", "box", "scribble") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"expected one of point, box and scribble, got {kinds or 'none'}")
        if self.box is not None and not self.inside:
            raise ValueError("a box cannot be outside the structure; give a point or a scribble")
        return self


class PlacedPrompt(Prompt):
    """A prompt of a session."""

    number: int
    """Its number in the session, never given twice."""


class SegmentRequest(_Document):
    """A request for segmentation."""

    images: Annotated[list[_Text], Field(min_length=1, max_length=100_000)] | None = None
    """Images to segment; without, all targets."""
    doubt: bool = False
    """Whether to measure the doubt as well, which takes twice as long."""


class SaveRequest(_Document):
    """A request to write results into the folder."""

    format: Literal["nii.gz", "seg.nrrd", "nrrd", "mha", "dcm"] = "nii.gz"
    """Format of the label maps; dcm: DICOM-SEG, for DICOM series."""


class Result(_Document):
    """What is known of a target's label map."""

    volumes_ml: dict[_Value, float]
    """Volume of each structure that was segmented, in ml."""
    doubt: float | None = None
    """1 - Dice of the masks from two halves of the context set; None: not measured."""
    remarks: list[str] = []
    """Unusual choices, and likely mistakes."""
    seconds: float
    """Time that segmentation took."""
    inputs: str
    """Digest of the prompts that it was made with."""


class Image(_Document):
    """An image in a session."""

    role: Role = "unused"
    prompts: list[PlacedPrompt] = []
    accepted: dict[_Value, _Text] = {}
    """Value and name of each structure of its accepted mask; empty: there is none."""
    result: Result | None = None


class Edit(_Document):
    """A prompt that was added or removed, for undo."""

    added: bool
    image: str
    prompt: PlacedPrompt


class State(_Document):
    """A session, as it is saved."""

    version: Literal[1] = 1
    """Version of this format."""
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    name: _Text
    network: str
    """Name of the network."""
    software: str
    """Version of wsicl_jax."""
    changed: float
    """Time of the last change, in seconds since 1970."""
    next_number: int = 1
    """Number of the next prompt."""
    structures: list[Structure]
    images: dict[str, Image] = {}
    """By identifier; images that are not used are missing."""
    undo: list[Edit] = []
    """Latest last."""
    redo: list[Edit] = []
    """Latest last."""
