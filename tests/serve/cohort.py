"""A small cohort that looks a little like cropped hippocampi, made from a seed."""

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

SHAPE = (44, 56, 40)
SPACING_MM = (1.0, 1.0, 1.2)


def subject(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and the mask of a bent, bright structure in it; axes in RAS+ order."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    a, b, c = rng.uniform(-0.06, 0.06, 3)
    size = rng.uniform(0.9, 1.1)
    bend = x - a - 0.35 * (y - b) ** 2 + 0.1
    mask = (bend / 0.26) ** 2 + ((y - b) / 0.62) ** 2 + ((z - c) / 0.3) ** 2 < size**2
    other = ((x + 0.55 + a) / 0.2) ** 2 + (y / 0.7) ** 2 + ((z + 0.3) / 0.4) ** 2 < 1
    head = x**2 + y**2 + z**2 < 0.95
    image = 60.0 * head + 70 * mask + 30 * other
    image = ndimage.gaussian_filter(image, 0.8) + rng.normal(0, 6, SHAPE)
    return image.astype(np.float32), mask


def write_cohort(folder: Path, subjects: int = 4) -> dict[str, np.ndarray]:
    """Write images, and return the true mask of each on the grid of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    masks = {}
    for seed in range(subjects):
        image, mask = subject(seed)
        name = f"subject{seed + 1}.nii.gz"
        # Axes to the left and back, as many scanners write them.
        affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
        masks[name] = np.ascontiguousarray(mask[::-1, ::-1])
        nib.save(nib.Nifti1Image(np.ascontiguousarray(image[::-1, ::-1]), affine), folder / name)
    return masks
