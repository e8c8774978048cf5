"""The main job in five minutes on two cores: train on synthetic cohorts, show what was learnt.

The network is scored on structures of cohorts that it has never seen. It is also given
prompts of a different structure, and none at all: a network that uses its context must
then fail.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from wsicl_jax.config import ExperimentConfig, config_from_dict, config_to_dict
from wsicl_jax.errors import ConfigError
from wsicl_jax.evaluate.figures import context_size_figure, trial_figure
from wsicl_jax.evaluate.protocol import Hint, Trial, dice_of, predict, trials
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.parallel import is_leader, keep_compiled_programs
from wsicl_jax.progress import console
from wsicl_jax.train.loop import train

CONTEXTS = 4
BOXES = 3
CONTEXT_SIZES = (1, 2, 4, 8)
SMALLEST_DROP = 0.25
"""Dice that wrong prompts must cost, or the network does not use its context."""

_HINTS: dict[Hint, str] = {
    "own": "boxes of the structure",
    "other": "boxes of another structure",
    "none": "no boxes",
}
_SHOWN_STRUCTURES = 3


def demo_config(output: Path, seed: int) -> ExperimentConfig:
    """The demo's experiment: small enough for two cores, box prompts only."""
    return config_from_dict(
        {
            "run": str(output / "run"),
            "seed": seed,
            "data": "synthetic",
            "volume": {"grid": [24, 24, 24]},
            "episode": {"contexts": [2, 2]},
            "prompts": {"kinds": {"box": 1.0}, "count": [BOXES, BOXES]},
            "model": {"channels": [8, 16, 32, 64]},
            "train": {
                "steps": 2000,
                "batch": 1,
                "learning_rate": 3e-3,
                "clip_norm": 1.0,
                "loss": "dice_ce",
                "loss_weight": 1.0,
            },
            "evaluation": {"contexts": max(CONTEXT_SIZES), "prompts": BOXES},
        }
    )


def run_demo(output: Path, *, seed: int) -> dict[str, float]:
    """Train, score, print the tables and write figures to `output`; returns the mean Dice.

    Raises:
        ConfigError: `output` holds a demo already.
    """
    if (output / "run").exists():
        raise ConfigError(f"{output} holds a demo already; remove it or give another --output")
    keep_compiled_programs()
    config = demo_config(output, seed)
    model = train(config)
    found = list(trials(config))

    by_hint: dict[Hint, list[float]] = {
        hint: dice_of(
            model, found, kind="box", count=BOXES, contexts=CONTEXTS, hint=hint, label=label
        )
        for hint, label in _HINTS.items()
    }
    by_size = {
        size: by_hint["own"]
        if size == CONTEXTS
        else dice_of(
            model, found, kind="box", count=BOXES, contexts=size, label=f"{size} context images"
        )
        for size in CONTEXT_SIZES
    }
    means = {hint: float(np.mean(values)) for hint, values in by_hint.items()}
    if is_leader():
        _print_tables(found, by_hint, by_size)
        _write_figures(output, model, found, by_size, means["other"])
        (output / "demo.json").write_text(
            json.dumps(
                {
                    "mean_dice": means,
                    "mean_dice_by_contexts": {n: float(np.mean(v)) for n, v in by_size.items()},
                    "config": config_to_dict(config),
                },
                indent=1,
            )
        )
        _print_verdict(output, means)
    return means


def _print_tables(
    found: Sequence[Trial],
    by_hint: dict[Hint, list[float]],
    by_size: dict[int, list[float]],
) -> None:
    table = Table(title=f"Dice on unseen structures, {CONTEXTS} contexts, {BOXES} boxes on each")
    table.add_column("structure")
    for label in _HINTS.values():
        table.add_column(label, justify="right")
    structures = list(dict.fromkeys(trial.structure for trial in found))
    for structure in structures:
        here = [i for i, trial in enumerate(found) if trial.structure == structure]
        table.add_row(structure, *(f"{np.mean([by_hint[h][i] for i in here]):.3f}" for h in _HINTS))
    table.add_section()
    table.add_row("mean", *(f"{np.mean(by_hint[hint]):.3f}" for hint in _HINTS))
    console().print(table)

    sizes = Table(title=f"Dice against context size, {BOXES} boxes on each")
    sizes.add_column("context images", justify="right")
    sizes.add_column("Dice", justify="right")
    for size, values in by_size.items():
        sizes.add_row(str(size), f"{np.mean(values):.3f}")
    console().print(sizes)


def _write_figures(
    output: Path,
    model: DualBranch,
    found: Sequence[Trial],
    by_size: dict[int, list[float]],
    wrong: float,
) -> None:
    first_of = {trial.structure: trial for trial in reversed(found)}
    shown = [first_of[name] for name in sorted(first_of, key=_number)[:_SHOWN_STRUCTURES]]
    episodes = [trial.episode("box", BOXES) for trial in shown]
    masks = [values > 0.5 for values in predict(model, episodes, contexts=CONTEXTS)]
    trial_figure(
        output / "segmentations.png",
        shown,
        [trial.prompts("box", BOXES)[:CONTEXTS] for trial in shown],
        masks,
    )
    context_size_figure(
        output / "context_size.png",
        {size: float(np.mean(values)) for size, values in by_size.items()},
        wrong_prompts=wrong,
    )


def _number(structure: str) -> int:
    return int(structure.split()[-1])


def _print_verdict(output: Path, means: dict[Hint, float]) -> None:
    drop = means["own"] - max(means["other"], means["none"])
    if drop >= SMALLEST_DROP:
        verdict = f"The network uses its context: without the right boxes Dice falls by {drop:.2f}."
    else:
        verdict = (
            f"The network does NOT use its context: without the right boxes Dice falls by only "
            f"{drop:.2f}, less than {SMALLEST_DROP}."
        )
    console().print(f"{verdict}\nFigures, numbers and the trained run are in {output}/.")
