"""Bytes that a compiled program reads and writes, counted in HLO text."""

import jax
import pytest
from jax import lax
from jax import numpy as jnp

from wsicl_jax.tools.check.memory_access import accessed_bytes

PROGRAM = """
%fused (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %twice = f32[4]{0} add(%a, %a)
  ROOT %squared = f32[4]{0} multiply(%twice, %twice)
}

%cheap (p: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}

%dear (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  ROOT %copied = f32[4]{0} copy(%q)
}

%body (t: (f32[4])) -> (f32[4]) {
  %t = (f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%t), index=0
  %y = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %out = (f32[4]{0}) tuple(%y)
}

%condition (c: (f32[4])) -> pred[] {
  %c = (f32[4]{0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (input: f32[4], choice: s32[]) -> f32[4] {
  %input = f32[4]{0} parameter(0)
  %choice = s32[] parameter(1)
  %start = (f32[4]{0}) tuple(%input)
  LOOP
  %z = f32[4]{0} get-tuple-element(%loop), index=0
  ROOT %end = f32[4]{0} conditional(%choice, %z, %z), branch_computations={%cheap, %dear}
}
"""
LOOP = "%loop = (f32[4]{0}) while(%start), condition=%condition, body=%body, backend_config="


@pytest.mark.parametrize(("config", "times"), [('{"known_trip_count":{"n":"3"}}', 3), ("{}", 1)])
def test_a_fused_operation_counts_once_in_each_iteration_and_the_dearer_branch(config, times):
    fused, copied = 2 * 16, 2 * 16
    assert accessed_bytes(PROGRAM.replace("LOOP", LOOP + config)) == times * fused + copied


def test_a_compiled_program_accesses_its_inputs_and_results():
    def step(a):
        return lax.scan(lambda x, _: (jnp.sin(x @ a), None), a, None, length=5)[0]

    text = jax.jit(step).lower(jax.ShapeDtypeStruct((64, 64), "float32")).compile().as_text()
    array = 64 * 64 * 4
    # Each product reads two arrays and writes one; the sine may be fused or not.
    assert 5 * 3 * array <= accessed_bytes(text) <= 5 * 8 * array
