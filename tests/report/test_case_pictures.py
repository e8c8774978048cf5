"""Cases of the gallery: which ones, and on which slices."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_scores import MadeUp, shown, write_sweep

from wsicl_jax.evaluate.records import Score
from wsicl_jax.prompts import Box, Point, to_channel
from wsicl_jax.report.case_pictures import case_figure, choose_cases, find_cases
from wsicl_jax.report.model_groups import model_groups
from wsicl_jax.report.replay import GalleryCase, GalleryContext
from wsicl_jax.report.results import read_results

SCORE = Score(
    model="m", data_set="d", structure="s", episode="s/1", target="1", subject="1",
    protocol="in_context", kind="box", contexts=3, prompts=1, dice=0.5,
)  # fmt: skip
SHAPE = (20, 30, 24)


def _chosen(directory, subjects):
    made_up = MadeUp(models={"m": 0.0}, data_sets={"a": ("x",), "b": ("y",)}, subjects=subjects)
    scores = write_sweep(directory, made_up)
    results = read_results([directory])
    return scores, choose_cases(results, *model_groups(results))


def test_best_median_and_worst_are_of_the_most_boxes_and_contexts(tmp_path):
    scores, chosen = _chosen(tmp_path, 5)
    assert [(rank, s.data_set) for rank, s in chosen] == [
        (rank, name) for name in "ab" for rank in ("best", "median", "worst")
    ]
    for name in "ab":
        main = [s for s in scores if (s.data_set, s.kind, s.contexts) == (name, "box", 8)]
        ranked = sorted((s for s in main if s.prompts == 5), key=lambda s: -s.dice)
        assert [s for _, s in chosen if s.data_set == name] == [ranked[0], ranked[2], ranked[4]]


@pytest.mark.parametrize(("subjects", "ranks"), [(1, ["best"]), (2, ["best", "worst"])])
def test_few_episodes_are_shown_once_each(tmp_path, subjects, ranks):
    _, chosen = _chosen(tmp_path, subjects)
    assert [rank for rank, score in chosen if score.data_set == "a"] == ranks


def test_ranks_are_those_of_the_scores_whatever_the_images_come_with(tmp_path):
    _, chosen = _chosen(tmp_path, 3)
    found, reason = find_cases(chosen, lambda scores: shown(scores[::-1], contexts=0))
    assert reason == ""
    assert [(case.rank, case.score) for case in found] == chosen[::-1]


def _case(*prompts, spacing_mm=(1.0, 1.0, 1.0)):
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    truth = np.zeros(SHAPE, bool)
    truth[5:10, 8:20, 9:14] = True
    truth[7, 14, 2:22] = True
    contexts = tuple(
        GalleryContext(f"{n}", image, to_channel([prompt], SHAPE), truth)
        for n, prompt in enumerate(prompts)
    )
    return GalleryCase("best", SCORE, spacing_mm, image, truth, truth, contexts)


def _shown(axis):
    return axis.get_images()[0].get_array().T


def test_contexts_are_shown_on_the_slice_of_their_prompts():
    boxes = [
        Box((6, 8, 9), (7, 20, 14)),
        Box((5, 12, 9), (10, 13, 14)),
        Box((5, 8, 10), (10, 20, 11)),
    ]
    case = _case(*boxes)
    axes = case_figure(case).axes[3:]
    titles = [axis.get_title() for axis in axes]
    assert titles == ["context 1, sagittal", "context 2, coronal", "context 3, axial"]
    for axis, flat, index in zip(axes, range(3), (6, 12, 10), strict=True):
        np.testing.assert_array_equal(_shown(axis), case.image.take(index, flat))


def test_a_point_alike_from_all_sides_is_shown_on_its_axial_slice():
    case = _case(Point(7, 14, 15))
    axis = case_figure(case).axes[3]
    assert axis.get_title() == "context 1, axial"
    np.testing.assert_array_equal(_shown(axis), case.image[:, :, 15])


def test_the_target_is_shown_through_its_largest_cross_sections():
    case = _case()
    for flat, axis in enumerate(case_figure(case).axes):
        index = int(case.truth.sum(tuple({0, 1, 2} - {flat})).argmax())
        np.testing.assert_array_equal(_shown(axis), case.image.take(index, flat))


def test_voxels_have_their_true_proportions_and_slices_one_scale():
    figure = case_figure(_case(spacing_mm=(1.0, 2.0, 0.5)))
    assert [axis.get_aspect() for axis in figure.axes] == [0.25, 0.5, 2.0]
    sides = [
        (np.ptp(axis.get_xlim()) * across, np.ptp(axis.get_ylim()) * up)
        for axis, (across, up) in zip(figure.axes, ((2, 0.5), (1, 0.5), (1, 2)), strict=True)
    ]
    np.testing.assert_allclose(sides, sides[0][0])


def test_the_sides_of_the_subject_are_marked():
    marks = [[text.get_text() for text in axis.texts] for axis in case_figure(_case()).axes]
    assert marks == [["P", "A", "I", "S"], ["L", "R", "I", "S"], ["L", "R", "P", "A"]]


def test_a_prediction_that_is_empty_or_touches_the_border_can_be_drawn():
    case = _case()
    for mask in (np.zeros(SHAPE, bool), np.ones(SHAPE, bool)):
        case_figure(replace(case, mask=mask, truth=mask)).canvas.draw()
