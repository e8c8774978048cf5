"""Settings of prompts in training."""

from dataclasses import field
from typing import Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import RULES, Amount, PromptKind, Range, Share


@dataclass(frozen=True, kw_only=True, config=RULES)
class PromptConfig:
    """Prompts on the context images in training."""

    kinds: dict[PromptKind, Amount] = field(default_factory=lambda: {"box": 1.0})
    """Relative frequency of each kind of prompt."""
    mixing: Literal["episode", "image", "prompt"] = "episode"
    """Unit for which the kind is sampled: a whole episode, a context image, or a prompt."""
    count: Range = (1, 5)
    """Fewest and most prompts on each context image; the number is sampled once per episode. An
    image has at most one `box3d` and one `mask`."""
    jitter: Amount = 0.0
    """Standard deviation of a person's error, as a share of the size of the structure or box;
    0: prompts are exact."""
    negative_share: Share = 0.0
    """Share of the context images that also have negative points: beside the structure, and where
    the image looks like it."""
    negative_count: Range = (1, 3)
    """Fewest and most negative points on an image that has any."""

    @model_validator(mode="after")
    def _check(self):
        if not sum(self.kinds.values()) > 0:
            raise ValueError("at least one kind needs a frequency above 0")
        return self
