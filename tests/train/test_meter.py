"""Means and speeds, with a clock that the test sets."""

import math

import pytest

from wsicl_jax.train.meter import Meter, worst_structures


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def step(loss: float, *, skipped: int = 0, in_row: int = 0) -> dict[str, float]:
    return {
        "loss": loss,
        "gradient_norm": 2 * loss,
        "learning_rate": loss / 100,
        "skipped": skipped,
        "skipped_in_row": in_row,
    }


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def meter(clock):
    return Meter(lambda contexts: 100.0 * contexts, batch=2, peak=1000.0, clock=clock)


def test_an_entry_has_means_speeds_and_the_latest_rate(meter, clock):
    meter.add(step(1.0), contexts=2, seconds_waiting=0.5)
    meter.add(step(3.0), contexts=4, seconds_waiting=0.1)
    clock.now = 4.0
    entry = meter.entry()
    assert entry == pytest.approx(
        {
            "loss": 2.0,
            "gradient_norm": 4.0,
            "learning_rate": 0.03,
            "skipped": 0,
            "contexts": 3,
            "seconds_per_step": 2.0,
            "seconds_waiting_for_data": 0.3,
            "volumes_per_second": (2 * 3 + 2 * 5) / 4,
            "flops_per_second": 600 / 4,
            "peak_share": 0.15,
        }
    )


def test_each_data_set_has_the_number_of_its_episodes_and_their_mean_loss(meter, clock):
    meter.add(
        step(2.0) | {"losses": [1.0, 3.0]},
        contexts=1,
        seconds_waiting=0.0,
        data_sets=["liver", "heart"],
    )
    later = Meter(lambda _: 0.0, batch=2, peak=None, unlogged=meter.unlogged, clock=clock)
    clock.now = 1.0
    for each, skipped in ((5.0, 0), (math.nan, 1)):  # the second without an update
        later.add(
            step(each, skipped=skipped, in_row=skipped) | {"losses": [each, each]},
            contexts=1,
            seconds_waiting=0.0,
            data_sets=["liver", "liver"],
        )
    clock.now = 2.0
    entry = later.entry()
    by_set = {name: value for name, value in entry.items() if "/" in name}
    expected = {
        "episodes_of/liver": 3,
        "loss_of/liver": 11 / 3,
        "episodes_of/heart": 1,
        "loss_of/heart": 3,
    }
    assert by_set == pytest.approx(expected)
    later.add(step(1.0), contexts=1, seconds_waiting=0.0)
    clock.now = 3.0
    assert not any("/" in name for name in later.entry())


def test_each_entry_begins_anew(meter, clock):
    for loss in (1.0, 5.0):
        meter.add(step(loss), contexts=1, seconds_waiting=0.0)
        clock.now += 1
        assert meter.entry()["loss"] == loss


def test_pauses_are_no_time_of_steps(meter, clock):
    meter.add(step(1.0), contexts=1, seconds_waiting=0.0)
    with meter.paused():
        clock.now += 100
    clock.now += 2
    assert meter.entry()["seconds_per_step"] == 2


def test_a_skipped_step_is_counted_but_not_in_the_means(meter, clock):
    meter.add(step(math.nan, skipped=1, in_row=1), contexts=1, seconds_waiting=0.0)
    meter.add(step(1.0, skipped=1), contexts=1, seconds_waiting=0.0)
    clock.now = 1.0
    entry = meter.entry()
    assert entry["loss"] == 1.0 and entry["skipped"] == 1


def test_without_any_update_there_is_no_loss(meter, clock):
    meter.add(step(math.nan, skipped=1, in_row=1), contexts=1, seconds_waiting=0.0)
    clock.now = 1.0
    assert not {"loss", "gradient_norm"} & set(meter.entry())


def test_no_share_of_an_unknown_peak(clock):
    meter = Meter(lambda contexts: 1.0, batch=1, peak=None, clock=clock)
    meter.add(step(1.0), contexts=1, seconds_waiting=0.0)
    clock.now = 1.0
    assert "peak_share" not in meter.entry()


def test_a_restarted_run_goes_on_with_the_sums(meter, clock):
    meter.add(step(1.0), contexts=2, seconds_waiting=0.0)
    again = Meter(lambda c: 1.0, batch=2, peak=None, unlogged=meter.unlogged, clock=clock)
    again.add(step(2.0), contexts=4, seconds_waiting=0.0)
    clock.now = 1.0
    entry = again.entry()
    assert entry["loss"] == 1.5 and entry["contexts"] == 3
    assert entry["seconds_per_step"] == 1.0


def test_each_structure_has_the_number_of_its_episodes_and_their_mean_loss(meter, clock):
    of_step = step(2.0) | {"losses": [1.0, 3.0]}
    structures = [["set/liver", "set/heart"], ["set/heart"]]
    meter.add(of_step, contexts=1, seconds_waiting=0.0, structures=structures)
    clock.now = 1.0
    assert not any("/" in name for name in meter.entry())
    again = Meter(lambda _: 0.0, batch=2, peak=None, unlogged=meter.unlogged, clock=clock)
    again.add(of_step, contexts=1, seconds_waiting=0.0, structures=[["set/liver"], ["set/bone"]])
    again.add(step(9.0, skipped=1, in_row=1), contexts=1, seconds_waiting=0.0)
    entry = again.structures_entry()
    assert list(entry.items()) == [
        ("loss_of/set/bone", 3.0),
        ("episodes_of/set/bone", 1),
        ("loss_of/set/heart", 2.0),
        ("episodes_of/set/heart", 2),
        ("loss_of/set/liver", 1.0),
        ("episodes_of/set/liver", 2),
    ]
    assert worst_structures(entry, 2) == "set/bone 3 (1 episodes), set/heart 2 (2 episodes)"
    assert again.structures_entry() == {}
