"""How well a mask agrees with the truth."""

import numpy as np
from jaxtyping import Bool


def dice(mask: Bool[np.ndarray, "*shape"], truth: Bool[np.ndarray, "*shape"]) -> float:
    """Dice coefficient, 0 to 1; 1 where both are empty, 0 where one alone is."""
    size = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / size if size else 1.0
