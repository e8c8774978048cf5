"""A second look at what was found in the whole target: in tiles, at the target's own resolution."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wsicl_jax.axes import Box
from wsicl_jax.infer.compose import TileScore, seen_before
from wsicl_jax.infer.contexts import HeldMask, Shown
from wsicl_jax.infer.prepared import Prepared
from wsicl_jax.infer.segmenter import Segmenter
from wsicl_jax.infer.tiles import Tiles, tiles_around, view_of_context
from wsicl_jax.metrics import dice
from wsicl_jax.model.dual_branch import CUT
from wsicl_jax.progress import track
from wsicl_jax.prompts import on_crop, to_channels


def second_look(
    segmenter: Segmenter,
    name: str,
    target: Prepared,
    shown: Sequence[Shown],
    whole: Float[np.ndarray, "X Y Z"],
    show: bool,
) -> tuple[list[TileScore], str]:
    """Scores of the tiles that agree with the first look at a structure, and what to say of it.

    `whole` is what the first look gave; `show` draws a progress bar.
    """
    config = segmenter.config
    tiles = tiles_around(whole > CUT, target, config)
    if tiles is None:
        return [], "too large for a second look that would show more"
    kept = []
    with track(len(tiles.boxes), f"second look, {name}", show=show) as bar:
        for box in tiles.boxes:
            score = _tile(segmenter, target, shown, box, tiles)
            if score is not None:
                first = seen_before(whole, target.grid.turned_shape, box)
                if dice(score > CUT, first > CUT) >= config.fine_agreement:
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
    segmenter: Segmenter, target: Prepared, shown: Sequence[Shown], box: Box, tiles: Tiles
) -> Float[np.ndarray, "X Y Z"] | None:
    size = target.grid.grid
    images, prompted = [], []
    own = target.grid.cropped(box, size)
    for context in shown:
        view = own
        if context.image is not target:
            view = view_of_context(context.image, context.prompted, box, tiles, target)
        prompts = (p.whole() if isinstance(p, HeldMask) else p for p in context.prompts)
        placed = [on_crop(prompt, view) for prompt in prompts]
        prompted.append([prompt for prompt in placed if prompt is not None])
        images.append(context.image.view(view))
    if not any(prompted):
        return None
    channels = to_channels(prompted, size, halo=segmenter.volume.prompt_halo)
    weights = np.array([bool(placed) for placed in prompted], np.float32)
    encoded = segmenter.encode(target.view(own))
    return segmenter.answer(encoded, np.stack(images), channels, weights)
