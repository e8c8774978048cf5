"""The learning rate follows the validation Dice."""

import pytest

from wsicl_jax.config import TrainConfig
from wsicl_jax.train.plateau import Plateau

CONFIG = TrainConfig(schedule="plateau", evaluate_every=1, plateau_patience=2, plateau_floor=0.2)


def scale(plateau: Plateau) -> float:
    return plateau.record["scale"]


def test_the_rate_is_halved_after_enough_evaluations_without_a_higher_dice():
    plateau, scales = Plateau(CONFIG), []
    for dice in (0.1, 0.5, 0.5, 0.4, 0.6, 0.6, 0.6, 0.1, 0.1, 0.1, 0.1):
        plateau.add(dice)
        scales.append(scale(plateau))
    assert scales == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2])


def test_its_record_is_all_that_the_rest_depends_on():
    dice = [0.5, 0.4, 0.3, 0.45, 0.6, 0.1, 0.1]
    for cut in range(1, len(dice)):
        plateau, whole = Plateau(CONFIG), Plateau(CONFIG)
        for value in dice[:cut]:
            plateau.add(value)
        plateau = Plateau(CONFIG, plateau.record)
        for value in dice[cut:]:
            plateau.add(value)
        for value in dice:
            whole.add(value)
        assert plateau.record == whole.record


def test_other_schedules_keep_no_record():
    plateau = Plateau(TrainConfig())
    plateau.add(0.5)
    assert plateau.record is None
