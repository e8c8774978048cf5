"""The story of a run: from a configuration to a trained network."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import yaml
from flax import nnx
from tensorboardX import SummaryWriter

from wsicl_jax.checkpoint import RunCheckpoints
from wsicl_jax.config import ExperimentConfig, config_to_dict
from wsicl_jax.data.episodes import EpisodeSource
from wsicl_jax.data.loader import batches
from wsicl_jax.errors import ConfigError
from wsicl_jax.losses import make_loss
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.parallel import is_leader, make_mesh, replicated, to_devices, wait_for_all
from wsicl_jax.progress import track
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
    starts if it has none. All processes of a run call this alike; process 0 writes the
    configuration and the log.

    Raises:
        ConfigError: the run exists and `resume` is not set, or its configuration differs.
        CheckpointError: the newest checkpoint does not fit or is damaged.
        DataError: a store is missing or has too few cases.
    """
    run = Path(config.run)
    leader = is_leader()
    mesh = make_mesh(config.train.batch)
    episodes = EpisodeSource(config)
    _open_run(run, config, resume, leader)

    model = DualBranch(config.model, rngs=nnx.Rngs(config.seed))
    graph, parameters = nnx.split(model, nnx.Param)
    optimizer = make_optimizer(config.train)
    parameters = jax.device_put(parameters, replicated(mesh))
    state = jax.device_put(init_state(parameters, optimizer), replicated(mesh))
    step_once = make_step(graph, optimizer, make_loss(config.train))
    schedule = learning_rate(config.train)

    with RunCheckpoints(run, keep=config.train.keep_checkpoints) as checkpoints:
        done = checkpoints.newest or 0
        if done:
            parameters, optimizer_state, _ = checkpoints.restore(
                done, state.parameters, state.optimizer
            )
            step = jax.device_put(state.step + done, replicated(mesh))
            state = TrainState(step, parameters, optimizer_state)
        stream = batches(
            episodes, first_step=done, process=jax.process_index(), processes=jax.process_count()
        )
        with (
            _Log(run, done, leader) as log,
            track(config.train.steps, "training", done=done, show=leader) as bar,
        ):
            for step, batch in zip(range(done + 1, config.train.steps + 1), stream, strict=True):
                state, metrics = step_once(state, to_devices(batch, mesh))
                last = step == config.train.steps
                if step % config.train.log_every == 0 or last:
                    values = {name: float(value) for name, value in metrics.items()}
                    log.write(step, values | {"learning_rate": float(schedule(step - 1))})
                    bar.status(f"loss {values['loss']:.4f}")
                if step % config.train.checkpoint_every == 0 or last:
                    checkpoints.save(
                        step, state.parameters, state.optimizer, _metadata(config, step)
                    )
                due = config.train.evaluate_every and step % config.train.evaluate_every == 0
                if evaluate is not None and (due or last):
                    log.write(step, dict(evaluate(nnx.merge(graph, state.parameters))))
                bar.advance()
    return nnx.merge(graph, state.parameters)


class _Log:
    """Numbers by step: JSON lines and TensorBoard, by process 0; steps to be redone are cut."""

    def __init__(self, run: Path, done: int, leader: bool):
        self._leader = leader
        if not leader:
            return
        path = run / "log.jsonl"
        kept = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in kept if json.loads(line)["step"] <= done]
        path.write_text("".join(line + "\n" for line in kept))
        self._lines = path.open("a")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)
        self._time, self._step = time.monotonic(), done

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self._leader:
            self._lines.close()
            self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step, with the speed since the entry before."""
        if not self._leader:
            return
        values = dict(values)
        now = time.monotonic()
        if step > self._step:
            values["steps_per_second"] = (step - self._step) / (now - self._time)
            self._time, self._step = now, step
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def _open_run(run: Path, config: ExperimentConfig, resume: bool, leader: bool) -> None:
    saved = run / "config.yaml"
    if saved.exists():
        if not resume:
            raise ConfigError(
                f"{run} holds a run already; go on with --resume, or give another run=DIRECTORY"
            )
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
    wait_for_all("run checked")  # before the configuration is there for the others to find
    if leader:
        run.mkdir(parents=True, exist_ok=True)
        saved.write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False))


def _differing(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            found
            for name in before | now
            for found in _differing(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if before == now else [key]


def _metadata(config: ExperimentConfig, step: int) -> dict[str, Any]:
    return {
        "config": config_to_dict(config),
        "step": step,
        "next_episode": step * config.train.batch,
    }
