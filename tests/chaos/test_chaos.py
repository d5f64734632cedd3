"""The short form of the chaos run; `make chaos` is the long one."""

import os
import random

import pytest

from tests.chaos.campaign import run
from tests.chaos.load import KINDS

# Each kind of fault once takes about this long.
SECONDS = 20


@pytest.mark.timeout(180)
def test_no_call_is_lost_or_run_twice_and_nothing_is_left_while_every_process_is_killed(probe):
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 32))
    print(f"CHAOS_SEED={seed}")
    result = run(SECONDS, seed, probe, print)
    assert result.violations == []
    assert {outcome.kind for outcome in result.outcomes if outcome.code == "OK"} == set(KINDS)
