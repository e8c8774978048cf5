"""The demo: trains a small network on synthetic cohorts in minutes on two cores, and scores it.

The scores are of structures of cohorts that the network has never seen. With prompts of another
structure, and without prompts, a network that uses its context must fail.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from wsicl_jax.config import EvaluationConfig, ExperimentConfig, config_from_dict, config_to_dict
from wsicl_jax.data.datasets import open_datasets
from wsicl_jax.errors import ConfigError
from wsicl_jax.evaluate.case_sources import structure_mask
from wsicl_jax.evaluate.planning import Marking, Planned, plan, with_prompts
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.prompted_episodes import prompted
from wsicl_jax.evaluate.protocols.in_context import score_in_context
from wsicl_jax.evaluate.records import Score
from wsicl_jax.model.dual_branch import THRESHOLD
from wsicl_jax.model.ops.compilation import keep_compiled_programs
from wsicl_jax.terminal.progress import console
from wsicl_jax.tools.demo.demo_figures import PicturedEpisode, context_size_figure, episode_figure
from wsicl_jax.train.loop import train

CONTEXTS = 4
BOXES = 3
CONTEXT_SIZES = (1, 2, 4, 8)
MIN_DROP = 0.25
"""A network that uses its context loses at least so much Dice by wrong prompts."""

_PROMPTS_OF = {
    "structure": "boxes of the structure",
    "other structure": "boxes of another structure",
    "nothing": "no boxes",
}
_PICTURED_STRUCTURES = 3


def demo_config(output: Path, seed: int) -> ExperimentConfig:
    """The demo's experiment: small enough for two cores, box prompts only."""
    return config_from_dict(
        {
            "run": str(output / "run"),
            "seed": seed,
            "data": "synthetic",
            "volume": {"grid": [24, 24, 24]},
            # A few large structures and mild effects, which a tiny network learns in minutes.
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
                    "cut_field_of_view": 0,
                    "strength": 0.6,
                },
                "min_structure_share": 0.01,
            },
            "episode": {"contexts": [2, 2]},
            "prompts": {"kinds": {"box": 1.0}, "count": [BOXES, BOXES]},
            "augment": {"rotate90_each": 0, "edge_mask": 0, "gin": 0},
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
            "evaluation": {"contexts": list(CONTEXT_SIZES), "prompts": BOXES},
        }
    )


def run_demo(output: Path, *, seed: int) -> dict[str, float]:
    """Train, score, print the tables and write figures to `output`; returns the mean Dice.

    Raises:
        ConfigError: `output` holds a demo already.
    """
    if (output / "run").exists():
        raise ConfigError(f"{output} already holds a demo; remove it or give another --output")
    keep_compiled_programs()
    config = demo_config(output, seed)
    model = train(config)
    network = Predictor(model, config.volume)
    planned = _planned(config, "structure")
    every_size = _scores(network, planned, CONTEXT_SIZES, "boxes of the structure")
    by_prompts: dict[str, list[Score]] = {
        "structure": [score for score in every_size if score.contexts == CONTEXTS],
        "other structure": _scores(
            network, _planned(config, "other structure"), [CONTEXTS], "boxes of another structure"
        ),
        "nothing": _scores(network, planned, [CONTEXTS], "no boxes", blank=True),
    }
    by_size = {
        size: float(np.mean([s.dice for s in every_size if s.contexts == size]))
        for size in CONTEXT_SIZES
    }
    means = {of: float(np.mean([s.dice for s in scores])) for of, scores in by_prompts.items()}
    _print_tables(by_prompts, by_size)
    episode_figure(output / "segmentations.png", _pictured(network, planned))
    context_size_figure(
        output / "context_size.png", by_size, wrong_prompts=means["other structure"]
    )
    (output / "demo.json").write_text(
        json.dumps(
            {
                "mean_dice": means,
                "mean_dice_by_contexts": by_size,
                "config": config_to_dict(config),
            },
            indent=1,
        )
    )
    _print_verdict(output, means)
    return means


def _planned(config: ExperimentConfig, marking: Marking) -> Planned:
    (draft,) = plan(
        open_datasets(config),
        config.evaluation,
        seed=config.seed,
        synth=config.synth,
        cohort_grid=config.volume.grid,
        min_voxels=config.episode.min_voxels,
        marking=marking,
    ).planned
    return with_prompts(draft)


def _scores(
    network: Predictor, planned: Planned, sizes: Sequence[int], model: str, *, blank: bool = False
) -> list[Score]:
    return score_in_context(
        network,
        *planned,
        model=model,
        kind="box",
        prompts=BOXES,
        sizes=sizes,
        tolerance_mm=EvaluationConfig.tolerance_mm,
        blank=blank,
    )


def _print_tables(by_prompts: dict[str, list[Score]], by_size: dict[int, float]) -> None:
    table = Table(title=f"Dice on unseen structures, {CONTEXTS} contexts, {BOXES} boxes on each")
    table.add_column("structure")
    for of in by_prompts:
        table.add_column(_PROMPTS_OF[of], justify="right")
    structures = dict.fromkeys(score.structure for score in by_prompts["structure"])
    for structure in structures:
        means = (
            np.mean([score.dice for score in scores if score.structure == structure])
            for scores in by_prompts.values()
        )
        table.add_row(structure, *(f"{mean:.3f}" for mean in means))
    table.add_section()
    means = (np.mean([score.dice for score in scores]) for scores in by_prompts.values())
    table.add_row("mean", *(f"{mean:.3f}" for mean in means))
    console().print(table)

    sizes = Table(title=f"Dice against context size, {BOXES} boxes on each")
    sizes.add_column("context images", justify="right")
    sizes.add_column("Dice", justify="right")
    for size, mean in by_size.items():
        sizes.add_row(str(size), f"{mean:.3f}")
    console().print(sizes)


def _pictured(network: Predictor, planned: Planned) -> list[PicturedEpisode]:
    """The first episode of each of the first structures, with the network's masks."""
    listed, cases = planned
    first = {episode.structure: episode for episode in reversed(listed.episodes)}
    chosen = [first[name] for name in list(listed.structures)[:_PICTURED_STRUCTURES]]
    with_boxes = [
        prompted(network.volume, listed, cases, episode, "box", BOXES, CONTEXTS)
        for episode in chosen
    ]
    outputs = network.outputs([one.episode for one in with_boxes], [CONTEXTS])[0]
    return [
        PicturedEpisode(
            episode.structure,
            one.episode,
            [
                structure_mask(cases, name, listed.structures[episode.structure].labels)
                for name in episode.contexts[:CONTEXTS]
            ],
            one.prompts,
            output > THRESHOLD,
        )
        for episode, one, output in zip(chosen, with_boxes, outputs, strict=True)
    ]


def _print_verdict(output: Path, means: dict[str, float]) -> None:
    drop = means["structure"] - max(means["other structure"], means["nothing"])
    if drop >= MIN_DROP:
        verdict = f"The network uses its context: without the right boxes Dice falls by {drop:.2f}."
    else:
        verdict = (
            f"The network does NOT use its context: without the right boxes Dice falls by only "
            f"{drop:.2f}, less than {MIN_DROP}."
        )
    console().print(f"{verdict}\nFigures, numbers and the trained run are in {output}/.")
