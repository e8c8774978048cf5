"""Mean scores: tables for the terminal, and values for logs and JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table

from wsicl_jax.evaluate.protocols.restoration import BEFORE
from wsicl_jax.evaluate.records import Protocol, Score

_REMOVED = 0.5
"""Share of a false positive without which it counts as removed."""


def mean_dice(scores: Sequence[Score]) -> dict[str, float]:
    """Mean Dice by `data set/structure/kind`, in the order of the scores.

    Where a kind has several settings, they follow: `.../box/prompts=3,contexts=4`.
    """
    scores = [s for s in scores if s.dice is not None and s.protocol != "target_dependence"]
    settings: dict[str, dict[str, None]] = {}
    for score in scores:
        settings.setdefault(_kind(score), {})[_setting(score)] = None
    groups: dict[str, list[float]] = {}
    for score in scores:
        key = f"{score.data_set}/{score.structure}/{_kind(score)}"
        if len(settings[_kind(score)]) > 1:
            key += f"/{_setting(score)}"
        groups.setdefault(key, []).append(score.dice)
    return {key: float(np.mean(values)) for key, values in groups.items()}


def mean_ssim(scores: Sequence[Score]) -> dict[str, float]:
    """Mean SSIM of networks in restoration, by `data set/task/contexts`."""
    groups: dict[str, list[float]] = {}
    for score in scores:
        if score.ssim is not None and score.model != BEFORE:
            key = f"{score.data_set}/{score.kind}/contexts={score.contexts}"
            groups.setdefault(key, []).append(score.ssim)
    return {key: float(np.mean(values)) for key, values in groups.items()}


def mean_loss(scores: Sequence[Score]) -> float | None:
    """The validation loss: the mean over all scores in context; without any, over restoration.

    None if they have none.
    """
    for protocol in ("in_context", "restoration"):
        losses = [
            score.loss
            for score in scores
            if score.loss is not None and score.protocol == protocol and score.model != BEFORE
        ]
        if losses:
            return float(np.mean(losses))
    return None


def score_tables(scores: Sequence[Score]) -> list[Table]:
    """Mean scores, a table for each protocol in the scores.

    In context: a row for each structure, a column for each kind if there is one context size, else
    a row for each kind as well and a column for each size. Interactive: a column for each round.
    """
    tables = []
    for protocol, table_of in _TABLES.items():
        if of_protocol := [score for score in scores if score.protocol == protocol]:
            tables.append(table_of(of_protocol))
    return tables


def sweep_table(scores: Sequence[Score]) -> Table:
    """Mean Dice of each cell over structures and targets, a column for each context size."""
    scores = [s for s in scores if s.dice is not None and s.protocol == "in_context"]
    sizes = sorted({score.contexts for score in scores})
    table = Table(title="Mean Dice against context images")
    for name in ("model", "data set", "kind"):
        table.add_column(name)
    table.add_column("prompts", justify="right")
    for size in sizes:
        table.add_column(str(size), justify="right")
    rows = dict.fromkeys((s.model, s.data_set, s.kind, s.prompts) for s in scores)
    for row in rows:
        cell = [s for s in scores if (s.model, s.data_set, s.kind, s.prompts) == row]
        means = (_mean([s.dice for s in cell if s.contexts == size]) for size in sizes)
        table.add_row(*row[:3], str(row[3]), *means)
    return table


def negative_prompts(scores: Sequence[Score]) -> str:
    """How often a negative prompt removes the false positive that it marks; "" without any."""
    removed = np.array([score.removed for score in scores if score.removed is not None])
    if not removed.size:
        return ""
    return (
        f"{np.mean(removed >= _REMOVED):.0%} of {removed.size} negative prompts removed at least "
        f"{_REMOVED:.0%} of the false positive that they mark"
    )


def skipped_table(skipped: Mapping[str, str]) -> Table:
    """Structures that were skipped, each with the reason."""
    table = Table("not evaluated", "reason")
    for structure, reason in skipped.items():
        table.add_row(structure, reason)
    return table


def report(scores: Sequence[Score], **about: Any) -> dict[str, Any]:
    """All scores for a JSON file: `about`, means, and every trial."""
    means = {"mean_dice": mean_dice(scores), "mean_ssim": mean_ssim(scores)}
    return {**about, **means, "trials": [asdict(score) for score in scores]}


def _kind(score: Score) -> str:
    return score.kind if score.protocol == "in_context" else f"interactive {score.kind}"


def _setting(score: Score) -> str:
    # The prompts of an interactive round differ between targets.
    if score.protocol == "interactive":
        return f"round={score.round}"
    return f"prompts={score.prompts},contexts={score.contexts}"


def _in_context_table(scores: Sequence[Score]) -> Table:
    sizes = sorted({score.contexts for score in scores})
    if len(sizes) > 1:
        return _pivot(
            scores,
            "Dice against context images",
            {"kind": lambda s: s.kind, "prompts": lambda s: str(s.prompts)},
            {str(size): lambda s, size=size: s.contexts == size for size in sizes},
        )
    images = "1 context image" if sizes == [1] else f"{sizes[0]} context images"
    settings = dict.fromkeys((score.kind, score.prompts) for score in scores)
    headings = {setting: _heading(*setting) for setting in settings}
    return _pivot(
        scores,
        f"Dice, {images}",
        {},
        {
            heading: lambda s, setting=setting: (s.kind, s.prompts) == setting
            for setting, heading in headings.items()
        },
        seconds=True,
    )


def _interactive_table(scores: Sequence[Score]) -> Table:
    rounds = sorted({score.round for score in scores})
    table = _pivot(
        scores,
        "Dice after each prompt on the target",
        {"kind": lambda s: s.kind},
        {str(number): lambda s, number=number: s.round == number for number in rounds},
    )
    table.caption = negative_prompts(scores) or None
    return table


def _pivot(
    scores: Sequence[Score],
    title: str,
    names: Mapping[str, Callable[[Score], str]],
    columns: Mapping[str, Callable[[Score], bool]],
    *,
    seconds: bool = False,
) -> Table:
    """Mean Dice: rows by data set, structure and `names`, columns by predicates of scores."""
    table = Table(title=title)
    rows: dict[str, Callable[[Score], str]] = {
        "data set": lambda s: s.data_set,
        "structure": lambda s: s.structure,
        **names,
    }
    for name in rows:
        table.add_column(name)
    table.add_column("targets", justify="right")
    for heading in columns:
        table.add_column(heading, justify="right")

    def means(row: Sequence[Score]) -> list[str]:
        return [_mean([s.dice for s in row if belongs(s)]) for belongs in columns.values()]

    groups: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        groups.setdefault(tuple(of(score) for of in rows.values()), []).append(score)
    for key, row in groups.items():
        table.add_row(*key, str(len({s.target for s in row})), *means(row))
    if not names:
        table.add_section()
        if len(groups) > 1:
            table.add_row("all", "", "", *means(scores))
    if seconds:
        cost = (_seconds([s.seconds for s in scores if of(s)]) for of in columns.values())
        table.add_row("annotating the contexts", "", "", *cost)
    return table


def _restoration_table(scores: Sequence[Score]) -> Table:
    table = Table(title="Restoration")
    for name in ("data set", "task", "model"):
        table.add_column(name)
    for name in ("contexts", "PSNR, dB", "SSIM"):
        table.add_column(name, justify="right")
    rows = dict.fromkeys((s.data_set, s.kind, s.model, s.contexts) for s in scores)
    for row in rows:
        targets = [s for s in scores if (s.data_set, s.kind, s.model, s.contexts) == row]
        psnr = np.mean([s.psnr for s in targets])
        ssim = np.mean([s.ssim for s in targets])
        table.add_row(*row[:3], str(row[3]), f"{psnr:.1f}", f"{ssim:.3f}")
    return table


def _heading(kind: str, prompts: int) -> str:
    return f"{kind} x {prompts}" if prompts > 1 else kind


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if values else "-"


def _seconds(values: Sequence[float]) -> str:
    return f"{np.mean(values):.0f} s" if values else "-"


_TABLES: dict[Protocol, Callable[[Sequence[Score]], Table]] = {
    "in_context": _in_context_table,
    "interactive": _interactive_table,
    "restoration": _restoration_table,
}
