import numpy as np
import pytest

from wsicl_jax.config import PromptKind
from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import (
    ONCE_PER_IMAGE,
    SECONDS,
    Point,
    Scribble,
    SliceMask,
    annotation_seconds,
    draw,
    kind_of,
)

KINDS = PromptKind.__args__
SOLID = np.zeros((6, 7, 8), bool)
SOLID[1:4, 2:6, 3:8] = True


def test_every_kind_has_a_price_and_those_of_the_paper_are_its_own():
    assert set(SECONDS) == set(KINDS)
    assert [SECONDS[kind] for kind in ("point", "box", "mask2d", "mask")] == [5, 10, 80, 1600]


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_prompt_is_what_it_was_drawn_as(kind, jitter):
    for seed in range(20):
        drawn = draw(kind, SOLID, 3, np.random.default_rng(seed), jitter=jitter)
        assert len(drawn) == (1 if kind in ONCE_PER_IMAGE else 3)
        assert {kind_of(prompt) for prompt in drawn} == {kind}


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        (Point(1.0, 2.0, 3.0), "point"),
        (Scribble(((1.0, 2.0, 3.0),)), "scribble"),
        (Box((1, 1, 1), (2, 5, 5)), "box"),
        (Box((1, 1, 1), (5, 5, 2)), "box"),
        (Box((1, 1, 1), (3, 3, 3)), "box3d"),
        (SliceMask(0, 1, SOLID[1]), "mask2d"),
        (SOLID, "mask"),
        (SOLID[:1, :, :], "mask"),
    ],
)
def test_kinds_are_determined_by_the_prompt_itself(prompt, kind):
    assert kind_of(prompt) == kind
    assert annotation_seconds([prompt]) == SECONDS[kind]


def test_the_seconds_of_mixed_prompts_add_up():
    rng = np.random.default_rng(0)
    mixed = [p for kind in KINDS for p in draw(kind, SOLID, 2, rng)]
    # Two each, but for a 3D box and a mask.
    assert annotation_seconds(mixed) == 2 * (5 + 10 + 10 + 80) + 20 + 1600
    assert annotation_seconds([]) == 0
    assert annotation_seconds(iter(mixed[:3])) == 5 + 5 + 10


@pytest.mark.parametrize(
    ("axis", "box"),
    [
        (0, Box((2, 0, 0), (3, 4, 5))),
        (1, Box((0, 2, 0), (4, 3, 5))),
        (2, Box((0, 0, 2), (4, 5, 3))),
    ],
)
def test_the_box_of_a_slice_mask_is_its_whole_slice(axis, box):
    assert SliceMask(axis, 2, np.ones((4, 5), bool)).box == box
