"""The comparison's own arithmetic: a wrong figure there would speak for or against the product."""

import subprocess
import sys

import pytest

from benchmarks import h2load, proc, report, rows
from benchmarks.h2load import Load
from benchmarks.result import Figures, Goal, Result
from benchmarks.servers import Contender, Server

OUTPUT = """
finished in 2.01s, 4975.12 req/s, 1.20MB/s
requests: 10000 total, 10000 started, 10000 done, {succeeded} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 10000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 2.42MB (2540000) total, 1.0MB (1060000) headers (space savings 80.00%), 210.00KB ({data}) data
"""
LOAD = Load("/p.S/M", b"", reply_bytes=21, connections=1, streams=1)
TURNS = {
    "swerve": [{"rate": 50.0}, {"rate": 90.0}, {"rate": 80.0}],
    "peer": [{"rate": 10.0}, {"rate": 10.0}, {"rate": 20.0}],
}


def test_rate_is_read_when_every_answer_is_complete() -> None:
    assert h2load.rate(OUTPUT.format(succeeded=10000, failed=0, data=210000), LOAD, 10000) == 4975.12


@pytest.mark.parametrize(
    "counts",
    [
        {"succeeded": 9999, "failed": 1, "data": 210000},
        # An error status has no message: its bytes are missing.
        {"succeeded": 10000, "failed": 0, "data": 209979},
    ],
)
def test_a_run_with_an_answer_missing_is_an_error(counts: dict[str, int]) -> None:
    with pytest.raises(RuntimeError, match="not all of 10000 calls"):
        h2load.rate(OUTPUT.format(**counts), LOAD, 10000)


def test_output_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="not understood"):
        h2load.rate("h2load: option unknown", LOAD, 1)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.051), (0.99, 0.1), (0.0, 0.001)])
def test_percentile_is_the_value_with_that_share_below_it(share: float, expected: float) -> None:
    assert h2load.percentile_ms(list(range(1, 101)), share) == expected


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    goal = Goal("rate", at_least=5, over="peer")
    result = Result("row", "a row", [goal], TURNS)
    assert result.compared(goal) == [5.0, 9.0, 4.0]
    assert result.met(goal)
    assert not result.met(Goal("rate", at_least=5.1, over="peer"))
    assert not result.met(Goal("rate", at_most=4.9, over="peer"))


def test_a_bound_over_nobody_is_on_swerves_own_median() -> None:
    goal = Goal("rate", at_most=80)
    assert Result("row", "a row", [goal], TURNS).met(goal)


def no_figures(server: Server, seconds: float) -> Figures:
    return {}


def test_a_row_that_needs_h2load_is_skipped_without_it_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    peer = rows.Side(Contender("peer", lambda: pytest.fail("a contender was started")), measure=no_figures)
    row = rows.Row("row", "a row", [peer], [Goal("rate", at_least=1)], check=None)
    result = rows.in_turns(row, rounds=1, seconds=1)
    assert "nghttp2-client" in result.skipped
    assert "nghttp2-client" in report.text(result)
    assert report.as_json([result])["rows"][0]["goals"] == []


def test_a_server_that_does_not_rest_is_stopped_while_another_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CATCH_UP_S", 0.0)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with rows.stopped([Server("", lambda: {"server": [process.pid]}, rests=False)]):
            # A process is told at once and stops when it is next to run.
            while (state := proc.stat(process.pid)[0]) != "T":
                assert state in "RSD"
        assert proc.stat(process.pid)[0] != "T"
    finally:
        process.kill()
        process.communicate()
