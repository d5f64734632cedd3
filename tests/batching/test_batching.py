"""`@serve.batch`: when batches form, who is in them, where results and errors go."""

from __future__ import annotations

import asyncio
import time

import pytest

from swerve.batching import batch
from swerve.context import RequestContext, _request_context
from swerve.exceptions import RayServeException
from swerve.multiplex import get_multiplexed_model_id

LONG_S = 30


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 40))


async def in_request(function, *args, **fields):
    """Call in a task of its own with a request context, as a replica does."""

    async def call():
        _request_context.set(RequestContext(**{"request_id": "r", **fields}))
        return await function(*args)

    return await asyncio.ensure_future(call())


async def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


class Recorder:
    def __init__(self):
        self.batches = []

    @batch(max_batch_size=3, batch_wait_timeout_s=LONG_S)
    async def double(self, items):
        self.batches.append(items)
        return [item * 2 for item in items]


def test_a_full_batch_starts_at_once_and_each_caller_gets_its_result():
    recorder = Recorder()

    async def main():
        return await asyncio.gather(*(recorder.double(number) for number in range(6)))

    assert run(main()) == [0, 2, 4, 6, 8, 10]
    assert recorder.batches == [[0, 1, 2], [3, 4, 5]]


def test_a_batch_starts_when_its_first_item_has_waited_long_enough():
    @batch(max_batch_size=10, batch_wait_timeout_s=0.05)
    async def double(items):
        return [(item, len(items)) for item in items]

    async def main():
        began = time.monotonic()
        first = asyncio.ensure_future(double(1))
        await asyncio.sleep(0.01)
        assert await asyncio.gather(first, double(2)) == [(1, 2), (2, 2)]
        return time.monotonic() - began

    assert run(main()) >= 0.049


def test_calls_made_in_one_loop_turn_share_a_batch_even_without_a_wait():
    @batch(max_batch_size=10, batch_wait_timeout_s=0)
    async def size(items):
        return [len(items)] * len(items)

    async def main():
        return await asyncio.gather(*(size(number) for number in range(4)))

    assert run(main()) == [4] * 4


def test_bare_decorator_and_functions_work():
    @batch
    async def double(items):
        return [item * 2 for item in items]

    async def main():
        return await double(2)

    assert run(main()) == 4


def test_every_argument_becomes_a_list_by_position_or_by_name():
    @batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def add(ones, twos, *, threes=None):
        return [(one, two, ones, twos, threes) for one, two in zip(ones, twos, strict=True)]

    async def main():
        return await asyncio.gather(add(1, twos=10, threes=5), add(ones=2, twos=20, threes=6))

    assert run(main()) == [(1, 10, [1, 2], [10, 20], [5, 6]), (2, 20, [1, 2], [10, 20], [5, 6])]


def test_calls_with_different_arguments_do_not_share_a_call():
    @batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def add(ones, twos=None):
        return [(ones, twos)] * len(ones)

    async def main():
        return await asyncio.gather(add(1), add(2, 3))

    assert run(main()) == [([1], None), ([2], [3])]


def test_a_call_that_does_not_fit_the_signature_fails_alone():
    async def main():
        with pytest.raises(TypeError, match="too many positional"):
            await Recorder().double(1, 2)

    run(main())


def test_instances_have_queues_of_their_own():
    async def main():
        one, two = Recorder(), Recorder()
        await asyncio.gather(*(recorder.double(number) for number in range(3) for recorder in (one, two)))
        return one.batches, two.batches

    assert run(main()) == ([[0, 1, 2]], [[0, 1, 2]])


def test_an_exception_goes_to_every_caller_of_the_batch_and_to_no_other():
    @batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def fail(items):
        if 1 in items:
            raise KeyError("one")
        return items

    async def main():
        return await asyncio.gather(*(fail(number) for number in (1, 2, 3, 4)), return_exceptions=True)

    results = run(main())
    assert [type(result) for result in results[:2]] == [KeyError, KeyError]
    assert results[2:] == [3, 4]


def test_a_result_of_another_length_is_an_error_in_the_words_of_ray():
    @batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def drop(items):
        return items[1:]

    async def main():
        await asyncio.gather(drop(1), drop(2))

    message = "doesn't preserve batch size. The input list has length 2 but the returned list has length 1"
    with pytest.raises(RayServeException, match=message):
        run(main())


def test_a_result_that_is_no_list_is_an_error():
    @batch(max_batch_size=1)
    async def nothing(items):
        return None

    with pytest.raises(RayServeException, match="not NoneType"):
        run(nothing(1))


def test_a_cancelled_caller_leaves_before_its_batch_starts():
    recorder = Recorder()

    async def main():
        calls = [asyncio.ensure_future(recorder.double(item)) for item in (0, "gone")]
        await asyncio.sleep(0)
        calls[1].cancel()
        await asyncio.wait(calls[1:])
        return await asyncio.gather(calls[0], recorder.double(1), recorder.double(2))

    assert run(main()) == [0, 2, 4]
    assert recorder.batches == [[0, 1, 2]]


def test_an_expired_caller_leaves_before_its_batch_starts():
    seen = []

    @batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def take(items):
        seen.append(items)
        return items

    async def main():
        expired = asyncio.ensure_future(in_request(take, "late", deadline=time.monotonic() - 1))
        await asyncio.sleep(0.01)
        assert await take("fine") == "fine"
        with pytest.raises(TimeoutError, match="expired before its batch started"):
            await expired

    run(main())
    assert seen == [["fine"]]


def test_a_batch_never_mixes_models_and_knows_its_own():
    @batch(max_batch_size=4, batch_wait_timeout_s=LONG_S)
    async def which(items):
        return [(get_multiplexed_model_id(), items)] * len(items)

    async def main():
        calls = [in_request(which, number, multiplexed_model_id="ab"[number % 2]) for number in range(4)]
        return await asyncio.gather(*calls)

    assert run(main()) == [("a", [0, 2]), ("b", [1, 3]), ("a", [0, 2]), ("b", [1, 3])]


def test_a_batch_has_the_time_of_its_most_patient_caller():
    @batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def deadline(items):
        return [_request_context.get().deadline] * len(items)

    async def main(*deadlines):
        calls = [in_request(deadline, number, deadline=value) for number, value in enumerate(deadlines)]
        return await asyncio.gather(*calls)

    soon, later = time.monotonic() + 50, time.monotonic() + 100
    assert run(main(soon, later)) == [later, later]
    assert run(main(soon, None)) == [None, None]


@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_batches_run_at_a_time_than_allowed(limit):
    running = most = 0

    @batch(max_batch_size=1, max_concurrent_batches=limit)
    async def slow(items):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        return items

    async def main():
        return await asyncio.gather(*(slow(number) for number in range(10)))

    assert run(main()) == list(range(10))
    assert most == limit


def test_calls_that_come_while_a_batch_runs_make_the_next_one():
    go_on = asyncio.Event()
    batches = []

    @batch(max_batch_size=3, batch_wait_timeout_s=0)
    async def hold(items):
        batches.append(items)
        await go_on.wait()
        return items

    async def main():
        calls = [asyncio.ensure_future(hold(0))]
        await until(lambda: batches)
        calls += [asyncio.ensure_future(hold(number)) for number in range(1, 6)]
        await asyncio.sleep(0.01)
        assert batches == [[0]]
        go_on.set()
        await asyncio.gather(*calls)

    run(main())
    assert batches == [[0], [1, 2, 3], [4, 5]]


def test_sizes_can_be_changed_later():
    recorder = Recorder()
    recorder.double.set_max_batch_size(2)
    recorder.double.set_batch_wait_timeout_s(0.01)
    try:

        async def main():
            return await asyncio.gather(*(recorder.double(number) for number in range(3)))

        assert run(main()) == [0, 2, 4]
        assert recorder.batches == [[0, 1], [2]]
    finally:
        recorder.double.set_max_batch_size(3)
        recorder.double.set_batch_wait_timeout_s(LONG_S)


def test_a_size_function_weighs_the_items():
    batches = []

    @batch(max_batch_size=10, batch_wait_timeout_s=0.01, batch_size_fn=sum)
    async def take(items):
        batches.append(items)
        return items

    async def main():
        return await asyncio.gather(*(take(weight) for weight in (4, 4, 4, 10, 3)))

    assert run(main()) == [4, 4, 4, 10, 3]
    assert batches == [[4, 4], [4], [10], [3]]


def test_an_item_that_is_too_heavy_for_any_batch_fails_alone():
    @batch(max_batch_size=10, batch_wait_timeout_s=0, batch_size_fn=sum)
    async def take(items):
        return items

    async def main():
        return await asyncio.gather(take(11), take(3), return_exceptions=True)

    heavy, light = run(main())
    assert isinstance(heavy, RuntimeError)
    assert "11, is greater than max_batch_size, 10" in str(heavy)
    assert light == 3


def test_a_size_function_that_fails_fails_its_callers():
    @batch(batch_size_fn=lambda items: 1 / 0, batch_wait_timeout_s=0)
    async def take(items):
        return items

    with pytest.raises(ZeroDivisionError):
        run(take(1))


def test_a_function_can_be_used_on_one_loop_after_another():
    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def double(items):
        return [item * 2 for item in items]

    assert [run(double(number)) for number in range(3)] == [0, 2, 4]


# --- generators ------------------------------------------------------------------------------------------------------


async def collect(items):
    return [item async for item in items]


def test_a_generator_gives_each_caller_its_own_stream():
    @batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def count(items):
        for step in range(3):
            yield [(item, step) for item in items]

    async def main():
        return await asyncio.gather(collect(count("a")), collect(count("b")))

    assert run(main()) == [[("a", 0), ("a", 1), ("a", 2)], [("b", 0), ("b", 1), ("b", 2)]]


def test_stop_iteration_in_a_place_ends_that_callers_stream():
    @batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def count(limits):
        for step in range(max(limits)):
            yield [step if step < limit else StopIteration for limit in limits]

    async def main():
        return await asyncio.gather(collect(count(1)), collect(count(3)))

    assert run(main()) == [[0], [0, 1, 2]]


def test_items_arrive_as_they_are_yielded():
    go_on = asyncio.Event()

    @batch(max_batch_size=1)
    async def two(items):
        yield items
        await go_on.wait()
        yield items

    async def main():
        items = two("x")
        assert await items.__anext__() == "x"
        go_on.set()
        assert await collect(items) == ["x"]

    run(main())


def test_an_exception_ends_every_stream_after_its_items():
    @batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def fail(items):
        yield items
        raise KeyError("no")

    async def reader(item):
        items = fail(item)
        first = await items.__anext__()
        with pytest.raises(KeyError, match="no"):
            await items.__anext__()
        return first

    async def main():
        return await asyncio.gather(reader(1), reader(2))

    assert run(main()) == [1, 2]


def test_a_step_of_another_length_is_an_error():
    @batch(max_batch_size=1)
    async def wrong(items):
        yield [1, 2]

    with pytest.raises(RayServeException, match="length 1 but the returned list has length 2"):
        run(collect(wrong(0)))


def test_a_generator_is_closed_when_all_its_readers_have_gone():
    closed = asyncio.Event()

    @batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def forever(items):
        try:
            while True:
                yield items
                await asyncio.sleep(0)
        finally:
            closed.set()

    async def reader(item):
        items = forever(item)
        await items.__anext__()
        await items.aclose()

    async def main():
        await asyncio.gather(reader(1), reader(2))
        await closed.wait()

    run(main())


def test_a_generator_waits_for_a_slow_reader():
    made = 0

    @batch(max_batch_size=1)
    async def forever(items):
        nonlocal made
        while made < 10_000:
            made += 1
            yield items

    async def main():
        items = forever(1)
        await items.__anext__()
        await asyncio.sleep(0.02)
        assert made < 200
        await items.aclose()

    run(main())


# --- misuse ----------------------------------------------------------------------------------------------------------


def test_plain_functions_are_refused():
    with pytest.raises(TypeError, match=r"Functions decorated with @serve\.batch must be 'async def'"):

        @batch
        def plain(items):
            return items


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_batch_size": 0}, ValueError, "max_batch_size must be integer >= 1, got 0"),
        ({"max_batch_size": "5"}, TypeError, "max_batch_size must be integer >= 1, got 5"),
        ({"max_batch_size": 1.5}, TypeError, "max_batch_size must be integer >= 1, got 1.5"),
        ({"batch_wait_timeout_s": -0.5}, ValueError, "batch_wait_timeout_s must be a float >= 0, got -0.5"),
        ({"batch_wait_timeout_s": "1"}, TypeError, "batch_wait_timeout_s must be a float >= 0, got 1"),
        ({"max_concurrent_batches": 0}, ValueError, "max_concurrent_batches must be an integer >= 1, got 0"),
        ({"batch_size_fn": 3}, TypeError, "batch_size_fn must be a function"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        batch(**options)


def test_setters_check_as_the_decorator_does():
    with pytest.raises(ValueError, match="max_batch_size must be integer >= 1, got 0"):
        Recorder.double.set_max_batch_size(0)
    with pytest.raises(ValueError, match="batch_wait_timeout_s must be a float >= 0, got -1"):
        Recorder.double.set_batch_wait_timeout_s(-1)
