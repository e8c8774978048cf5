"""Style of the report's figures: colours, fonts, axes, and their bytes as PNG and SVG."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

WIDTH = 10.6
"""Width of figures in inches, that of the page's column."""

INK, QUIET, LINE = "#1c2430", "#66717f", "#e3e7ec"

# The palette of Okabe and Ito, for colour-blind readers; dense ICL is dark grey.
_COLOURS = {
    "box": "#0072b2",
    "point": "#d55e00",
    "scribble": "#009e73",
    "mixed": "#cc79a7",
    "box3d": "#56b4e9",
    "mask2d": "#e69f00",
    "mask": "#2b2f36",
}
_MARKERS = {
    "box": "s", "point": "o", "scribble": "^", "mixed": "P", "box3d": "D", "mask2d": "v",
    "mask": "X",
}  # fmt: skip

_PNG_DPI = 160

_MOST_TICKS = 6
"""Labels that fit below a narrow panel."""

_TICKS: tuple[tuple[float, str], ...] = (
    (1, "1 s"), (2, "2 s"), (5, "5 s"), (10, "10 s"), (30, "30 s"), (60, "1 min"),
    (120, "2 min"), (300, "5 min"), (600, "10 min"), (1800, "30 min"), (3600, "1 h"),
    (7200, "2 h"), (18000, "5 h"), (36000, "10 h"), (86400, "1 d"), (259200, "3 d"),
    (864000, "10 d"),
)  # fmt: skip


class Drawing(NamedTuple):
    """A finished figure."""

    name: str
    """Name of its file, without the suffix."""
    png: bytes
    svg: str
    """For the page; empty for pictures, which the page has as PNG."""


def colour(kind: str) -> str:
    """The colour of a kind of prompt, the same in all figures."""
    return _COLOURS.get(kind, QUIET)


def marker(kind: str) -> str:
    """The marker of a kind of prompt, the same in all figures."""
    return _MARKERS.get(kind, "h")


def tint(colour: str, strength: float) -> str:
    """A colour mixed with white: 1 is the colour itself, 0 is white."""
    return to_hex([1 - strength * (1 - part) for part in to_rgb(colour)])


@contextmanager
def styled(name: str) -> Iterator[None]:
    """Matplotlib with the report's style; `name` keeps the figure's identifiers its own."""
    style = {
        "font.size": 8.5,
        "text.color": INK,
        "axes.edgecolor": "#aab3be",
        "axes.labelcolor": INK,
        "axes.labelsize": 8.5,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.titlesize": 9.5,
        "grid.color": LINE,
        "grid.linewidth": 0.7,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.6,
        "lines.markersize": 4,
        "text.parse_math": False,  # names are text
        "svg.fonttype": "none",
        "svg.hashsalt": name,
    }
    # Start from the defaults, so that a user's matplotlibrc changes nothing.
    defaults = {k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith("backend")}
    with mpl.rc_context({**defaults, **style}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def drawn(
    name: str, draw: Callable[[], Figure], *, picture: bool = False, dpi: int = _PNG_DPI
) -> Drawing:
    """Draw in the report's style, and encode as PNG and, unless it is a picture, as SVG.

    The same figure gives the same bytes.
    """
    with styled(name):
        figure = draw()
        png = io.BytesIO()
        figure.savefig(png, dpi=dpi, format="png", metadata={"Software": None})
        svg = ""
        if not picture:
            written = io.StringIO()
            empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(written, format="svg", metadata=empty)
            svg = _inline(written.getvalue(), name)
    return Drawing(name, png.getvalue(), svg)


def _inline(svg: str, name: str) -> str:
    """An SVG file as part of a page: unique identifiers, the fonts and the width of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\1{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    # Matplotlib before 3.9 or so writes size and family as one.
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 sans-serif", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.strip()


def duration_axis(axis: Axes, low: float, high: float) -> None:
    """A logarithmic x axis of seconds with ticks in seconds, minutes, hours and days."""
    axis.set_xscale("log")
    axis.set_xlim(low / 1.35, high * 1.35)
    ticks = [(x, text) for x, text in _TICKS if low / 1.35 <= x <= high * 1.35]
    ticks = ticks[:: -(-len(ticks) // _MOST_TICKS) or 1]
    axis.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
    axis.minorticks_off()


def heat(value: float, low: float, high: float) -> tuple[str, str]:
    """Background and ink of a table's cell, white at `low` and deep blue at `high`."""
    strength = 0.04 + 0.86 * ((value - low) / (high - low) if high > low else 0.5)
    return tint(colour("box"), strength), "#ffffff" if strength > 0.78 else INK
