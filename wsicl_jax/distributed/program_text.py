"""Reads the text of a compiled program (HLO), `jax.jit(f).lower(...).compile().as_text()`."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls|true_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_OPERAND = re.compile(r"%?([\w.\-]+)(?=[,)])")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    operation: str
    rest: str
    """Operands and attributes."""

    @property
    def called(self) -> list[str]:
        """The computations that it runs or contains."""
        return _CALLED.findall(self.rest) + self.branches

    @property
    def branches(self) -> list[str]:
        """The computations of which it runs one."""
        found = _BRANCHES.search(self.rest)
        return [name.strip().lstrip("%") for name in found[1].split(",")] if found else []

    @property
    def operands(self) -> list[str]:
        """The names of its inputs."""
        inputs, _, _ = self.rest.partition(")")
        return _OPERAND.findall(f"{inputs})")

    @property
    def times(self) -> int | None:
        """How often it runs what it calls; None for a loop without a known number."""
        if self.operation != "while":
            return 1
        known = _TRIPS.search(self.rest)
        return int(known[1]) if known else None


def computations(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation, and the name of the one where the program begins."""
    found: dict[str, list[Instruction]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[2]
            found[name] = []
            entry = name if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            found.setdefault(name, []).append(Instruction(*instruction.groups()))
    return found, entry


def arrays(shape: str) -> Iterator[int]:
    """The bytes of each array of a shape, which may be a tuple."""
    for dtype, dimensions in _ARRAY.findall(shape):
        bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
        yield math.prod(int(size) for size in dimensions.split(",") if size) * bits // 8
