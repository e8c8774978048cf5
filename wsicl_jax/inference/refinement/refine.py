"""A second look at what was found in the whole target: in tiles, at the target's own resolution."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.contexts import CroppedMask, PreparedContext
from wsicl_jax.inference.prepared_image import PreparedImage
from wsicl_jax.inference.refinement.composition import TileScore, coarse_prediction_of
from wsicl_jax.inference.refinement.tiles import Tiles, crop_of_context, tiles_around
from wsicl_jax.inference.segmenter import Segmenter
from wsicl_jax.metrics.overlap import dice
from wsicl_jax.model.dual_branch import THRESHOLD
from wsicl_jax.prompts import on_crop, to_channels
from wsicl_jax.terminal.progress import track


def refine_structure(
    segmenter: Segmenter,
    name: str,
    target: PreparedImage,
    shown: Sequence[PreparedContext],
    whole: Float[np.ndarray, "X Y Z"],
    show: bool,
) -> tuple[list[TileScore], str]:
    """Scores of the tiles that agree with the first look at a structure, and what to say of it.

    `whole` is what the first look gave; `show` draws a progress bar.
    """
    config = segmenter.config
    tiles = tiles_around(whole > THRESHOLD, target, config)
    if tiles is None:
        return [], "too large for a second look that would show more"
    kept = []
    with track(len(tiles.boxes), f"second look, {name}", show=show) as bar:
        for box in tiles.boxes:
            score = _tile(segmenter, target, shown, box, tiles)
            if score is not None:
                first = coarse_prediction_of(whole, target.grid.turned_shape, box)
                if dice(score > THRESHOLD, first > THRESHOLD) >= config.refine_min_dice:
                    kept.append(TileScore(box, score))
            bar.advance()
    left = len(tiles.boxes) - len(kept)
    if not left:
        return kept, ""
    return kept, (
        f"{left} of {len(tiles.boxes)} tiles of the second look were left out, where the "
        "network saw no prompt or contradicted its first look"
    )


def _tile(
    segmenter: Segmenter,
    target: PreparedImage,
    shown: Sequence[PreparedContext],
    box: Box,
    tiles: Tiles,
) -> Float[np.ndarray, "X Y Z"] | None:
    size = target.grid.grid
    images, prompted = [], []
    own = target.grid.cropped(box, size)
    for context in shown:
        view = own
        if context.image is not target:
            view = crop_of_context(context.image, context.prompted, box, tiles, target)
        prompts = (p.whole() if isinstance(p, CroppedMask) else p for p in context.prompts)
        placed = [on_crop(prompt, view) for prompt in prompts]
        prompted.append([prompt for prompt in placed if prompt is not None])
        images.append(context.image.view(view))
    if not any(prompted):
        return None
    channels = to_channels(prompted, size, smoothing=segmenter.volume.prompt_smoothing)
    weights = np.array([bool(placed) for placed in prompted], np.float32)
    encoded = segmenter.encode(target.view(own))
    return segmenter.predict(encoded, np.stack(images), channels, weights)
