"""Settings of how image files are read."""

from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import _RULES, Orientation, Spacing


@dataclass(frozen=True, kw_only=True, config=_RULES)
class AssumptionConfig:
    """What is taken for granted of images whose files do not say it."""

    assume_orientation: Orientation | None = None
    """Where the axes run of images that do not say it, such as RAS: to the right, to the front,
    up; None: as most readers of the format take them, with a remark."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ReadingConfig(AssumptionConfig):
    """How files of images are read."""

    max_memory_gb: Spacing | None = None
    """Memory that the process may take in all, in GB of 10^9 bytes; None: what is needed, but to
    read an image no more than half of the machine's memory."""
