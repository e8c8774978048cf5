"""How the report writes numbers, times and lists of names."""

from collections.abc import Sequence

MINUS, DASH, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a fixed number of digits, or a dash."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """A difference, with its sign."""
    return DASH if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def duration(seconds: float) -> str:
    """Seconds as people say them: 50 s, 13 min, 7.1 h."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size or seconds == size:
            value = seconds / size
            return (
                f"{value:.0f} {unit}"
                if value >= 9.95 or value % 1 < 0.05
                else (f"{value:.1f} {unit}")
            )
    return f"{seconds:.0f} s"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
