"""Settings of how image files are read."""

from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import RULES, AboveZero, Orientation


@dataclass(frozen=True, kw_only=True, config=RULES)
class AssumptionConfig:
    """What is assumed of images whose files do not state it."""

    assume_orientation: Orientation | None = None
    """Direction of the axes of images that do not state it, such as RAS: right, anterior,
    superior. None: as most readers of the format assume, with a remark."""


@dataclass(frozen=True, kw_only=True, config=RULES)
class ReadingConfig(AssumptionConfig):
    """How image files are read."""

    max_memory_gb: AboveZero | None = None
    """Memory limit of the process in GB (10^9 bytes). None: no limit, except that one image may
    take half of the machine's memory."""
