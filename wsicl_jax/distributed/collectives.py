"""Bytes that devices exchange in a compiled program, read from its HLO text."""

import re
from collections import Counter

from wsicl_jax.distributed.program_text import arrays, computations

_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_ALONE = re.compile(r"replica_groups=(?:\{\{\d+\}[,}]|\[\d+,1\]<=)")


def collective_bytes(hlo: str) -> dict[str, int]:
    """Bytes that each device receives in one run, by kind of collective operation.

    `hlo` is the text of a compiled program, `jax.jit(f).lower(...).compile().as_text()`.
    Operations in a loop count once per iteration; a device alone in its group receives nothing.
    The size of an operation is that of its result, which does not depend on the backend.

    Raises:
        ValueError: a loop with a collective has no known number of iterations.
    """
    program, entry = computations(hlo)

    def total(computation: str) -> Counter[str]:
        counted: Counter[str] = Counter()
        for instruction in program.get(computation, ()):
            kind = instruction.operation.removesuffix("-start")
            if kind in _KINDS and not _ALONE.search(instruction.rest):
                sizes = list(arrays(instruction.shape))
                # A started operation's shape holds its operand beside its result.
                started = instruction.operation.endswith("-start")
                counted[kind] += sum(sizes[len(sizes) // 2 :] if started else sizes)
            for other in instruction.called:
                inside = total(other)
                if inside and instruction.times is None:
                    raise ValueError(
                        f"a loop with collectives in {computation} has no known number of "
                        "iterations"
                    )
                counted.update({kind: size * instruction.times for kind, size in inside.items()})
        return counted

    return dict(total(entry))
