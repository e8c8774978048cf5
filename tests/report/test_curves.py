"""The curves show the means that they are said to show."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_scores import MadeUp, write_sweep
from matplotlib.colors import to_hex

from wsicl_jax.report.figures import Timed, best_by_time, context_figure, rounds_figure, time_figure
from wsicl_jax.report.model_groups import model_groups
from wsicl_jax.report.results import read_results
from wsicl_jax.report.style import colour, duration_axis, new_figure
from wsicl_jax.report.wording import duration, listed, number, signed

MADE_UP = MadeUp(
    models={"m": 0.0}, data_sets={"a": ("x", "y"), "b": ("z",)}, contexts=(1, 2, 8), subjects=3,
    prompts=(1, 3), interactive=("box", "point"),
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Scores, results and their line-up."""
    directory = tmp_path_factory.mktemp("sweep")
    scores = write_sweep(directory, MADE_UP)
    results = read_results([directory])
    return scores, results, *model_groups(results)


def _mean(scores, **setting):
    there = [s for s in scores if all(getattr(s, k) == v for k, v in setting.items())]
    return np.mean([s.dice for s in there])


def test_a_panel_has_a_line_for_each_number_of_prompts_and_dense_icl(measured):
    scores, results, group = measured
    figure = context_figure(results, group, ("a", "b"))
    grid = np.reshape(figure.axes, (2, 2))
    for row, data_set in zip(grid, "ab", strict=True):
        for axis, kind in zip(row, ("box", "point"), strict=True):
            drawn = [line.get_ydata() for line in axis.lines]
            wanted = [("mask", 1), (kind, 1), (kind, 3)]
            for line, (shown, prompts) in zip(drawn, wanted, strict=True):
                means = [
                    _mean(scores, data_set=data_set, kind=shown, prompts=prompts, contexts=n,
                          protocol="in_context")
                    for n in (1, 2, 8)
                ]  # fmt: skip
                np.testing.assert_allclose(line, means)
    assert [text.get_text() for text in grid[1, 0].get_xticklabels()] == ["1", "2", "8"]
    assert grid[1, 0].get_xscale() == "log"


def test_colours_of_a_kind_are_the_same_in_all_figures(measured):
    _, results, group = measured
    contexts = context_figure(results, group, ("a",)).axes[0].lines[-1].get_color()
    rounds = rounds_figure(results, group).axes[0].lines[0].get_color()
    times = {to_hex(line.get_color()) for line in time_figure(results, group).axes[0].lines}
    assert to_hex(contexts) == to_hex(rounds) == colour("box")
    assert colour("box") in times


def test_annotation_time_has_a_panel_for_each_data_set_and_their_mean(measured):
    scores, results, group = measured
    figure = time_figure(results, group)
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles == ["a", "b", "mean over data sets"]
    everywhere = {tuple(point) for line in figure.axes[2].lines for point in line.get_xydata()}
    means = [
        _mean(scores, data_set=name, kind="point", contexts=8, prompts=3, protocol="in_context")
        for name in "ab"
    ]
    assert any(np.allclose(point, (8 * 3 * 5, np.mean(means))) for point in everywhere)


def test_how_near_boxes_come_to_dense_icl_stands_in_the_panel(measured):
    scores, results, group = measured
    (said,) = (text.get_text() for text in time_figure(results, group).axes[1].texts[-1:])
    box, dense = (
        max(_mean(scores, data_set="b", kind=kind, contexts=8, prompts=n, protocol="in_context")
            for n in counts)
        for kind, counts in (("box", (1, 3)), ("mask", (1,)))
    )  # fmt: skip
    assert (
        said == f"WS-ICL (Box): {100 * box / dense:.0f} % of dense ICL\nin 4 min instead of 3.6 h"
    )


def test_models_with_one_setting_are_drawn_under_their_names(measured):
    _, results, group = measured
    other = group.main("a")["mask"]._replace(model="m")
    texts = [text.get_text() for text in time_figure(results, group, [other]).axes[0].texts]
    assert "m" in texts


def test_rounds_are_on_the_axis_by_their_number(measured):
    scores, results, group = measured
    axis = rounds_figure(results, group).axes[0]
    wanted = [
        _mean(scores, data_set="a", kind="box", protocol="interactive", round=n) for n in (1, 2, 3)
    ]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), list(enumerate(wanted, 1)))


_TIMES = st.lists(
    st.tuples(st.sampled_from([5.0, 10.0, 30.0, 60.0]), st.floats(0, 1)), min_size=1, max_size=12
)


@settings(deadline=None)
@given(_TIMES)
def test_the_line_leaves_out_what_something_quicker_equals(points):
    timed = [Timed("box", 1, 1, seconds, dice) for seconds, dice in points]
    front = best_by_time(timed)
    for before, after in itertools.pairwise(front):
        assert before.seconds < after.seconds
        assert before.dice < after.dice
    for point in timed:
        reached = max(p.dice for p in front if p.seconds <= point.seconds)
        assert reached >= point.dice


def test_times_have_ticks_that_people_read():
    axis = new_figure(3.0, 3.0).subplots()
    duration_axis(axis, 5.0, 25600.0)
    labels = [text.get_text() for text in axis.get_xticklabels()]
    assert labels == ["5 s", "30 s", "2 min", "10 min", "1 h", "5 h"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "5 s"), (60, "1 min"), (80, "80 s"), (150, "2.5 min"), (800, "13 min"), (3600, "1 h"),
     (25600, "7.1 h"), (200000, "2.3 d")],
)  # fmt: skip
def test_durations_have_a_readable_unit(seconds, words):
    assert duration(float(seconds)) == words


def test_numbers_have_a_true_minus_sign_and_missing_ones_a_dash():
    assert (number(-0.5, 1), signed(0.25, 2), signed(-1.0, 0), number(None)) == (
        "\N{MINUS SIGN}0.5",
        "+0.25",
        "\N{MINUS SIGN}1",
        "\N{EN DASH}",
    )


def test_names_are_listed_as_in_a_sentence():
    assert [listed("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
