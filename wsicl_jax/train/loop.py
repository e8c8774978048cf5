"""The training loop: from a configuration to a trained network."""

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext

import jax
import numpy as np
from flax import nnx

import wsicl_jax
from wsicl_jax.config import ExperimentConfig, config_to_dict
from wsicl_jax.data.episodes.loader import batches, empty_batch
from wsicl_jax.data.episodes.sampling import Episode, EpisodeSource
from wsicl_jax.data.manifest import Changes
from wsicl_jax.distributed.broadcast import broadcast_from_leader
from wsicl_jax.distributed.hardware import peak_flops
from wsicl_jax.distributed.mesh import CONTEXT
from wsicl_jax.distributed.placement import (
    gathered,
    local_rows,
    make_mesh,
    replicated,
    runs_one_program_at_a_time,
    state_placement,
    to_devices,
)
from wsicl_jax.distributed.processes import PeerLostError, is_leader
from wsicl_jax.errors import ConfigError, DataError, LoaderError, PreemptedError
from wsicl_jax.model.cost import training_flops
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.model.initialization import initialize_prompt_mean
from wsicl_jax.storage.working_folder import WorkingFolder
from wsicl_jax.terminal.progress import track
from wsicl_jax.train.binding import DATA, RunStart, open_run, write_start
from wsicl_jax.train.evaluation import Evaluator
from wsicl_jax.train.initial_weights import initial_parameters
from wsicl_jax.train.log import RunLog
from wsicl_jax.train.meter import Meter
from wsicl_jax.train.plateau import Plateau
from wsicl_jax.train.profiling import Profiler
from wsicl_jax.train.run_checkpoints import Quality, RunCheckpoints
from wsicl_jax.train.run_directory import run_directory
from wsicl_jax.train.state import COUNTERS, init_state, make_optimizer
from wsicl_jax.train.step import make_step
from wsicl_jax.train.steps import Steps, is_due
from wsicl_jax.train.stop import Stop, StopFlags, StopRequest, stop_request
from wsicl_jax.train.trackers import Trackers, check_trackers

VALIDATION_LOSS = "validation_loss"
"""Its name in the log."""

PLATEAU = "plateau"
"""Key of the schedule's record in the metadata of a checkpoint."""


def train(
    config: ExperimentConfig,
    start: RunStart | None = None,
    *,
    resume: bool = False,
    accept_data_changes: bool = False,
    evaluate: Evaluator | None = None,
) -> DualBranch:
    """Train as configured, writing to `config.run`, and return the trained network.

    With `resume`, the run continues from its newest valid checkpoint at the exact next episode, or
    starts if it has none. If the data changed in between, it is refused unless
    `accept_data_changes` is set. Callers that opened the run themselves (`binding.open_run`) pass
    its `start` instead of these two. The network is evaluated every `train.evaluate_every` steps
    and at the end. Collective: all processes of a run call it; process 0 writes the configuration
    and the log. If the data fail, the steps made so far are saved before the error is raised.

    Raises:
        ConfigError: the run exists and `resume` is not set; or settings differ, from those of the
            run or between processes.
        LockedError: another process trains in `config.run`.
        CheckpointError: a checkpoint cannot be written, or none is valid to resume from.
        DataError: a store is missing, has too few cases, or has changed since the run started; or
            an episode could not be made.
        LoaderError: a process that makes episodes was killed.
        PeerLostError: another process could not continue.
        TrainingError: too many updates in a row were skipped; the last good checkpoint is kept.
        PreemptedError: a process received SIGTERM; all stopped after the same step and saved it.
    """
    with stop_request() as stop, ExitStack() as opened:
        run, settings = run_directory(config), config.train
        leader = is_leader()
        if settings.schedule == "plateau" and evaluate is None:
            raise ConfigError(
                "train.schedule = plateau needs validation cases, but nothing can be evaluated; "
                "set another schedule, or episode.validation_share above 0"
            )
        mesh = make_mesh(config)
        stop_flags = StopFlags(mesh)
        if start is None:
            start = opened.enter_context(
                open_run(config, resume=resume, accept_data_changes=accept_data_changes)
            )
        done, episodes = start.done, EpisodeSource(config, start.datasets)
        initial = None if done else initial_parameters(config)
        broadcast_from_leader(lambda: check_trackers(settings.trackers))
        broadcast_from_leader(lambda: write_start(config, start))
        files = opened.enter_context(WorkingFolder(run, start.lock, leader=leader))

        model = DualBranch(config.model, rngs=nnx.Rngs(config.seed))
        if settings.initialization == "prompt_mean":
            initialize_prompt_mean(model)
        graph, parameters = nnx.split(model, nnx.Param)
        parameters = initial or parameters
        optimizer = make_optimizer(settings)
        state = init_state(parameters, optimizer, settings)
        placement = state_placement(state, mesh, config.parallel)
        state = jax.device_put(state, placement)
        del model, parameters, initial  # otherwise the first device holds them twice
        step_once = make_step(graph, optimizer, config, mesh, placement)
        unlogged: Mapping[str, float] = {}
        plateau = Plateau(settings)
        digest = start.manifest.digest

        with RunCheckpoints(
            run,
            done=done,
            keep=settings.keep_checkpoints,
            keep_best=settings.keep_best,
            keep_step=settings.stable_until,
        ) as checkpoints:
            if done:
                arrays, metadata = checkpoints.restore(done, state.items)
                counters = {name: np.int32(metadata[name]) for name in COUNTERS}
                counters = jax.device_put(counters, replicated(mesh))
                state = state._replace(**arrays, **counters)
                unlogged = metadata["unlogged"]
                plateau = Plateau(settings, metadata.get(PLATEAU))
                if checkpoints.is_scored(done) and is_due(done, settings.evaluate_every):
                    plateau.add(checkpoints.quality_of(done).loss)
                state = plateau.applied(state, mesh)
            data = _Data(
                episodes,
                done,
                stop,
                rows=local_rows(settings.batch, mesh),
                context_multiple=math.lcm(config.episode.context_multiple, mesh.shape[CONTEXT]),
            )
            opened.callback(data.close)
            with (
                Trackers(
                    files.path,
                    settings.trackers if leader else (),
                    config_to_dict(config),
                    {"version": wsicl_jax.__version__, DATA: digest},
                ) as trackers,
                RunLog(files.path, done, leader=leader, trackers=trackers) as log,
                track(settings.steps, "training", done=done, show=leader) as bar,
                Profiler(files.path, settings.profile, leader=leader) as profiler,
            ):
                if start.changes.texts:
                    log.write(done, _counts(start.changes))
                steps = Steps(episodes, _meter(config, unlogged), log, bar, done)
                compiled: set[int] = set()

                def save(step: int) -> None:
                    if start.lock:
                        start.lock.check()
                    files.copy()
                    counters = {name: int(getattr(state, name)) for name in COUNTERS}
                    checkpoints.save(
                        step,
                        state.items,
                        {
                            **counters,
                            "config": config_to_dict(config),
                            DATA: digest,
                            "unlogged": steps.meter.unlogged,
                            PLATEAU: plateau.record,
                        },
                    )

                def score(step: int) -> DualBranch:
                    nonlocal state
                    network = nnx.merge(graph, gathered(state.weights, mesh))
                    if evaluate:
                        with steps.meter.paused(), bar.paused():
                            scores, loss, pictures = evaluate(network)
                        values = scores if loss is None else {VALIDATION_LOSS: loss, **scores}
                        log.write(step, values, pictures)
                        files.copy()
                        dice = float(np.mean(list(scores.values())))
                        checkpoints.score(step, Quality(dice, loss))
                        plateau.add(checkpoints.quality_of(step).loss)
                        state = plateau.applied(state, mesh)
                    return network

                def evaluation_due(step: int) -> bool:
                    if evaluate is None or step == settings.steps:
                        return False  # the last evaluation comes after the loop
                    return is_due(step, settings.evaluate_every)

                if done and evaluation_due(done) and not checkpoints.is_scored(done):
                    score(done)  # the run was stopped during this evaluation
                for step in range(done + 1, settings.steps + 1):
                    waited_from = time.monotonic()
                    # The first batch waits for the loader to start.
                    with bar.paused() if step == done + 1 else nullcontext():
                        batch = data.next()
                    waiting = time.monotonic() - waited_from
                    contexts = batch.context_weights.shape[1]
                    batch = to_devices(batch, mesh, settings.batch)
                    # The first call with a number of context images compiles the step.
                    pause = nullcontext() if contexts in compiled else bar.paused()
                    with pause, profiler.step(step):
                        state, metrics = step_once(state, batch, stop_flags(stop))
                    compiled.add(contexts)
                    profiler.after(step, state)
                    if runs_one_program_at_a_time():
                        jax.block_until_ready(state)
                    stopping = steps.add(step, metrics, episodes.contexts(step - 1), waiting)
                    due = step in (settings.stable_until, settings.steps)
                    due = due or is_due(step, settings.checkpoint_every)
                    if due or evaluation_due(step) or stopping:
                        # The log is never behind the checkpoint.
                        stopping = max(steps.settle(), stopping)
                        if steps.completed > checkpoints.newest:
                            save(steps.completed)
                    if stopping:
                        checkpoints.wait()
                        saved = steps.completed if steps.completed > done else 0
                        raise _stop_error(stopping, data.failure, saved, settings.steps)
                    if evaluation_due(step):
                        score(step)
                    bar.advance()
                # Also if a resumed run was stopped during its last evaluation.
                return score(settings.steps)


class _Data:
    """The batches of this process's rows.

    After a failure it yields batches of zeros, for steps that change nothing, so that all
    processes learn of the failure and can save together.
    """

    def __init__(
        self,
        episodes: EpisodeSource,
        done: int,
        stop: StopRequest,
        *,
        rows: list[int],
        context_multiple: int,
    ):
        self.failure: Exception | None = None
        self._stream = batches(
            episodes, first_step=done, rows=rows, context_multiple=context_multiple
        )
        self._episodes, self._step, self._stop = episodes, done, stop
        self._shape = {"rows": len(rows), "context_multiple": context_multiple}

    def close(self) -> None:
        """End the processes that make episodes."""
        if self._episodes.config.train.workers:
            self._stream.close()

    def next(self) -> Episode:
        """The batch of the next step; requests a stop if it cannot be made for any reason."""
        step, self._step = self._step, self._step + 1
        if self.failure is None:
            try:
                return next(self._stream)
            except Exception as error:  # raised again after saving
                self.failure = error
                killed = isinstance(error, LoaderError)
                self._stop.reason = Stop.WORKER_KILLED if killed else Stop.NO_DATA
        return empty_batch(self._episodes, step, **self._shape)


def _stop_error(stopping: Stop, failure: Exception | None, saved: int, steps: int) -> Exception:
    """The error that all processes raise after they stopped at the same step and saved it."""
    where = f"step {saved} of {steps} is saved" if saved else ""
    again = "continue with the same command and --resume"
    if stopping == Stop.REQUESTED:
        return PreemptedError(f"stopped by SIGTERM at step {saved} of {steps} and saved; {again}")
    if isinstance(failure, LoaderError) and not saved:
        # Another class, so that no scheduler restarts it in vain.
        return DataError(f"{failure}; no step was made yet: lower train.workers")
    if isinstance(failure, LoaderError):
        return LoaderError(f"{failure}; {where}: {again}, or with fewer train.workers")
    if isinstance(failure, DataError):
        return DataError(f"{failure}; {where}: repair the data, then {again}" if saved else failure)
    if failure is not None:
        failure.add_note(where or "no step was made yet")
        return failure
    what = f"another process has no data, see its message; {where}: {again}"
    if stopping == Stop.WORKER_KILLED and saved:
        return LoaderError(what)
    return PeerLostError(what if saved else what.replace(f"; {where}", ""))


def _counts(changes: Changes) -> dict[str, int]:
    counts = {"changed": changes.changed, "new": changes.new, "missing": changes.missing}
    return {f"cases_{what}": count for what, count in counts.items()}


def _meter(config: ExperimentConfig, unlogged: Mapping[str, float]) -> Meter:
    batch, devices = config.train.batch, jax.devices()
    of_one = peak_flops(devices[0].device_kind)
    return Meter(
        lambda contexts: batch * training_flops(config.model, config.volume.grid, contexts),
        batch=batch,
        peak=of_one and of_one * len(devices),
        unlogged=unlogged,
    )
