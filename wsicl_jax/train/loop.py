"""The story of a run: from a configuration to a trained network."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import yaml
from flax import nnx

from wsicl_jax.checkpoint import RunCheckpoints, newest_step
from wsicl_jax.cluster import is_leader, wait_for_all
from wsicl_jax.config import ExperimentConfig, config_to_dict
from wsicl_jax.data.episodes import EpisodeSource
from wsicl_jax.data.loader import batches
from wsicl_jax.errors import ConfigError, DataError, TrainingError
from wsicl_jax.files import write_whole
from wsicl_jax.losses import make_loss
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.parallel import make_mesh, replicated, to_devices
from wsicl_jax.progress import track
from wsicl_jax.train.log import RunLog
from wsicl_jax.train.state import TrainState, init_state, learning_rate, make_optimizer
from wsicl_jax.train.step import make_step

Evaluator = Callable[[DualBranch], Mapping[str, float]]
"""Scores the network in its present state, by name."""

_MAY_CHANGE = ("run", "evaluation", "train.log_every", "train.checkpoint_every")
_MAY_CHANGE += ("train.keep_checkpoints", "train.evaluate_every", "train.workers")
"""Settings that a resumed run may change: they do not touch what is learnt."""


def train(
    config: ExperimentConfig, *, resume: bool = False, evaluate: Evaluator | None = None
) -> DualBranch:
    """Train as configured, writing to `config.run`, and return the trained network.

    With `resume` the run goes on from its newest checkpoint at the exact next episode, or
    starts if it has none. The network is evaluated every `train.evaluate_every` steps and,
    in any case, at the end. All processes of a run call this alike; process 0 writes the
    configuration and the log.

    Raises:
        ConfigError: the run exists and `resume` is not set, or its configuration differs.
        CheckpointError: the newest checkpoint does not fit or is damaged.
        DataError: a store is missing, has too few cases, or is not that of the resumed run.
        TrainingError: the loss is not finite; the last good checkpoint stays.
    """
    run, settings = Path(config.run), config.train
    leader = is_leader()
    mesh = make_mesh(settings.batch)
    episodes = EpisodeSource(config)
    done = _open_run(run, config, resume, leader)

    model = DualBranch(config.model, rngs=nnx.Rngs(config.seed))
    graph, parameters = nnx.split(model, nnx.Param)
    optimizer = make_optimizer(settings)
    state = jax.device_put(init_state(parameters, optimizer), replicated(mesh))
    step_once = make_step(graph, optimizer, make_loss(settings))
    schedule = learning_rate(settings)

    with RunCheckpoints(run, keep=settings.keep_checkpoints) as checkpoints:
        if done:
            *restored, metadata = checkpoints.restore(done, state.parameters, state.optimizer)
            state = TrainState(*restored)
            _check_data(run, metadata, episodes)
        stream = batches(
            episodes, first_step=done, process=jax.process_index(), processes=jax.process_count()
        )
        with (
            RunLog(run, done, leader=leader) as log,
            track(settings.steps, "training", done=done, show=leader) as bar,
        ):
            for step, batch in zip(range(done + 1, settings.steps + 1), stream, strict=True):
                state, metrics = step_once(state, to_devices(batch, mesh))
                last = step == settings.steps
                tell = last or _due(step, settings.log_every)
                save = last or _due(step, settings.checkpoint_every)
                if tell or save:
                    values = {name: float(value) for name, value in metrics.items()}
                    _check_finite(step, values)
                if tell:
                    log.write(step, values | {"learning_rate": float(schedule(step - 1))})
                    bar.status(f"loss {values['loss']:.4f}")
                if save:
                    checkpoints.save(step, *state, _metadata(config, step, episodes))
                if evaluate and not last and _due(step, settings.evaluate_every):
                    with log.paused():
                        scores = evaluate(nnx.merge(graph, state.parameters))
                    log.write(step, scores)
                bar.advance()
            trained = nnx.merge(graph, state.parameters)
            if evaluate:
                # Also after resuming a run that was stopped in its last evaluation.
                log.write(settings.steps, evaluate(trained))
    return trained


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _open_run(run: Path, config: ExperimentConfig, resume: bool, leader: bool) -> int:
    """Make the run's directory and say how many steps are done."""
    saved, done = run / "config.yaml", newest_step(run) or 0
    if done and not resume:
        raise ConfigError(
            f"{run} holds a run already; go on with --resume, or give another run=DIRECTORY"
        )
    if done:
        if not saved.is_file():
            raise ConfigError(f"{run} has checkpoints but no config.yaml; it cannot be resumed")
        before, now = yaml.safe_load(saved.read_text()), config_to_dict(config)
        differing = [
            key
            for key in _differing(before, now)
            if not any(key == free or key.startswith(f"{free}.") for free in _MAY_CHANGE)
        ]
        if differing:
            raise ConfigError(
                f"{run} was started with another {', '.join(differing)}; resume it with the same "
                "settings, or give another run=DIRECTORY"
            )
    wait_for_all("run checked")  # before the first process changes what the others look at
    if leader:
        run.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config_to_dict(config), sort_keys=False)
        write_whole(saved, text.encode())
    return done


def _differing(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            found
            for name in before | now
            for found in _differing(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if before == now else [key]


def _check_finite(step: int, values: Mapping[str, float]) -> None:
    if not all(math.isfinite(value) for value in values.values()):
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        raise TrainingError(
            f"step {step} has {shown}; the newest checkpoint is from before: lower "
            "train.learning_rate or train.clip_norm, or look at the data"
        )


def _check_data(run: Path, metadata: Mapping[str, Any], episodes: EpisodeSource) -> None:
    if metadata.get("data") != episodes.fingerprint:
        raise DataError(
            f"the cases of a data set have changed since {run} was saved, so its episodes cannot "
            "go on; bring the store back as it was, or start another run"
        )


def _metadata(config: ExperimentConfig, step: int, episodes: EpisodeSource) -> dict[str, Any]:
    return {"config": config_to_dict(config), "step": step, "data": episodes.fingerprint}
