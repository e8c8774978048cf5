"""How the report writes numbers, times and lists of names."""

from collections.abc import Sequence

MINUS, DASH, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a fixed number of digits, or a dash for None."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """A difference, with its sign."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def p_words(p_value: float) -> str:
    """A p-value: `p = 0.031`, or `p < 0.001`."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def counted(count: int, noun: str) -> str:
    """A count with its noun: `1 subject`, `4 subjects`, `10 240 scores`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}".replace(",", " ")


def duration(seconds: float) -> str:
    """Seconds in the unit that a reader expects: 50 s, 13 min, 7.1 h."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size or seconds == size:
            value = seconds / size
            digits = 0 if value >= 9.95 or value % 1 < 0.05 else 1
            return f"{value:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def listed(names: Sequence[str], conjunction: str = "and") -> str:
    """Names as a sentence lists them: `a, b and c`."""
    return f" {conjunction} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
