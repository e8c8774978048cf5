import numpy as np
import pytest

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.inference.inputs.external import read_prompts
from wsicl_jax.inference.inputs.external.text import read_text
from wsicl_jax.prompts import Point

VOLUME = Volume(np.zeros((9, 7, 5), np.float32), np.eye(4))
LAYER = "index,axis-0,axis-1,axis-2\n0,4,3,2\n"


def test_endings_may_be_in_capitals_and_paths_text(tmp_path):
    (tmp_path / "LAYER.CSV").write_text(LAYER)
    assert read_prompts(str(tmp_path / "LAYER.CSV"), VOLUME) == [Point(4, 3, 2)]


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "layer.csv").write_text(LAYER, encoding="utf-8-sig")
    assert read_prompts(tmp_path / "layer.csv", VOLUME) == [Point(4, 3, 2)]


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    with pytest.raises(PromptError, match=r"a\.stl: of no known kind; expected \.mrk\.json"):
        read_prompts(tmp_path / "a.stl", VOLUME)


def test_unknown_axes_are_refused(tmp_path):
    (tmp_path / "layer.csv").write_text(LAYER)
    with pytest.raises(PromptError, match="axes are 'yxz'; expected one of xyz, zyx"):
        read_prompts(tmp_path / "layer.csv", VOLUME, axes="yxz")


@pytest.mark.parametrize("name", ["a.mrk.json", "a.csv", "a.fcsv", "a.nii.gz", "a.mha"])
def test_a_missing_file_is_refused_with_its_name(tmp_path, name):
    with pytest.raises(DataError, match=rf"^{tmp_path}/{name}:? (cannot be read|is missing)"):
        read_prompts(tmp_path / name, VOLUME)


def test_a_file_larger_than_any_list_of_prompts_is_not_read(tmp_path):
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(3 * 10**9)
    with pytest.raises(DataError, match="3000 MB; a file of prompts has 67 at most"):
        read_text(tmp_path / "a.csv")
