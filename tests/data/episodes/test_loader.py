import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wsicl_jax.config import config_from_dict, config_to_dict
from wsicl_jax.data.episodes.loader import batches
from wsicl_jax.data.episodes.sampling import Episode, EpisodeSource
from wsicl_jax.errors import DataError, LoaderError

CONFIG = config_from_dict(
    {
        "data": "synthetic",
        "volume": {"grid": [8, 8, 8]},
        "model": {"channels": [2, 4]},
        "episode": {"contexts": [1, 3]},
        "train": {"steps": 7, "batch": 4},
    }
)


EPISODES = EpisodeSource(CONFIG)


@pytest.fixture(scope="module")
def expected():
    """The batches of a run, stacked by hand."""
    rows = [[EPISODES[4 * step + row] for row in range(4)] for step in range(7)]
    return [Episode(*map(np.stack, zip(*step, strict=True))) for step in rows]


def with_workers(workers: int):
    return EpisodeSource(replace(CONFIG, train=replace(CONFIG.train, workers=workers)))


def assert_equal(given: list[Episode], expected: list[Episode]):
    assert len(given) == len(expected)
    for a, b in zip(given, expected, strict=True):
        for part, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(part, other)


def test_every_step_has_the_batch_of_its_episodes(expected):
    assert_equal(list(batches(EPISODES)), expected)


def test_worker_processes_give_the_same_batches_in_the_same_order(expected):
    assert_equal(list(batches(with_workers(2))), expected)


@settings(max_examples=4, deadline=None)
@given(first_step=st.integers(0, 7))
def test_a_run_can_start_at_any_step(expected, first_step):
    assert_equal(list(batches(EPISODES, first_step=first_step)), expected[first_step:])


def test_worker_processes_can_start_at_any_step(expected):
    assert_equal(list(batches(with_workers(2), first_step=4)), expected[4:])


def test_a_start_at_a_late_step_replays_nothing(monkeypatch):
    asked = []
    make = EpisodeSource.__getitem__
    monkeypatch.setattr(
        EpisodeSource, "__getitem__", lambda self, i: asked.append(i) or make(self, i)
    )
    next(batches(EPISODES, first_step=5))
    assert min(asked) == 20


@pytest.mark.parametrize("shares", [[[0, 1], [2, 3]], [[0], [1], [2], [3]], [[0, 2], [1, 3]]])
def test_processes_with_separate_rows_make_every_batch_together(expected, shares):
    parts = [list(batches(EPISODES, rows=rows)) for rows in shares]
    order = np.argsort(list(itertools.chain(*shares)))
    united = [
        Episode(*(np.concatenate(part)[order] for part in zip(*step, strict=True)))
        for step in zip(*parts, strict=True)
    ]
    assert_equal(united, expected)


def test_processes_may_have_the_same_rows(expected):
    assert_equal(list(batches(EPISODES, rows=[0, 1, 2, 3])), expected)


def test_a_process_can_start_at_any_step(expected):
    share = list(batches(EPISODES, first_step=3, rows=[2, 3]))
    assert_equal(share, [Episode(*(part[2:] for part in batch)) for batch in expected[3:]])


def test_a_process_makes_no_episode_of_another(monkeypatch):
    asked = []
    make = EpisodeSource.__getitem__
    monkeypatch.setattr(
        EpisodeSource, "__getitem__", lambda self, i: asked.append(i) or make(self, i)
    )
    list(batches(EPISODES, rows=[1, 2]))
    assert {index % 4 for index in asked} == {1, 2}


def test_context_sets_are_filled_to_a_multiple_by_images_that_count_nothing(expected):
    for shown, whole in zip(batches(EPISODES, context_multiple=2), expected, strict=True):
        count = whole.context_weights.shape[1]
        assert shown.context_weights.shape[1] == count + count % 2
        assert not shown.context_weights[:, count:].any()
        assert not shown.context_images[:, count:].any()
        for part, expected_part in zip(shown, whole, strict=True):
            same = part if part.shape == expected_part.shape else part[:, :count]
            np.testing.assert_array_equal(same, expected_part)


def test_a_missing_store_is_refused_before_the_first_batch(tmp_path):
    config = replace(CONFIG, data=(replace(CONFIG.data[0], store=str(tmp_path / "none")),))
    with pytest.raises(DataError, match="no store"):
        batches(EpisodeSource(config))


def test_an_error_while_episodes_are_made_reaches_the_training_loop(monkeypatch):
    def refuse(self, index):
        raise DataError("this case is damaged")

    monkeypatch.setattr(EpisodeSource, "__getitem__", refuse)
    with pytest.raises(DataError, match="damaged"):
        next(batches(EPISODES))


def test_batches_end_with_the_run(expected):
    stream = batches(EPISODES, first_step=6)
    assert_equal(list(itertools.islice(stream, 5)), expected[6:])


@pytest.mark.parametrize("place", [0, 1])
def test_a_killed_worker_is_named_with_its_signal_and_the_others_end(expected, place):
    before = set(multiprocessing.active_children())
    config = replace(CONFIG, train=replace(CONFIG.train, workers=2, steps=1000))
    stream = batches(EpisodeSource(config))
    assert_equal([next(stream)], expected[:1])
    workers = [w for w in multiprocessing.active_children() if w not in before]
    killed = workers[place]
    os.kill(killed.pid, signal.SIGKILL)
    message = f"process {killed.pid}, one of the 2 .* killed by SIGKILL, .* lack of memory"
    for _ in range(2):  # every call raises
        with pytest.raises(LoaderError, match=message):
            list(stream)
    assert all(worker.exitcode is not None or worker.join(10) is None for worker in workers)


_WITH_WORKERS = """
import multiprocessing, sys, time
from wsicl_jax.config import load_config
from wsicl_jax.data.episodes.sampling import EpisodeSource
from wsicl_jax.data.episodes.loader import batches

if __name__ == "__main__":
    stream = batches(EpisodeSource(load_config(sys.argv[1])))
    next(stream)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds child processes in /proc")
def test_worker_processes_end_with_a_training_process_that_is_killed(tmp_path):
    script, config = tmp_path / "with_workers.py", tmp_path / "config.yaml"
    script.write_text(_WITH_WORKERS)
    config.write_text(yaml.safe_dump(config_to_dict(with_workers(2).config)))
    training = subprocess.Popen(
        [sys.executable, str(script), str(config)], stdout=subprocess.PIPE, text=True
    )
    children = [int(pid) for pid in training.stdout.readline().split()]
    assert len(children) >= 2
    training.kill()
    training.wait()
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()
