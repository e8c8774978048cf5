"""The picture of synthetic cohorts."""

import matplotlib.image
import numpy as np
import pytest

from wsicl_jax.cli import main


def test_a_picture_has_a_row_for_each_cohort_and_a_column_for_each_subject(tmp_path):
    words = ["--cohorts", "2", "--subjects", "4", "--grid", "16", "16", "16"]
    picture = tmp_path / "cohorts.png"
    assert main(["synth", str(tmp_path / "out"), *words, "--picture", str(picture)]) == 0
    shown = matplotlib.image.imread(picture)[..., :3]
    assert shown.shape[1] == pytest.approx(2 * shown.shape[0], rel=0.1)
    columns = [np.ptp(part, axis=2).max() for part in np.array_split(shown, 4, axis=1)]
    assert min(columns) > 0.2  # coloured outlines in every column
