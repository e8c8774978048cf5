"""Pictures by which one follows a training."""

import io

import pytest
from evaluate.small_evaluations import experiment, planned, some_model, write_store
from PIL import Image

from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.scoring import evaluate
from wsicl_jax.report import validation_pictures as module
from wsicl_jax.report.validation_pictures import validation_pictures


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A network, two lists and its scores on them at several settings."""
    folder = tmp_path_factory.mktemp("stores")
    settings = {"kinds": ["point", "box"], "contexts": [1, 3], "prompts": [1, 2]}
    stores = [write_store(folder / name) for name in ("one", "two")]
    data = [planned(store, **settings) for store in stores]
    config = experiment(stores[0], **settings)
    network = Predictor(some_model(), config.volume)
    return network, data, evaluate(network, data, config.evaluation, "run")


def test_every_data_set_and_structure_has_its_pictures(evaluated):
    names = [*validation_pictures(*evaluated, count=4)]
    assert [name.split("/")[:3] for name in names] == [
        ["pictures", data_set, structure]
        for data_set in ("one", "two")
        for structure in ("left", "right")
    ]
    assert validation_pictures(*evaluated, count=0) == {}


def test_a_picture_is_of_the_first_kind_with_most_contexts_and_prompts(evaluated, monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "_png", lambda name, replay: drawn.append(replay) or b"")
    validation_pictures(*evaluated, count=1)
    (score,) = (replay.score for replay in drawn)
    assert (score.kind, score.contexts, score.prompts) == ("point", 3, 2)
    assert len(drawn[0].contexts) == 3


def test_a_picture_is_a_png_file_and_only_the_leading_process_draws_it(evaluated, monkeypatch):
    (png,) = validation_pictures(*evaluated, count=1).values()
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG" and picture.width > 2 * picture.height
    monkeypatch.setattr(module, "is_leader", lambda: False)
    assert validation_pictures(*evaluated, count=1) == {}
