"""Bytes that devices exchange in a compiled program, read from its HLO text."""

import math
import re
from collections import Counter, defaultdict

_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls|true_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
_ALONE = re.compile(r"replica_groups=(?:\{\{\d+\}[,}]|\[\d+,1\]<=)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


def collective_bytes(hlo: str) -> dict[str, int]:
    """Bytes that each device receives in one run, by kind of collective operation.

    `hlo` is the text of a compiled program, `jax.jit(f).lower(...).compile().as_text()`.
    Operations in a loop count once per iteration; a device alone in its group receives nothing.
    The size of an operation is that of its result, which does not depend on the backend.

    Raises:
        ValueError: a loop with a collective has no known number of iterations.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    calls: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
    entry = name = ""
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[1]
            entry = name if line.startswith("ENTRY") else entry
            continue
        if not (instruction := _INSTRUCTION.match(line)):
            continue
        shape, operation = instruction.groups()
        kind = operation.removesuffix("-start")
        if kind in _KINDS and not _ALONE.search(line):
            # A started operation's shape holds its operand beside its result.
            arrays = _ARRAY.findall(shape)
            arrays = arrays[len(arrays) // 2 :] if operation.endswith("-start") else arrays
            sizes[name][kind] += sum(_bytes(*array) for array in arrays)
        trips = 1
        if operation == "while":
            known = _TRIPS.search(line)
            trips = int(known[1]) if known else None
        called = _CALLED.findall(line)
        if branches := _BRANCHES.search(line):
            called += [branch.strip().lstrip("%") for branch in branches[1].split(",")]
        calls[name] += [(other, trips) for other in called]

    def total(computation: str) -> Counter[str]:
        counted = Counter(sizes[computation])
        for other, trips in calls[computation]:
            inside = total(other)
            if inside and trips is None:
                raise ValueError(
                    f"a loop with collectives in {computation} has no known number of iterations"
                )
            counted.update({kind: size * (trips or 1) for kind, size in inside.items()})
        return counted

    return dict(total(entry))


def _bytes(dtype: str, dimensions: str) -> int:
    bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
    return math.prod(int(size) for size in dimensions.split(",") if size) * bits // 8
