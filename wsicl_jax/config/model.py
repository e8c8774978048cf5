"""Settings of the network."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import RULES, Count, Positive


@dataclass(frozen=True, kw_only=True, config=RULES)
class ContextConfig:
    """How the context set is processed; only `gradient: truncated` changes a result."""

    mini_context: Count = 0
    """Context images processed at a time, which bounds memory; 0: all at once."""
    gradient: Literal["exact", "truncated"] = "exact"
    """`exact`: of the whole context set. `truncated`: estimated from one mini-context, as
    published."""
    remat: Literal["none", "context", "stage"] = "context"
    """What the backward pass recomputes instead of storing: nothing, each mini-context, or also
    each stage of the network."""

    @model_validator(mode="after")
    def _check(self):
        if self.gradient == "truncated" and not self.mini_context:
            raise ValueError("gradient: truncated needs mini_context; the authors train with 3")
        return self


@dataclass(frozen=True, kw_only=True, config=RULES)
class ModelConfig:
    """The dual-branch network."""

    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (8, 16, 32, 64)
    """Channels of each stage, fine to coarse; the published model has 32, 64, 128, 256, 512."""
    context: ContextConfig = ContextConfig()
    """Processing of the context set."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of activations and products. Parameters and the mean over the context set are
    always float32. Accelerators multiply float32 with the precision that JAX's
    `jax_default_matmul_precision` names, by default with fewer bits."""

    @property
    def size_multiple(self) -> int:
        """Every side of an image must be a multiple of this."""
        return 2 ** (len(self.channels) - 1)
