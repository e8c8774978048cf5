"""Bytes that a compiled program reads from and writes to a device's memory."""

from wsicl_jax.distributed.program_text import Instruction, arrays, computations

_WITHOUT_ACCESS = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("opt-barrier", "partition-id", "replica-id"),
}
_RUN_OTHERS = {"while", "conditional", "call", "async-start"}


def accessed_bytes(hlo: str) -> int:
    """Bytes of the inputs and results of all operations that run, with fused ones as one.

    `hlo` is the text of a compiled program. Loops count once per iteration, or once if their number
    of iterations is unknown; of branches, the most expensive one counts. An operation that reads
    only a part of an input counts all of it.
    """
    program, entry = computations(hlo)

    def total(computation: str) -> int:
        instructions = program.get(computation, [])
        sizes = {one.name: sum(arrays(one.shape)) for one in instructions}
        return sum(accessed(one, sizes) for one in instructions)

    def accessed(one: Instruction, sizes: dict[str, int]) -> int:
        if one.operation in _WITHOUT_ACCESS or one.operation.endswith("-done"):
            return 0
        if one.operation not in _RUN_OTHERS:
            return sizes[one.name] + sum(sizes.get(name, 0) for name in one.operands)
        if one.branches:
            return max(map(total, one.branches))
        return (one.times or 1) * sum(map(total, one.called))

    return total(entry)
