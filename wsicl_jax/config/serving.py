"""Settings of the service behind the page in the browser."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import RULES, AboveZero, Count


@dataclass(frozen=True, kw_only=True, config=RULES)
class ServeConfig:
    """Port and limits of `wsicl serve`."""

    port: Annotated[int, Field(ge=0, le=65535, strict=True)] = 8000
    """Port to listen on; 0: any that is free."""
    max_upload_mb: AboveZero = 1000.0
    """Largest file that may be added to the folder, in MB (10^6 bytes)."""
    max_uploads: Count = 1000
    """Most files that may be added to the folder while the service runs."""
    cache_gb: AboveZero = 2.0
    """Memory for images that are kept between requests, in GB (10^9 bytes)."""
