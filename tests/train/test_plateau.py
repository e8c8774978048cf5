"""The learning rate follows the validation loss."""

import pytest

from wsicl_jax.config import TrainConfig
from wsicl_jax.train.plateau import Plateau

CONFIG = TrainConfig(schedule="plateau", evaluate_every=1, plateau_patience=2, plateau_floor=0.2)


def scale(plateau: Plateau) -> float:
    return plateau.record["scale"]


def test_the_rate_is_halved_after_enough_evaluations_without_a_lower_loss():
    plateau, scales = Plateau(CONFIG), []
    for loss in (0.9, 0.5, 0.5, float("nan"), 0.4, 0.4, 0.4, 0.9, None, 0.9, 0.9):
        plateau.add(loss)
        scales.append(scale(plateau))
    assert scales == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2])


def test_its_record_is_all_that_the_rest_depends_on():
    losses = [0.5, 0.6, 0.7, 0.55, 0.4, 0.9, 0.9]
    for cut in range(len(losses)):
        plateau, whole = Plateau(CONFIG), Plateau(CONFIG)
        for value in losses[:cut]:
            plateau.add(value)
        plateau = Plateau(CONFIG, plateau.record)
        for value in losses[cut:]:
            plateau.add(value)
        for value in losses:
            whole.add(value)
        assert plateau.record == whole.record


def test_a_record_of_the_dice_keeps_its_rate_and_begins_with_the_loss():
    plateau = Plateau(CONFIG, {"scale": 0.5, "best": 0.9, "waited": 1})
    plateau.add(7.0)
    assert plateau.record == {"scale": 0.5, "lowest_loss": 7.0, "waited": 0}


def test_other_schedules_keep_no_record():
    plateau = Plateau(TrainConfig())
    plateau.add(0.5)
    assert plateau.record is None
