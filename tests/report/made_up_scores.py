"""Sweeps with made-up scores that look like real ones: more annotation helps, less and less."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsicl_jax.evaluate.protocols.restoration import BEFORE
from wsicl_jax.evaluate.records import ABOUT, Cell, Score, cell_name, write_cell
from wsicl_jax.prompts import ONCE_PER_IMAGE, SECONDS
from wsicl_jax.report.replay import ReplayedCase, ReplayedContext

_LOSS = {
    "point": 0.3,
    "scribble": 0.22,
    "box": 0.2,
    "mixed": 0.22,
    "box3d": 0.18,
    "mask2d": 0.14,
    "mask": 0.02,
}


class _Episode(NamedTuple):
    structure: str
    target: str
    subject: str


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """What a made-up sweep measured."""

    models: Mapping[str, float]
    """Names, with what each adds to Dice."""
    data_sets: Mapping[str, Sequence[str]]
    """Names, with the structures of each."""
    kinds: Sequence[str] = ("box", "point", "mask")
    kinds_of: Mapping[str, Sequence[str]] | None = None
    """Kinds by model, where they differ."""
    contexts: Sequence[int] = (1, 2, 4, 8)
    prompts: Sequence[int] = (1, 3, 5)
    subjects: int = 8
    interactive: Sequence[str] = ()
    rounds: int = 3
    restoration: Sequence[str] = ()
    hd95: bool = True
    noise: float = 0.03


def write_sweep(directory: Path, made_up: MadeUp, **about) -> list[Score]:
    """Write the cells and `sweep.json`, with `about` in place of what it would say; all rows."""
    directory.mkdir(parents=True, exist_ok=True)
    written, cells = [], {}
    for model in made_up.models:
        for data_set in made_up.data_sets:
            for setting, scores in _cells(made_up, model, data_set):
                name = cell_name(model, data_set, setting)
                cells[name] = f"key of {name}"
                found = {"wall_seconds": 12.5, "device": "1 x cpu"}
                write_cell(
                    directory,
                    Cell(name=name, key=cells[name], scores=tuple(scores), about=found),
                )
                written += scores
    content = {
        "command": f"wsicl sweep paper.yaml output={directory.name}",
        "config": {"seed": 0, "evaluation": {"kinds": list(made_up.kinds)}},
        "versions": {"wsicl_jax": "0.1.0", "jax": "0.10.2"},
        "models": {
            name: {"path": f"runs/{name}/9000", "digest": f"hash of {name}", "step": 9000}
            for name in made_up.models
        },
        "data_sets": {
            name: {"episodes": f"episodes/{name}.json", "digest": "c0ffee", "targets": 8}
            for name in made_up.data_sets
        },
        "tolerance_mm": 2.0,
        "cells": cells,
    }
    (directory / ABOUT).write_text(json.dumps({**content, **about}))
    return written


def replay(score: Score, contexts: int = 4) -> ReplayedCase:
    """A noisy head with a bean, predicted a little to the side, in the place of real images."""
    rng = np.random.default_rng(zlib.crc32(score.episode.encode()))
    image, truth = _head(rng)
    mask = np.roll(truth, 1 + int(6 * (1 - score.dice)), 1)
    others = tuple(_context(number, score.kind, rng) for number in range(contexts))
    return ReplayedCase(score, (1.0, 1.2, 2.0), image, truth, mask, others)


def _cells(made_up: MadeUp, model: str, data_set: str) -> Iterator[tuple[str, list[Score]]]:
    episodes = [
        _Episode(structure, f"case {i:02}", f"subject {i:02}")
        for structure in made_up.data_sets[data_set]
        for i in range(made_up.subjects)
    ]
    best = 0.9 - 0.1 * _unit(data_set) + made_up.models[model]
    for kind in (made_up.kinds_of or {}).get(model, made_up.kinds):
        for count in (1,) if kind in ONCE_PER_IMAGE else made_up.prompts:
            yield f"in_context-{kind}-{count}", [
                _score(
                    made_up, model, data_set, episode,
                    best - _LOSS.get(kind, 0.25) / count**0.6 - 0.22 / size**0.8,
                    protocol="in_context", kind=kind, prompts=count, contexts=size,
                    seconds=float(size * count * SECONDS.get(kind, 8)),
                    fewer=int(count > 4 and _unit(repr(episode)) < 0.1),
                )
                for episode in episodes
                for size in made_up.contexts
            ]  # fmt: skip
    for kind in made_up.interactive:
        yield f"interactive-{kind}", [
            _score(
                made_up, model, data_set, episode, best - 1.3 * _LOSS[kind] / number**0.9,
                protocol="interactive", kind=kind, contexts=0, round=number,
                # A session whose mask needs no mending gets no more prompts.
                prompts=min(number, 2 + round(_unit(repr(episode)))),
                seconds=number * SECONDS[kind],
            )
            for episode in episodes
            for number in range(1, made_up.rounds + 1)
        ]  # fmt: skip
    for task in made_up.restoration:
        yield f"restoration-{task}", [
            Score(
                model=model if size else BEFORE, data_set=data_set, structure=task,
                episode=f"{episode.structure}/{episode.target}", target=episode.target,
                subject=episode.subject, protocol="restoration", kind=task, prompts=0,
                contexts=size,
                psnr=22 + 4 * np.log2(1 + size) ** 0.5 + _unit(f"{task}{size}{episode.target}"),
                ssim=0.7 + 0.2 * (1 - 1 / (1 + size)) + 0.02 * _unit(f"{size}{episode.subject}"),
            )
            for episode in episodes[: made_up.subjects]
            for size in (0, *made_up.contexts)
        ]  # fmt: skip


def _score(
    made_up: MadeUp, model: str, data_set: str, episode: _Episode, dice: float, **setting
) -> Score:
    own = 0.1 * (_unit(f"{data_set}{episode}") - 0.5) - 0.08 * _unit(episode.structure)
    seed = zlib.crc32(repr((model, data_set, episode, sorted(setting.items()))).encode())
    dice = float(np.clip(dice + own + np.random.default_rng(seed).normal(0, made_up.noise), 0, 1))
    return Score(
        model=model,
        data_set=data_set,
        structure=episode.structure,
        episode=f"{episode.structure}/{episode.target}",
        target=episode.target,
        subject=episode.subject,
        dice=dice,
        surface_dice=min(dice + 0.05, 1.0),
        hd95_mm=2 + 20 * (1 - dice) if made_up.hd95 and seed % 50 else None,
        **setting,
    )


def _head(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shape = (48, 56, 30)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), -1)
    place -= rng.normal(0, 0.05, 3)
    head = (place**2).sum(-1) < 0.8
    bean = (((place - (0.2, -0.1, 0.1)) / (0.16, 0.34, 0.22)) ** 2).sum(-1) < 1
    waves = 0.1 * np.sin(9 * place[..., 0]) * np.cos(7 * place[..., 1])
    image = 0.1 + head * (0.5 + waves) + 0.2 * bean + rng.normal(0, 0.03, shape)
    return np.clip(image, 0, 1).astype(np.float32), bean


def _context(number: int, kind: str, rng: np.random.Generator) -> ReplayedContext:
    image, bean = _head(rng)
    prompts = np.zeros(bean.shape, np.float32)
    if kind == "box":
        flat = number % 3
        middle = int(np.median(np.nonzero(bean)[flat]))
        box = [slice(i.min(), i.max() + 1) for i in np.nonzero(bean.take(middle, flat))]
        box.insert(flat, slice(middle - 1, middle + 2))
        prompts[tuple(box)] = 1
    else:
        prompts[bean] = 1
    return ReplayedContext(f"case {40 + number}", image, prompts, bean)


def _unit(name: str) -> float:
    return zlib.crc32(name.encode()) % 1000 / 1000
