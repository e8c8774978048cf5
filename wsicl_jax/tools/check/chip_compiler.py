"""Compiles the training step with the compiler of a chip that is not here, and reads its plan.

XLA's compilers for GPUs and TPUs are libraries of their own, the extras `cuda` and `tpu`. They
compile for a description of devices.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass

import jax
from jax.experimental import topologies
from jax.stages import Traced

from wsicl_jax.distributed.hardware import Chip, GpuTarget
from wsicl_jax.errors import ConfigError, MissingExtraError, reason
from wsicl_jax.tools.check.memory_access import accessed_bytes

_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
"""Without these, libtpu asks a server and prints errors. The type has no influence here."""


@dataclass(frozen=True)
class Compiled:
    """A compiled step on one device: its memory in bytes, as XLA plans it, and its compilation."""

    contexts: int
    """Number of context images."""
    arguments: int
    """State and batch, as the compiler lays them out."""
    results: int
    reused: int
    """Of the results, those in the memory of arguments."""
    temporary: int
    code: int
    accessed: int
    """Read from and written to memory in a step."""
    seconds: float

    @property
    def total(self) -> int:
        """Bytes that the program needs while it runs."""
        return self.arguments + self.results - self.reused + self.temporary + self.code


def chip_devices(chip: Chip, count: int, hosts: int = 1) -> list[jax.Device]:
    """Descriptions of devices for which programs can be compiled, but not run.

    Call it before JAX starts: JAX then uses the CPU alone, and asks for no driver.

    Raises:
        MissingExtraError: the chip's compiler is not installed.
    """
    target = chip.target
    extra = target.platform
    with suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_platforms", "cpu")
    try:
        if isinstance(target, GpuTarget):
            hosts = max(hosts, -(-count // chip.neighbours))
            hosts = hosts if count % hosts == 0 else 1
            return topologies.get_topology_desc(
                "described",
                extra,
                target_config=target.description(chip),
                topology=f"1x{hosts}x{count // hosts}",
            ).devices
        for name, value in _NO_TPU_HERE.items():
            os.environ.setdefault(name, value)
        cores = {"chip_config_name": target.cores} if target.cores else {}
        # A slice may have more devices than are asked for: there is none of a single chip.
        return topologies.get_topology_desc(target.slice(count), extra, **cores).devices[:count]
    except (NotImplementedError, RuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise
        raise MissingExtraError(
            f"the compiler for {chip.kind} is not installed; pip install 'wsicl_jax[{extra}]'"
        ) from error


def compile_step(traced: Traced, contexts: int, advice: str) -> Compiled:
    """Compile a training step that was traced for a mesh of `chip_devices`.

    `advice` is what to try if it needs too much memory.

    Raises:
        ConfigError: the compiler found that the step does not fit the chip's memory.
    """
    lowered = traced.lower()
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(
            f"the step does not fit the chip ({reason(error)}); try {advice}"
        ) from error
    seconds = time.perf_counter() - start
    plan = compiled.memory_analysis()
    return Compiled(
        contexts=contexts,
        arguments=plan.argument_size_in_bytes,
        results=plan.output_size_in_bytes,
        reused=plan.alias_size_in_bytes,
        temporary=plan.temp_size_in_bytes,
        code=plan.generated_code_size_in_bytes,
        accessed=accessed_bytes(compiled.as_text()),
        seconds=seconds,
    )
