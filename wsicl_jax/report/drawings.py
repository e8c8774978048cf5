"""The figures and pictures of a report, with their captions."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from wsicl_jax.report.case_pictures import PicturedTarget, case_figure
from wsicl_jax.report.figures import context_figure, pages_of, rounds_figure, time_figure
from wsicl_jax.report.model_groups import DENSE, ModelGroup, with_curves
from wsicl_jax.report.results import Results
from wsicl_jax.report.style import Drawing, drawn
from wsicl_jax.storage.safe_names import cut
from wsicl_jax.terminal.progress import track


class CaptionedDrawing(NamedTuple):
    """A figure of the page."""

    drawing: Drawing
    caption: str


def drawings_of(
    results: Results, groups: Sequence[ModelGroup], targets: Sequence[PicturedTarget]
) -> tuple[dict[str, list[CaptionedDrawing]], list[tuple[Drawing, PicturedTarget]]]:
    """The figures by section, and the pictures with their targets."""
    full = with_curves(groups)
    others = [
        s for one in groups if one not in full for s in one.settings if s.protocol == "in_context"
    ]
    figures: dict[str, list[CaptionedDrawing]] = {"contexts": [], "time": [], "rounds": []}
    names = _Names()
    with track(3 * len(full) + len(targets), "figures") as bar:
        for group in full:
            of = f"{group.name}: " if len(full) > 1 else ""
            end = f"-{group.name}" if len(full) > 1 else ""
            data_sets = [name for name in group.data_sets if group.kinds(name)]
            sizes = {s.contexts for s in group.settings if s.protocol == "in_context"}
            for page in pages_of(data_sets) if len(sizes) > 1 else ():
                name = names.of(f"contexts{end}")
                drawing = drawn(name, lambda p=page, m=group: context_figure(results, m, p))
                figures["contexts"].append(CaptionedDrawing(drawing, _context_caption(group, of)))
            bar.advance()
            if data_sets:
                name = names.of(f"time{end}")
                drawing = drawn(name, lambda m=group: time_figure(results, m, others))
                figures["time"].append(CaptionedDrawing(drawing, _time_caption(group, of)))
            bar.advance()
            if any(s.protocol == "interactive" for s in group.settings):
                name = names.of(f"rounds{end}")
                drawing = drawn(name, lambda m=group: rounds_figure(results, m))
                figures["rounds"].append(CaptionedDrawing(drawing, _rounds_caption(of)))
            bar.advance()
        pictures = []
        for target in targets:
            name = names.of(f"case-{target.score.data_set}-{target.rank}")
            pictures.append((drawn(name, lambda t=target: case_figure(t), picture=True), target))
            bar.advance()
    return figures, pictures


class _Names:
    """Safe and unique names of files."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def of(self, text: str) -> str:
        plain = cut(re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-"))
        name, number = plain, 1
        while name in self._used:
            number += 1
            name = f"{plain}-{number}"
        self._used.add(name)
        return name


def _context_caption(group: ModelGroup, of: str) -> str:
    dense = DENSE in group.kinds() and len(group.kinds()) > 1
    return (
        f"{of}Dice against the size of the context set: a column for each kind of prompt, a row "
        "for each data set, darker lines for more prompts on each context image."
        + (" The dashed line is dense ICL, with a full mask on each." if dense else "")
        + " Bands are 95 % intervals. (As figure 4 of the WS-ICL paper.)"
    )


def _time_caption(group: ModelGroup, of: str) -> str:
    several, kinds = len(group.data_sets) > 1, set(group.kinds())
    return (
        f"{of}Dice against the annotation time of the whole context set, on a logarithmic scale. "
        "Each marker is a setting: a number of context images and of prompts. A line joins the "
        "settings that no quicker setting of the same kind equals; the others are pale."
        + (" Dotted: boxes as a share of dense ICL." if {DENSE, "box"} <= kinds else "")
        + (" The mean is over the settings that all data sets have." if several else "")
        + " (As figure 5 of the paper.)"
    )


def _rounds_caption(of: str) -> str:
    return (
        f"{of}Dice after each interactive round. The target is its own context image; each round "
        "adds a prompt where the last mask was most wrong. Bands are 95 % intervals."
    )
