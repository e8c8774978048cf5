"""Pictures of targets: which ones, of which models, and on which slices."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_scores import MadeUp, replay, write_sweep

from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.records import Score
from wsicl_jax.prompts import Box, Point, to_channel
from wsicl_jax.report.case_pictures import (
    MOST_MODELS,
    PicturedTarget,
    case_figure,
    choose_targets,
    prediction_words,
    replay_targets,
)
from wsicl_jax.report.model_groups import model_groups
from wsicl_jax.report.replay import ReplayedCase, ReplayedContext
from wsicl_jax.report.results import read_results

SCORE = Score(
    model="m", data_set="d", structure="s", episode="s/1", target="1", subject="1",
    protocol="in_context", kind="box", contexts=3, prompts=1, dice=0.5,
)  # fmt: skip
SHAPE = (20, 30, 24)


def _chosen(directory, subjects, models=("m",), **settings):
    made_up = MadeUp(
        models=dict.fromkeys(models, 0.0), data_sets={"a": ("x",), "b": ("y",)}, subjects=subjects,
        **settings,
    )  # fmt: skip
    scores = write_sweep(directory, made_up)
    results = read_results([directory])
    return scores, choose_targets(results, model_groups(results)[0])


def test_best_median_and_worst_are_of_the_most_boxes_and_contexts(tmp_path):
    scores, chosen = _chosen(tmp_path, 5)
    assert [(rank, s.data_set) for rank, (s,) in chosen] == [
        (rank, name) for name in "ab" for rank in ("best", "median", "worst")
    ]
    for name in "ab":
        main = [s for s in scores if (s.data_set, s.kind, s.contexts) == (name, "box", 8)]
        ranked = sorted((s for s in main if s.prompts == 5), key=lambda s: -s.dice)
        assert [s for _, (s,) in chosen if s.data_set == name] == [ranked[0], ranked[2], ranked[4]]


@pytest.mark.parametrize(("subjects", "ranks"), [(1, ["best"]), (2, ["best", "worst"])])
def test_few_episodes_are_chosen_once_each(tmp_path, subjects, ranks):
    _, chosen = _chosen(tmp_path, subjects)
    assert [rank for rank, (score,) in chosen if score.data_set == "a"] == ranks


FEW = {"kinds": ("box",), "contexts": (2,), "prompts": (1,)}


def test_a_target_has_the_scores_of_all_models_and_the_first_one_is_ranked(tmp_path):
    _, chosen = _chosen(tmp_path, 3, ("one", "two", "three"), **FEW)
    for _, scores in chosen:
        assert [score.model for score in scores] == ["one", "two", "three"]
        assert len({(s.episode, s.kind, s.contexts, s.prompts) for s in scores}) == 1
    dice = [scores[0].dice for rank, scores in chosen if scores[0].data_set == "a"]
    assert dice == sorted(dice, reverse=True)


def test_models_that_cannot_be_run_again_are_named_with_the_reason(tmp_path):
    _, chosen = _chosen(tmp_path, 1, ("one", "gone"), **FEW)

    def only_one(score):
        if score.model == "gone":
            raise DataError("no checkpoint")
        return replay(score)

    targets, reasons = replay_targets(chosen, only_one)
    assert reasons == {"gone": "no checkpoint"}
    assert [([c.score.model for c in t.cases], t.scored) for t in targets] == [(["one"], 2)] * 2


def test_a_picture_has_a_row_for_each_model_up_to_a_limit(tmp_path):
    names = [f"model {n}" for n in range(MOST_MODELS + 2)]
    _, chosen = _chosen(tmp_path, 1, names, **FEW)
    target = replay_targets(chosen, lambda score: replay(score, contexts=0))[0][0]
    titles = [axis.get_title("left") for axis in case_figure(target).axes]
    assert titles[::3] == [
        f"{name}: Dice {score.dice:.3f}"
        for name, score in zip(names[:MOST_MODELS], chosen[0][1], strict=False)
    ]
    assert target.scored == MOST_MODELS + 2


def test_an_empty_prediction_is_reported_in_words():
    case = _replayed()
    assert prediction_words(case) == "m: Dice 0.500"
    empty = replace(case, mask=np.zeros(SHAPE, bool))
    assert prediction_words(empty) == "m: Dice 0.500, empty prediction"
    assert case_figure(_target(empty)).axes[0].get_title("left").endswith("empty prediction")


def _target(*cases):
    return PicturedTarget("best", SCORE, cases, len(cases))


def _replayed(*prompts, spacing_mm=(1.0, 1.0, 1.0)):
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    truth = np.zeros(SHAPE, bool)
    truth[5:10, 8:20, 9:14] = True
    truth[7, 14, 2:22] = True
    contexts = tuple(
        ReplayedContext(f"{n}", image, to_channel([prompt], SHAPE), truth)
        for n, prompt in enumerate(prompts)
    )
    return ReplayedCase(SCORE, spacing_mm, image, truth, truth, contexts)


def _image(axis):
    return axis.get_images()[0].get_array().T


def test_contexts_are_drawn_on_the_slice_of_their_prompts():
    boxes = [
        Box((6, 8, 9), (7, 20, 14)),
        Box((5, 12, 9), (10, 13, 14)),
        Box((5, 8, 10), (10, 20, 11)),
    ]
    case = _replayed(*boxes)
    axes = case_figure(_target(case)).axes[3:]
    titles = [axis.get_title() for axis in axes]
    assert titles == ["context 1, sagittal", "context 2, coronal", "context 3, axial"]
    for axis, flat, index in zip(axes, range(3), (6, 12, 10), strict=True):
        np.testing.assert_array_equal(_image(axis), case.image.take(index, flat))


def test_a_point_equal_in_all_planes_is_drawn_on_its_axial_slice():
    case = _replayed(Point(7, 14, 15))
    axis = case_figure(_target(case)).axes[3]
    assert axis.get_title() == "context 1, axial"
    np.testing.assert_array_equal(_image(axis), case.image[:, :, 15])


def test_the_target_is_drawn_through_its_largest_cross_sections():
    case = _replayed()
    for flat, axis in enumerate(case_figure(_target(case)).axes):
        index = int(case.truth.sum(tuple({0, 1, 2} - {flat})).argmax())
        np.testing.assert_array_equal(_image(axis), case.image.take(index, flat))


def test_voxels_have_their_true_proportions_and_slices_one_scale():
    figure = case_figure(_target(_replayed(spacing_mm=(1.0, 2.0, 0.5))))
    assert [axis.get_aspect() for axis in figure.axes] == [0.25, 0.5, 2.0]
    sides = [
        (np.ptp(axis.get_xlim()) * across, np.ptp(axis.get_ylim()) * up)
        for axis, (across, up) in zip(figure.axes, ((2, 0.5), (1, 0.5), (1, 2)), strict=True)
    ]
    np.testing.assert_allclose(sides, sides[0][0])


def test_the_sides_of_the_subject_are_marked():
    marks = [
        [text.get_text() for text in axis.texts] for axis in case_figure(_target(_replayed())).axes
    ]
    assert marks == [["P", "A", "I", "S"], ["L", "R", "I", "S"], ["L", "R", "P", "A"]]


def test_a_prediction_that_is_empty_or_touches_the_border_can_be_drawn():
    case = _replayed()
    for mask in (np.zeros(SHAPE, bool), np.ones(SHAPE, bool)):
        case_figure(_target(replace(case, mask=mask, truth=mask))).canvas.draw()
