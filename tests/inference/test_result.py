"""Results of segmentation as files."""

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.result import Segmentation


def test_a_result_is_saved_into_a_folder_that_is_made_for_it(tmp_path):
    label_map = np.ones((3, 4, 5), np.uint8)
    whole = Box((0, 0, 0), (3, 4, 5))
    result = Segmentation(label_map, {"structure": 1}, np.eye(4), {}, (), whole)
    result.save(tmp_path / "masks" / "more" / "a.nii.gz")
    np.testing.assert_array_equal(
        nib.load(tmp_path / "masks" / "more" / "a.nii.gz").get_fdata(), label_map
    )
    with pytest.raises(DataError, match=r"a.nii.gz cannot be made: "):
        result.save(tmp_path / "masks" / "more" / "a.nii.gz" / "b.nii.gz")
