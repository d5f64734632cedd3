"""`@serve.multiplexed`: loading, keeping and evicting models."""

from __future__ import annotations

import asyncio
import gc

import pytest

from swerve import multiplex
from swerve.context import RequestContext, _request_context
from swerve.multiplex import get_multiplexed_model_id, loaded_model_ids, multiplexed, unload_all


@pytest.fixture(autouse=True)
def no_models_of_other_tests():
    gc.collect()
    yield
    multiplex.on_models_changed = None
    gc.collect()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


class Models:
    def __init__(self):
        self.loads = []
        self.now_loading = self.most_loading = 0
        self.fail = False

    @multiplexed(max_num_models_per_replica=2)
    async def get(self, model_id: str):
        self.loads.append(model_id)
        self.now_loading += 1
        self.most_loading = max(self.most_loading, self.now_loading)
        await asyncio.sleep(0.001)
        self.now_loading -= 1
        if self.fail:
            raise OSError("no weights")
        return f"model {model_id}"


def test_a_model_is_loaded_once_and_kept():
    models = Models()

    async def main():
        return [await models.get("a"), await models.get("a")]

    assert run(main()) == ["model a", "model a"]
    assert models.loads == ["a"]


def test_simultaneous_calls_for_one_model_load_it_once():
    models = Models()

    async def main():
        return await asyncio.gather(*(models.get("a") for _ in range(5)))

    assert run(main()) == ["model a"] * 5
    assert models.loads == ["a"]


def test_one_model_is_loaded_at_a_time():
    models = Models()

    async def main():
        await asyncio.gather(models.get("a"), models.get("b"), models.get("c"))

    run(main())
    assert models.most_loading == 1


def test_the_least_recently_used_model_is_evicted():
    models = Models()

    async def main():
        for model_id in ("a", "b", "a", "c"):
            await models.get(model_id)
        assert loaded_model_ids() == ["a", "c"]
        await models.get("b")
        assert loaded_model_ids() == ["b", "c"]

    run(main())
    assert models.loads == ["a", "b", "c", "b"]


def test_an_evicted_models_del_runs_once_however_long_it_is_referred_to():
    calls = []

    class Model:
        def __del__(self):
            calls.append("del")

    @multiplexed(max_num_models_per_replica=1)
    async def get(model_id):
        return Model()

    async def main():
        first = await get("a")
        await get("b")
        assert calls == ["del"]
        assert isinstance(first, Model)
        del first
        gc.collect()
        assert calls == ["del"]

    run(main())


def test_an_evicted_models_coroutine_del_is_awaited_before_the_next_is_loaded(recwarn):
    events = []

    class Model:
        def __init__(self, name):
            self.name = name

        async def __del__(self):
            await asyncio.sleep(0)
            events.append(f"unloaded {self.name}")

    @multiplexed(max_num_models_per_replica=1)
    async def get(model_id):
        events.append(f"loading {model_id}")
        return Model(model_id)

    async def main():
        await get("a")
        await get("b")
        await unload_all()
        gc.collect()

    run(main())
    assert events == ["loading a", "unloaded a", "loading b", "unloaded b"]
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


def test_a_del_that_fails_does_not_fail_the_next_load():
    class Model:
        def __del__(self):
            raise OSError("busy")

    @multiplexed(max_num_models_per_replica=1)
    async def get(model_id):
        return Model() if model_id == "a" else "b"

    async def main():
        await get("a")
        return await get("b")

    assert run(main()) == "b"


def test_minus_one_is_no_limit():
    @multiplexed(max_num_models_per_replica=-1)
    async def get(model_id):
        return model_id

    async def main():
        for number in range(50):
            await get(str(number))
        return loaded_model_ids()

    assert len(run(main())) == 50


def test_a_load_that_fails_is_tried_anew_by_the_next_call():
    models = Models()

    async def main():
        models.fail = True
        with pytest.raises(OSError, match="no weights"):
            await models.get("a")
        assert loaded_model_ids() == []
        models.fail = False
        return await models.get("a")

    assert run(main()) == "model a"


def test_a_load_goes_on_when_its_caller_is_cancelled():
    models = Models()

    async def main():
        first = asyncio.ensure_future(models.get("a"))
        # The caller begins, then its load does.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert models.loads == ["a"]
        first.cancel()
        return await models.get("a")

    assert run(main()) == "model a"
    assert models.loads == ["a"]


def test_a_load_that_waits_for_its_turn_is_given_up_with_its_last_caller():
    models = Models()

    async def main():
        await asyncio.gather(models.get("kept"), models.get("used"))
        first = asyncio.ensure_future(models.get("used"))
        loading = asyncio.ensure_future(models.get("new"))
        leavers = [asyncio.ensure_future(models.get(f"unwanted {i}")) for i in range(3)]
        two = [asyncio.ensure_future(models.get("wanted")) for _ in range(2)]
        await asyncio.sleep(0)
        for task in (*leavers, two[0]):
            task.cancel()
        again = asyncio.ensure_future(models.get("unwanted 1"))
        return await asyncio.gather(first, loading, two[1], again)

    assert run(main()) == ["model used", "model new", "model wanted", "model unwanted 1"]
    assert models.loads == ["kept", "used", "new", "wanted", "unwanted 1"]


def test_a_load_has_nothing_of_the_end_of_the_call_that_began_it():
    contexts = []

    @multiplexed
    async def load(model_id: str):
        contexts.append(_request_context.get())
        await asyncio.sleep(0.001)
        return model_id

    async def main():
        call = RequestContext(request_id="7", multiplexed_model_id="a", deadline=1.0)
        token = _request_context.set(call)
        assert await load("a") == "a"
        _request_context.reset(token)
        return call

    call = run(main())
    assert (contexts[0].request_id, contexts[0].multiplexed_model_id, contexts[0].deadline) == ("7", "a", None)
    assert contexts[0].children is not call.children


def test_instances_keep_models_of_their_own():
    async def main():
        one, two = Models(), Models()
        await one.get("a")
        await two.get("a")
        return one.loads, two.loads

    assert run(main()) == (["a"], ["a"])


def test_changes_are_announced_with_what_is_loading_included():
    seen = []
    multiplex.on_models_changed = lambda: seen.append(loaded_model_ids())
    models = Models()

    async def main():
        await models.get("a")

    run(main())
    assert seen[0] == ["a"]
    assert seen[-1] == ["a"]


def test_unload_all_empties_every_cache():
    async def main():
        models = Models()
        await models.get("a")
        await unload_all()
        return loaded_model_ids()

    assert run(main()) == []


@pytest.mark.parametrize(
    ("model_id", "error", "message"),
    [("", ValueError, "The model ID cannot be empty."), (3, TypeError, "The model ID must be a string.")],
)
def test_model_ids_are_checked(model_id, error, message):
    async def main():
        await Models().get(model_id)

    with pytest.raises(error, match=message):
        run(main())


@pytest.mark.parametrize("limit", [0, -2])
def test_a_limit_that_is_not_positive_is_refused(limit):
    with pytest.raises(ValueError, match=r"max_num_models_per_replica must be positive\."):
        multiplexed(max_num_models_per_replica=limit)


def test_a_limit_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match="must be an integer"):
        multiplexed(max_num_models_per_replica="3")


def test_only_coroutine_functions_of_one_model_id_can_be_decorated():
    with pytest.raises(TypeError, match="can only be used to decorate async functions or methods"):
        multiplexed(lambda model_id: model_id)

    async def none():
        pass

    with pytest.raises(TypeError, match="one 'model_id' argument"):
        multiplexed(none)


def test_the_model_id_of_the_request_is_known_in_it_and_empty_outside():
    assert get_multiplexed_model_id() == ""
    token = _request_context.set(RequestContext(multiplexed_model_id="m"))
    try:
        assert get_multiplexed_model_id() == "m"
    finally:
        _request_context.reset(token)
