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
from wsicl_jax.evaluate.protocol import PromptsOf, Trial, dice_of, outputs, plan_trials
from wsicl_jax.model.dual_branch import CUT, DualBranch
from wsicl_jax.parallel import keep_compiled_programs
from wsicl_jax.progress import console
from wsicl_jax.train.loop import train

CONTEXTS = 4
BOXES = 3
CONTEXT_SIZES = (1, 2, 4, 8)
SMALLEST_DROP = 0.25
"""Dice that wrong prompts must cost, or the network does not use its context."""

_PROMPTS_OF: dict[PromptsOf, str] = {
    "structure": "boxes of the structure",
    "other structure": "boxes of another structure",
    "nothing": "no boxes",
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
            # A few large structures and mild effects: what a tiny network learns in minutes.
            "synth": {
                "structures": [2, 6],
                "kinds": {
                    "organ": 3,
                    "shell": 1,
                    "nested": 0,
                    "lobes": 0,
                    "tube": 0,
                    "lesions": 0,
                    "pair": 0,
                },
                "radius": [0.35, 0.65],
                "distractors": [0, 0],
                "body": 1,
                "deformation": 0.035,
                "scanner": {
                    "invert": 0,
                    "bias": 1,
                    "blur": 1,
                    "thick_slices": 0,
                    "gaussian": 1,
                    "rician": 0,
                    "speckle": 0,
                    "cut": 0,
                    "strength": 0.6,
                },
                "smallest_share": 0.01,
            },
            "episode": {"contexts": [2, 2]},
            "prompts": {"kinds": {"box": 1.0}, "count": [BOXES, BOXES]},
            "augment": {"turn_each": 0, "edge_mask": 0, "gin": 0},
            "model": {"channels": [8, 16, 32, 64]},
            "train": {
                "steps": 2200,
                "batch": 1,
                "learning_rate": 1e-3,
                "warmup_steps": 200,
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
    found = plan_trials(config).trials

    by_prompts: dict[PromptsOf, list[float]] = {
        of: dice_of(
            model,
            found,
            kind="box",
            count=BOXES,
            contexts=CONTEXTS,
            of=of,
            description=description,
        )
        for of, description in _PROMPTS_OF.items()
    }
    by_size = {
        size: by_prompts["structure"]
        if size == CONTEXTS
        else dice_of(
            model,
            found,
            kind="box",
            count=BOXES,
            contexts=size,
            description=f"{size} context images",
        )
        for size in CONTEXT_SIZES
    }
    means = {of: float(np.mean(values)) for of, values in by_prompts.items()}
    _print_tables(found, by_prompts, by_size)
    _write_figures(output, model, found, by_size, means["other structure"])
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
    by_prompts: dict[PromptsOf, list[float]],
    by_size: dict[int, list[float]],
) -> None:
    table = Table(title=f"Dice on unseen structures, {CONTEXTS} contexts, {BOXES} boxes on each")
    table.add_column("structure")
    for label in _PROMPTS_OF.values():
        table.add_column(label, justify="right")
    structures = list(dict.fromkeys(trial.structure for trial in found))
    for structure in structures:
        here = [i for i, trial in enumerate(found) if trial.structure == structure]
        means = (np.mean([by_prompts[of][i] for i in here]) for of in _PROMPTS_OF)
        table.add_row(structure, *(f"{mean:.3f}" for mean in means))
    table.add_section()
    table.add_row("mean", *(f"{np.mean(by_prompts[of]):.3f}" for of in _PROMPTS_OF))
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
    masks = [values > CUT for values in outputs(model, episodes, CONTEXTS)]
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


def _print_verdict(output: Path, means: dict[PromptsOf, float]) -> None:
    drop = means["structure"] - max(means["other structure"], means["nothing"])
    if drop >= SMALLEST_DROP:
        verdict = f"The network uses its context: without the right boxes Dice falls by {drop:.2f}."
    else:
        verdict = (
            f"The network does NOT use its context: without the right boxes Dice falls by only "
            f"{drop:.2f}, less than {SMALLEST_DROP}."
        )
    console().print(f"{verdict}\nFigures, numbers and the trained run are in {output}/.")
