import pytest

from wsicl_jax.distributed.hardware import peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
    ],
)
def test_a_chip_is_known_by_the_name_that_jax_gives_it(kind, peak):
    assert peak_flops(kind) == peak


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40S", "NVIDIA H1000", "TPU v4 lite", ""])
def test_no_peak_is_made_up_for_another_chip(kind):
    assert peak_flops(kind) is None
