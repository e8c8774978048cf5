"""Writes the model card of an exported file: architecture, inputs, training, scores, check."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

import wsicl_jax
from wsicl_jax.config import ExperimentConfig, config_to_dict
from wsicl_jax.model.dual_branch import THRESHOLD, count_parameters
from wsicl_jax.prompts.paint import ball_radius
from wsicl_jax.weights.export.measured import Measured
from wsicl_jax.weights.export.verification import Comparison
from wsicl_jax.weights.stored_settings import Settings

_TASK = (
    "A network for weakly supervised in-context segmentation of 3D medical images. It segments in "
    "a target image the structure that prompts (points, boxes, masks) mark on a few context "
    "images, without training."
)
_USE = {
    "torch": "A PyTorch Lightning checkpoint (`.ckpt`) in the layout of the authors of WS-ICL. "
    "`torch.load(FILE, weights_only=True)['state_dict']` has the tensors.",
    "safetensors": "Weights alone, under the tensor names of the authors of WS-ICL; a convolution "
    "is (out, in, x, y, z).",
    "stablehlo": "A program with its weights, for CPU, CUDA and TPU. `jax.export.deserialize` "
    "reads it; its `call` takes the three inputs below.",
    "onnx": "An ONNX graph with its weights, which takes the three inputs below.",
}

_SMOOTHING = (
    " Then channels are smoothed, except empty ones and those with a mask of the whole structure. "
    "Each is blurred by a Gaussian (0 beyond the image) and divided by its maximum. The sd along "
    "each axis is {:g} times the extent of the voxels above 0 on any context image. The blurred "
    "channels are divided by the maximum of their mean, and half of the original channel is added."
)
_REGISTRATION = (
    "**Registration**: each context image is deformed with its prompt channel to fit the target "
    "(`wsicl_jax.geometry.registration`), before the network receives it."
)
_CROP = (
    "**Margins** are cut off first: outer planes that hold one and the same value, such as "
    "padding, and once more if others lie within them. A context image keeps all that its prompts "
    "lie in. The other rules are for the rest of the image; outside of it the result is 0."
)
_NO_CROP = "**Margins** of one value, such as padding, are not cut off."


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """Everything that a card says."""

    name: str
    """Name of the file."""
    format: str
    dtype: str
    """Number format of the weights."""
    size: int
    """Of the file in bytes."""
    settings: Settings
    source: str | None
    """File that the network was imported from; None: it was trained here."""
    measured: Sequence[Measured]
    licence: str | None
    comparison: Comparison


def card(content: CardContent) -> str:
    """The card as Markdown."""
    sections = {
        content.name: _what(content),
        "Input and output": _rules(content),
        "Training": _training(content),
        "Dice": _scores(content.measured),
        "Check of this file": _check(content.comparison),
        "Licence": content.licence or "Not stated.",
        "Settings": _settings(content.settings),
    }
    first, *others = sections.items()
    parts = [f"# {first[0]}", first[1]]
    parts += [part for title, text in others for part in (f"## {title}", text)]
    return "\n\n".join(parts) + "\n"


def _what(content: CardContent) -> str:
    model = content.settings.experiment.model
    rows = {
        "architecture": "dual-branch 3D U-Net of WS-ICL (arXiv 2510.05899)",
        "channels": ", ".join(map(str, model.channels)),
        "parameters": f"{count_parameters(model):,} in {content.dtype}",
        "file": f"{content.format}, {content.size:,} bytes",
        "written by": f"wsicl_jax {wsicl_jax.__version__}",
    }
    return f"{_TASK}\n\n{_USE[content.format]}\n\n{_table(rows)}"


def _rules(content: CardContent) -> str:
    experiment, fixed = content.settings.experiment, content.format == "stablehlo"
    grid = " x ".join(map(str, experiment.volume.grid))
    low, high = experiment.volume.percentiles
    others = f"; other multiples of {experiment.model.size_multiple} work, untested"
    radius, smoothing = ball_radius(experiment.volume.grid), experiment.volume.prompt_smoothing
    lines = [
        f"**Grid**: {grid} voxels{' exactly' if fixed else others}. Every image is turned to RAS+ "
        "axes (to the right, to the front, up) by permuting and mirroring, and resized to the grid "
        "as a whole, linear between voxels, after a Gaussian of sd (shrinkage - 1) / 2 voxels "
        "along axes that shrink.",
        _CROP if experiment.volume.crop else _NO_CROP,
        f"**Intensities**: clipped to the percentiles {low:g} and {high:g} of the image, then "
        "scaled to [0, 1] in float32, before resizing.",
        "**Prompts**: one channel for each context image, 0 outside of prompts; of several prompts "
        "the larger value counts. Masks and boxes are 1 inside; on a slice they are 3 voxels "
        f"thick. A point is a ball of radius {radius:.2f} voxels, 1 at the centre, whose values "
        "fall with the distance to the rim. A scribble is such a ball of half the radius at every "
        "voxel of its path." + (_SMOOTHING.format(smoothing) if smoothing else ""),
        "**Context images**: any number from 1 on. The target itself, with prompts, may be one.",
        *([_REGISTRATION] if experiment.volume.registration else []),
        f"**Output**: about 1 inside and 0 outside. Voxels above {THRESHOLD} are the structure.",
    ]
    if content.format in ("stablehlo", "onnx"):
        lines.append(
            "**Arrays**, all float32: `target` (x, y, z), `context_images` (contexts, x, y, z), "
            "`context_prompts` (contexts, x, y, z); the output is (x, y, z)."
        )
    return "\n".join(f"- {line}" for line in lines)


def _training(content: CardContent) -> str:
    settings, source = content.settings, content.source
    parts = [f"Imported from `{source}`."] if source else []
    if settings.step is None:
        parts.append("The training is not known.")
    else:
        parts.append(_trained(settings.experiment, settings.step))
    return "\n\n".join(parts)


def _trained(config: ExperimentConfig, step: int) -> str:
    train, prompts = config.train, config.prompts
    tasks = ", ".join(task for task, share in config.episode.tasks.items() if share)
    rows = {
        "data": ", ".join(f"{data.store} (weight {data.weight:g})" for data in config.data),
        "steps": f"{step:,} of {train.steps:,}, with {train.batch} episodes each",
        "loss": train.loss,
        "optimiser": train.optimizer,
        "learning rate": f"{train.learning_rate:g}, {train.schedule}",
        "tasks": tasks,
        "prompts": f"{', '.join(prompts.kinds)}; {_between(prompts.count)} on a context image",
        "context images": _between(config.episode.contexts),
        "number format": config.model.precision,
        "seed": str(config.seed),
    }
    return _table(rows)


def _scores(measured: Sequence[Measured]) -> str:
    if not measured:
        return "Nothing was measured."
    parts = []
    for one in measured:
        counted = any(row.targets is not None for row in one.rows)
        lines = [f"From {one.source}:", ""]
        lines += ["| what | mean Dice |" + (" targets |" if counted else "")]
        lines += ["| --- | --- |" + (" --- |" if counted else "")]
        lines += [
            f"| {_cell(row.what)} | {row.dice:.4f} |" + (f" {row.targets} |" if counted else "")
            for row in one.rows
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _check(comparison: Comparison) -> str:
    grid = " x ".join(map(str, comparison.grid))
    rows = [f"| {contexts} | {value:.1e} |" for contexts, value in comparison.deviations.items()]
    return "\n".join(
        [
            f"{comparison.runtime} ran this file on {grid} voxels. The deviation from the original "
            "network in float32 is the largest difference, as a share of the largest output. It "
            f"was allowed to be {comparison.bound:.0e}.",
            "",
            "| context images | deviation |",
            "| --- | --- |",
            *rows,
        ]
    )


def _settings(settings: Settings) -> str:
    content = config_to_dict(settings.experiment)
    if settings.step is None:
        content = {name: content[name] for name in ("volume", "model")}
    return f"```yaml\n{yaml.safe_dump(content, sort_keys=False)}```"


def _between(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return str(low) if low == high else f"{low} to {high}"


def _table(rows: Mapping[str, str]) -> str:
    lines = [f"| {name} | {_cell(text)} |" for name, text in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
