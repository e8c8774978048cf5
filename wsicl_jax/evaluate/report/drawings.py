"""Which figures and pictures a report has, and what stands below them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from wsicl_jax.evaluate.gallery import ShownCase
from wsicl_jax.evaluate.report.cases import case_figure
from wsicl_jax.evaluate.report.figures import (
    context_figure,
    pages_of,
    rounds_figure,
    time_figure,
)
from wsicl_jax.evaluate.report.lineups import DENSE, Lineup, in_full
from wsicl_jax.evaluate.report.results import Results
from wsicl_jax.evaluate.report.style import Drawing, drawn
from wsicl_jax.names import cut
from wsicl_jax.progress import track


class Shown(NamedTuple):
    """A figure of the page."""

    drawing: Drawing
    caption: str


def drawings_of(
    results: Results, found: Sequence[Lineup], cases: Sequence[ShownCase]
) -> tuple[dict[str, list[Shown]], list[tuple[Drawing, ShownCase]]]:
    """The figures by section, and the pictures with their cases."""
    full = in_full(found)
    others = [
        s for one in found if one not in full for s in one.settings if s.protocol == "in_context"
    ]
    figures: dict[str, list[Shown]] = {"contexts": [], "time": [], "rounds": []}
    names = _Names()
    with track(3 * len(full) + len(cases), "figures") as bar:
        for lineup in full:
            of = f"{lineup.name}: " if len(full) > 1 else ""
            end = f"-{lineup.name}" if len(full) > 1 else ""
            shown = [name for name in lineup.data_sets if lineup.kinds(name)]
            sizes = {s.contexts for s in lineup.settings if s.protocol == "in_context"}
            for page in pages_of(shown) if len(sizes) > 1 else ():
                name = names.of(f"contexts{end}")
                drawing = drawn(name, lambda p=page, m=lineup: context_figure(results, m, p))
                figures["contexts"].append(Shown(drawing, _context_caption(lineup, of)))
            bar.advance()
            if shown:
                name = names.of(f"time{end}")
                drawing = drawn(name, lambda m=lineup: time_figure(results, m, others))
                figures["time"].append(Shown(drawing, _time_caption(lineup, of)))
            bar.advance()
            if any(s.protocol == "interactive" for s in lineup.settings):
                name = names.of(f"rounds{end}")
                drawing = drawn(name, lambda m=lineup: rounds_figure(results, m))
                figures["rounds"].append(Shown(drawing, _rounds_caption(of)))
            bar.advance()
        gallery = []
        for case in cases:
            name = names.of(f"case-{case.score.data_set}-{case.rank}")
            gallery.append((drawn(name, lambda c=case: case_figure(c), picture=True), case))
            bar.advance()
    return figures, gallery


class _Names:
    """Names of files, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, text: str) -> str:
        plain = cut(re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-"))
        name, number = plain, 1
        while name in self._given:
            number += 1
            name = f"{plain}-{number}"
        self._given.add(name)
        return name


def _context_caption(lineup: Lineup, of: str) -> str:
    dense = DENSE in lineup.kinds() and len(lineup.kinds()) > 1
    return (
        f"{of}Dice against the size of the context set: a column for each kind of prompt, a row "
        "for each data set, darker lines for more prompts on each context image."
        + (" The dashed line is dense ICL, with a full mask on each." if dense else "")
        + " Bands are 95 % intervals. (As figure 4 of the WS-ICL paper.)"
    )


def _time_caption(lineup: Lineup, of: str) -> str:
    several, kinds = len(lineup.data_sets) > 1, set(lineup.kinds())
    return (
        f"{of}Dice against what the prompts of the whole context set cost a person, on a "
        "logarithmic scale. Each marker is a setting: a number of context images and of prompts. "
        "A line joins those that no quicker setting of the same kind equals; the others are pale."
        + (" Dotted: how near boxes come to dense ICL." if {DENSE, "box"} <= kinds else "")
        + (" The mean is over the settings that all data sets have." if several else "")
        + " (As figure 5 of the paper.)"
    )


def _rounds_caption(of: str) -> str:
    return (
        f"{of}Dice after each interactive round. The target is its own context image; each round "
        "adds a prompt where the last mask was most wrong. Bands are 95 % intervals."
    )
