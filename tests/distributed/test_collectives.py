"""Bytes that devices exchange, counted in HLO text."""

import pytest

from wsicl_jax.distributed.collectives import collective_bytes

ONE_SUM = """
HloModule jit_f

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: f32[2,3]) -> f32[2,3] {
  %x = f32[2,3]{1,0} parameter(0)
  ROOT %all-reduce = f32[2,3]{1,0} all-reduce(%x), replica_groups=GROUPS, to_apply=%add
}
"""

IN_A_LOOP = """
HloModule jit_f

%body (p: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %p = (s32[], bf16[8]{0}) parameter(0)
  %x = bf16[8]{0} get-tuple-element(%p), index=1
  %sent = bf16[8]{0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1},{1,0}}
  ROOT %t = (s32[], bf16[8]{0}) tuple(%i, %sent)
}

%condition (p: (s32[], bf16[8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: bf16[8]) -> bf16[8] {
  %loop = (s32[], bf16[8]{0}) while(%t), condition=%condition, body=%bodyTRIPS
  ROOT %y = bf16[8]{0} get-tuple-element(%loop), index=1
}
"""

STARTED = """
ENTRY %main (x: f32[4]) -> f32[8] {
  %start = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[1,2]<=[2]
  ROOT %done = f32[8]{0} all-gather-done(%start)
}
"""


@pytest.mark.parametrize("groups", ["{{0,1},{2,3}}", "[2,2]<=[4]", "{}"])
def test_a_sum_over_devices_counts_the_array_it_gives(groups):
    assert collective_bytes(ONE_SUM.replace("GROUPS", groups)) == {"all-reduce": 24}


@pytest.mark.parametrize("groups", ["{{0},{1}}", "[2,1]<=[2]"])
def test_devices_that_are_alone_in_their_group_exchange_nothing(groups):
    assert collective_bytes(ONE_SUM.replace("GROUPS", groups)) == {}


def test_what_is_sent_in_a_loop_counts_in_every_turn():
    trips = ', backend_config={"known_trip_count":{"n":"5"}}'
    assert collective_bytes(IN_A_LOOP.replace("TRIPS", trips)) == {"collective-permute": 80}


def test_a_loop_that_sends_for_an_unknown_time_is_refused():
    with pytest.raises(ValueError, match="no known number of iterations"):
        collective_bytes(IN_A_LOOP.replace("TRIPS", ""))


def test_a_started_operation_counts_once_by_its_result():
    assert collective_bytes(STARTED) == {"all-gather": 32}
