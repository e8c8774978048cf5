"""A run in an object store: it goes on after any interruption, and is read as one on a disk."""

import os
import signal
import socket
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from s3_server import new_bucket
from test_interruptions import wait_for
from tiny_runs import (
    STEPS,
    TRAIN_SLOWLY,
    assert_equal_networks,
    learning,
    saved_steps,
    start,
    tiny,
)

from wsicl_jax.errors import CheckpointError, ConfigError, LockedError
from wsicl_jax.storage.checkpoints import (
    damage,
    find_checkpoint,
    read_metadata,
    step_directories,
)
from wsicl_jax.storage.lock import locked
from wsicl_jax.storage.object_path import names_below, place_of
from wsicl_jax.storage.transfer import download
from wsicl_jax.train import loop
from wsicl_jax.train.evaluation import Evaluation
from wsicl_jax.train.loop import train
from wsicl_jax.train.run_checkpoints import newest_valid_step, read_quality
from wsicl_jax.weights.network_checkpoint import load_checkpoint
from wsicl_jax.weights.networks import find_network


class CutOffError(Exception):
    """In place of a sudden end."""


@pytest.fixture(scope="module")
def whole(s3_server, tmp_path_factory):
    """A run in a bucket that was cut off at step 5 and resumed; to be left as it is."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        bucket = new_bucket(s3_server, monkeypatch, tmp_path_factory.mktemp("bucket").name)
        run = place_of(bucket) / "runs" / "x"
        with monkeypatch.context() as cutting:
            make_step = loop.make_step

            def make(*arguments):
                step, made = make_step(*arguments), iter(range(1, 10**6))

                def one(*inputs):
                    if next(made) == 5:
                        raise CutOffError
                    return step(*inputs)

                return one

            cutting.setattr(loop, "make_step", make)
            with pytest.raises(CutOffError):
                train(tiny(run))
        assert saved_steps(run) == [3]
        network = train(tiny(run), resume=True, evaluate=lambda _: Evaluation({"dice": 0.5}))
        yield run, network


@pytest.fixture
def run(whole, s3):
    """A copy of the whole run, to be damaged."""
    copy = place_of(s3) / "x"
    copy.write_many(whole[0].read_many(names_below(whole[0])))
    return copy


def test_a_run_in_a_bucket_goes_on_to_the_same_network_and_log_as_on_a_disk(whole, whole_run):
    run, network = whole
    assert_equal_networks(network, whole_run[1])
    assert_equal_networks(load_checkpoint(run), whole_run[1])
    assert [line for line in learning(run) if "loss" in line] == learning(whole_run[0])


def test_the_files_in_a_bucket_are_those_on_a_disk(whole, whole_run):
    run, _ = whole
    kinds = [{name.split("/")[0] for name in names_below(place)} for place in (run, whole_run[0])]
    assert kinds[0] == kinds[1]
    assert saved_steps(run) == saved_steps(whole_run[0])


@pytest.mark.slow
def test_a_run_in_a_bucket_that_was_copied_to_a_disk_goes_on_there(whole, whole_run, tmp_path):
    run, copy = whole[0], tmp_path / "copy"
    download(run, [name for name in names_below(run) if "checkpoints/8/" not in name], copy)
    assert newest_valid_step(copy) == 6
    assert_equal_networks(train(tiny(copy), resume=True), whole_run[1])


def test_a_checkpoint_in_a_bucket_is_found_with_its_score_and_loaded(whole):
    run, network = whole
    newest = find_checkpoint(str(run))
    assert newest == run / "checkpoints" / str(STEPS)
    assert read_quality(newest).dice == 0.5
    stored = find_network(str(newest))
    assert stored.path == newest
    assert_equal_networks(stored.load(), network)


def test_a_checkpoint_whose_metadata_were_not_written_counts_as_unfinished(run):
    (run / "checkpoints" / "8" / "metadata" / "metadata").unlink()
    with warnings.catch_warnings(action="error"):
        assert newest_valid_step(run) == 6


@pytest.mark.slow
def test_a_resumed_run_removes_what_a_killed_one_left_unfinished(run):
    (run / "checkpoints" / "8" / "metadata" / "metadata").unlink()
    (run / "checkpoints" / "9" / "parameters" / "x").write_bytes(b"")
    train(tiny(run, checkpoint_every=7), resume=True)
    assert saved_steps(run) == [7, 8]


def test_a_damaged_checkpoint_in_a_bucket_gives_way_to_the_one_before(run):
    names = [n for n in names_below(run) if n.startswith("checkpoints/8/parameters/d/")]
    content = bytearray((run / names[0]).read_bytes())
    content[600] ^= 16
    (run / names[0]).write_bytes(bytes(content))
    assert damage(run / "checkpoints" / "6") is None
    with pytest.warns(UserWarning, match="checkpoints/8 is skipped"):
        assert newest_valid_step(run) == 6


def test_a_run_in_a_bucket_is_started_by_one_process_alone(run):
    with (
        locked(run / ".lock", "the run"),
        pytest.raises(LockedError, match="in use by another process"),
    ):
        train(tiny(run), resume=True)
    with pytest.raises(ConfigError, match="holds a run already"):
        train(tiny(run))


@pytest.mark.slow
def test_what_cannot_be_saved_in_a_bucket_is_told_and_earlier_checkpoints_stay(run, monkeypatch):
    from wsicl_jax.storage.location import Location
    from wsicl_jax.train import uploaded_checkpoints

    def refuse(folder, files, place):
        Location("s3://no-such-bucket-here").write("x", b"")

    (run / "checkpoints" / "8" / "metadata" / "metadata").unlink()
    monkeypatch.setattr(uploaded_checkpoints, "upload", refuse)
    with pytest.raises(CheckpointError, match=r"step 8 could not be written.*NoSuchBucket"):
        train(tiny(run), resume=True)
    assert saved_steps(run) == [6]


@pytest.mark.slow
def test_a_run_in_a_bucket_killed_ten_times_ends_in_the_same_network(s3, tmp_path):
    settings = {"steps": 60, "log_every": 1, "checkpoint_every": 2, "workers": 0}
    unbroken, killed = tmp_path / "unbroken", place_of(s3) / "killed"
    expected = train(tiny(unbroken, **settings))
    config, file = tiny(killed, **settings), tmp_path / "killed.yaml"
    rng = np.random.default_rng(0)

    def newest() -> int:
        return max((int(d.name) for d in step_directories(killed / "checkpoints")), default=0)

    for number in range(10):
        before = newest()
        process = start(config, TRAIN_SLOWLY, "0.1", file=file, stderr=subprocess.DEVNULL)
        try:
            if number % 3 == 2:
                time.sleep(rng.uniform(0, 8))  # while it starts, reads and verifies
            else:
                wait_for(lambda before=before: newest() != before, process, 900)
                time.sleep(rng.uniform(0, 1))  # while it trains and saves
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
    assert newest() < 60
    assert start(config, TRAIN_SLOWLY, "0", file=file).wait() == 0
    assert_equal_networks(load_checkpoint(killed), expected)
    # The command evaluates at the end; the function did not.
    assert [line for line in learning(killed) if "loss" in line] == learning(unbroken)


# What a run writes, without a network: processes that start at once, by fork, and save often.
_COUNT = """
import os, sys, time
import jax, numpy as np
import tensorboardX.event_file_writer
from wsicl_jax.storage.lock import locked
from wsicl_jax.storage.object_path import place_of
from wsicl_jax.storage.working_folder import WorkingFolder
from wsicl_jax.train.log import RunLog
from wsicl_jax.train.evaluation import Evaluation
from wsicl_jax.train.run_checkpoints import RunCheckpoints, newest_valid_step

def count(run, pause):
    with locked(run / ".lock", "it") as lock:
        done = newest_valid_step(run)
        with (
            WorkingFolder(run, lock) as files,
            RunCheckpoints(run, done=done, keep=2, keep_best=0) as checkpoints,
        ):
            items = {"parameters": {"x": jax.device_put(np.ones(6, np.float32))}}
            if done:
                items, _ = checkpoints.restore(done, items)
            with RunLog(files.path, done, leader=True) as log:
                for step in range(done + 1, 61):
                    x = np.asarray(items["parameters"]["x"]) * np.float32(1.01) + step
                    items = {"parameters": {"x": jax.device_put(x)}}
                    log.write(step, {"loss": float(x.sum())})
                    if step % 2 == 0:
                        files.copy()
                        checkpoints.save(step, items, {"step": step, "config": {}})
                    time.sleep(pause)

for line in sys.stdin:
    run, pause = line.split()
    if pid := os.fork():
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(status, flush=True)
        continue
    count(place_of(run), float(pause))
    os._exit(0)
"""


@pytest.mark.slow
def test_what_a_run_writes_to_a_bucket_survives_ten_kills_at_any_moment(s3, tmp_path):
    unbroken, killed = tmp_path / "unbroken", place_of(s3) / "killed"
    unbroken.mkdir()
    rng = np.random.default_rng(0)

    def newest() -> int:
        return max((int(d.name) for d in step_directories(killed / "checkpoints")), default=0)

    with subprocess.Popen(
        [sys.executable, "-c", _COUNT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    ) as forking:

        def begin(run, pause: float) -> int:
            print(run, pause, file=forking.stdin, flush=True)
            return int(forking.stdout.readline())

        for number in range(10):
            before, process = newest(), begin(killed, 0.05)
            if number % 3 == 2:
                time.sleep(rng.uniform(0, 2))  # while it starts, reads and verifies
            else:
                while newest() == before:
                    time.sleep(0.02)
                time.sleep(rng.uniform(0, 0.3))  # while it counts and saves
            os.kill(process, signal.SIGKILL)
            assert int(forking.stdout.readline()) == signal.SIGKILL
        assert newest() < 60
        for run in (killed, unbroken):
            begin(run, 0.0)
            assert int(forking.stdout.readline()) == 0
        forking.stdin.close()
    assert learning(killed) == learning(unbroken)
    items = [
        read_metadata(run / "checkpoints" / "60")["fingerprints"] for run in (killed, unbroken)
    ]
    assert items[0] == items[1]
    assert damage(killed / "checkpoints" / "60") is None


_SAVE_AND_RESTORE = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from wsicl_jax.distributed.processes import join_processes
join_processes(sys.argv[1], 2, int(sys.argv[2]))
from wsicl_jax.storage.object_path import place_of
from wsicl_jax.train.evaluation import Evaluation
from wsicl_jax.train.run_checkpoints import RunCheckpoints
mesh = jax.make_mesh((2,), ("data",))
def placed(values, *axes):
    placement = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.make_array_from_callback(values.shape, placement, lambda index: values[index])
def items(step):
    values = np.arange(8, dtype=np.float32).reshape(4, 2) * step
    sharded = {"sharded": placed(values, "data"), "whole": placed(values + 1)}
    return {"parameters": sharded, "optimizer": {"moment": placed(values + 2, None, "data")}}
run = place_of(sys.argv[3])
for done in (0, 2):
    with RunCheckpoints(run, done=done, keep=2, keep_best=0) as checkpoints:
        if done:
            restored, metadata = checkpoints.restore(done, items(0))
            assert metadata["step"] == done
            for given, expected in zip(*map(jax.tree.leaves, (restored, items(done)))):
                assert given.sharding == expected.sharding
                for one, other in zip(given.addressable_shards, expected.addressable_shards):
                    np.testing.assert_array_equal(one.data, other.data)
        for step in (done + 1, done + 2):
            checkpoints.save(step, items(step), {"step": step})
"""


@pytest.mark.slow
def test_processes_without_a_common_disk_save_their_shards_and_restore_all(s3, tmp_path):
    run = place_of(s3) / "pair"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = []
    for number in range(2):
        own = tmp_path / f"host{number}"
        own.mkdir()
        command = [sys.executable, "-c", _SAVE_AND_RESTORE, address, str(number), str(run)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TMPDIR": str(own)}
        processes.append(subprocess.Popen(command, env=environment))
    assert [process.wait() for process in processes] == [0, 0]
    assert saved_steps(run) == [3, 4]
    newest = run / "checkpoints" / "4"
    assert damage(newest) is None
    shards = [name for name in names_below(newest / "optimizer") if name.startswith("moment/")]
    assert shards == ["moment/.zarray", "moment/0.0", "moment/0.1"]
