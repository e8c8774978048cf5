import re

import pytest

from wsicl_jax.distributed.hardware import CHIPS, GpuTarget, TpuTarget, peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA B200", 2250e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
    ],
)
def test_a_chip_is_known_by_the_name_that_jax_gives_it(kind, peak):
    assert peak_flops(kind) == peak


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L400", "NVIDIA H1000", "TPU v4 lite", ""])
def test_no_peak_is_made_up_for_another_chip(kind):
    assert peak_flops(kind) is None


GPUS = {name: chip for name, chip in CHIPS.items() if isinstance(chip.target, GpuTarget)}
TPUS = {name: chip for name, chip in CHIPS.items() if isinstance(chip.target, TpuTarget)}


def test_the_chips_that_are_planned_for_are_in_the_table():
    assert GPUS.keys() >= {"a100", "a100-40", "h100", "h200", "b200", "l4", "l40s"}
    assert TPUS.keys() == {"v4", "v5e", "v5p", "v6e"}


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_is_described_by_whole_numbers_and_closed_brackets(name):
    text = GPUS[name].target.description(GPUS[name])
    assert text.count("{") == text.count("}")
    figures = dict(re.findall(r"(\w+): ([\d.]+)$", text, re.MULTILINE))
    assert int(figures["memory_bandwidth"]) == GPUS[name].bandwidth
    assert int(figures["device_memory_size"]) == GPUS[name].memory * 10**9
    assert int(figures["core_count"]) == GPUS[name].target.cores


@pytest.mark.parametrize("name", GPUS)
def test_the_figures_of_a_gpu_agree_with_each_other(name):
    """Tensor cores do 256 to 4096 times two operations per clock and multiprocessor."""
    chip = GPUS[name]
    per_clock = chip.flops / (2 * chip.target.cores * chip.target.clock * 1e9)
    nominal = {(8, 0): 1024, (8, 9): 512, (9, 0): 2048, (10, 0): 4096}[chip.target.capability]
    # Data sheets count at a clock that is up to a tenth below the highest.
    assert 0.88 <= per_clock / nominal <= 1.01


@pytest.mark.parametrize(
    ("name", "devices", "slice"),
    [
        ("v5e", 1, "v5e:2x2"),
        ("v5e", 8, "v5e:2x4"),
        ("v5e", 256, "v5e:16x16"),
        ("v4", 4, "v4:2x2x1"),
        ("v4", 8, "v4:2x2x2"),
        ("v5p", 64, "v5p:4x4x4"),
        ("v5p", 256, "v5p:4x8x8"),
    ],
)
def test_the_smallest_slice_of_so_many_chips(name, devices, slice):
    assert TPUS[name].target.slice(devices) == slice
