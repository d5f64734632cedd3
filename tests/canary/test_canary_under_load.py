"""Canaries of real replicas, called by grpcio and HTTP clients while their weight and roles change."""

import asyncio
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import swerve as serve
from swerve import canary
from swerve.schema import CanaryPhase
from tests.conftest import wait_for

EASY = {"rollback": None}


@serve.deployment(max_ongoing_requests=20, graceful_shutdown_wait_loop_s=0.01)
class Model:
    """Answers with its version, and its process if it is asked."""

    def __init__(self, version, inner=None):
        self.version = version
        self.inner = inner

    async def Unary(self, note):
        if note.text == "pid":
            return type(note)(text=f"{self.version} {os.getpid()}")
        if note.text == "inner":
            return type(note)(text=f"{self.version} {await self.inner.version.remote()}")
        if note.text == "other":
            handle = serve.get_app_handle("called")
            return type(note)(text=await handle.name.remote())
        return type(note)(text=self.version)

    def Stream(self, note):
        yield type(note)(text=self.version)
        while not Path(note.text).exists():
            time.sleep(0.01)
        yield type(note)(text=self.version)

    async def name(self):
        return self.version

    async def __call__(self, request):
        return self.version


@serve.deployment
class Inner:
    def __init__(self, name):
        self.name = name

    async def version(self):
        return self.name


@serve.deployment(max_ongoing_requests=20)
class Faulty:
    async def Unary(self, note):
        raise ValueError("not yet")


def app_of(name):
    return serve.status().applications[name]


def states_of(name, deployment="Model"):
    return app_of(name).deployments[deployment].replica_states


@pytest.fixture
def split(shop):
    """Two versions of an application; the test says which calls go to the new one."""
    made = []

    def deploy(name, new=None, **options):
        made.append(name)
        serve.run(Model.bind("v1"), name=name, route_prefix=f"/{name}")
        canary.start(new or Model.bind("v2"), name, {**EASY, **options})

    yield deploy
    for name in made:
        serve.delete(name)


def test_calls_are_split_by_weight_and_the_other_version_is_not_an_application(shop, split):
    split("weighed", weight=30)
    with shop.under_load("weighed") as load:
        load.until(1000)
        # Six standard deviations of a binomial distribution.
        share = load.answers["v2"] / load.calls
        assert abs(share - 0.3) < 6 * (0.3 * 0.7 / load.calls) ** 0.5
        canary.set_weight("weighed", 100)
        before = load.answers["v1"]
        load.until(200)
        # Those under way when the weight changed.
        assert load.answers["v1"] - before <= 4
        canary.set_weight("weighed", 0)
        before = load.answers["v2"]
        load.until(200)
        assert load.answers["v2"] - before <= 4
    assert not load.failures
    assert list(serve.status().applications) == ["weighed"]
    present = canary.status("weighed")
    assert (present.phase, present.weight, present.status) == (CanaryPhase.RUNNING, 0, "RUNNING")
    wait_for(lambda: canary.status("weighed").canary_calls.calls, what="the counts of its calls")
    routes = httpx.get(shop.url("-/routes")).json()
    assert routes == {"/weighed": "weighed"}


def test_calls_that_match_go_to_the_canary_whatever_its_weight(shop, split):
    split("matched", weight=0, match={"x-version": "new", "x-who": "us"})
    assert shop.ask("matched", x_version="new", x_who="us") == "v2"
    assert shop.ask("matched", x_version="new") == "v1"
    assert shop.ask("matched", x_version="newer", x_who="us") == "v1"
    url = shop.url("matched")
    assert httpx.get(url, headers={"X-Version": "new", "X-Who": "us"}).text == "v2"
    assert httpx.get(url).text == "v1"


def test_a_caller_stays_on_one_side(shop, split):
    split("sticky", weight=50, sticky_key="user-id")
    users = [f"user-{number}" for number in range(40)]
    with shop.stub() as stub:
        first = {user: shop.call(stub, "sticky", user_id=user) for user in users}
        assert set(first.values()) == {"v1", "v2"}
        assert {user: shop.call(stub, "sticky", user_id=user) for user in users} == first
    url = shop.url("sticky")
    assert httpx.get(url, headers={"User-Id": users[0]}).text == first[users[0]]
    canary.set_weight("sticky", 80)
    with shop.stub() as stub:
        later = {user: shop.call(stub, "sticky", user_id=user) for user in users}
    assert all(later[user] == "v2" for user in users if first[user] == "v2")


def test_promotion_loses_no_call_and_keeps_the_replicas(shop, split):
    split("promoted", weight=20, match={"x-version": "new"})
    answer = shop.ask("promoted", "pid", x_version="new")
    with shop.under_load("promoted") as load:
        load.until(200)
        canary.promote("promoted")
        before = load.answers["v1"]
        load.until(300)
        assert load.answers["v1"] - before <= 4
        wait_for(lambda: states_of("promoted") == {"RUNNING": 1}, 30, "the end of the old replicas")
    assert not load.failures
    assert shop.ask("promoted", "pid") == answer
    assert canary.status("promoted") is None
    # Another one, over what was promoted.
    canary.start(Model.bind("v3"), "promoted", {**EASY, "weight": 100})
    assert shop.ask("promoted") == "v3"
    canary.promote("promoted")
    serve.run(Model.bind("v4"), name="promoted", route_prefix="/promoted")
    wait_for(lambda: shop.ask("promoted") == "v4", what="the redeployed application")


def test_http_requests_are_split_and_none_is_lost(shop, split):
    split("web", weight=50)
    with shop.under_load("web", http=True) as load:
        load.until(100)
        assert load.answers["v1"] > 20
        assert load.answers["v2"] > 20
        wait_for(lambda: canary.status("web").canary_calls.calls, what="the counts of its requests")
        canary.promote("web")
        before = load.answers["v1"]
        load.until(100)
        assert load.answers["v1"] - before <= 4
        wait_for(lambda: states_of("web") == {"RUNNING": 1}, 30, "the end of the old replicas")
    assert not load.failures


@serve.deployment(max_ongoing_requests=1, max_queued_requests=1)
class Narrow:
    async def __call__(self, request):
        while not Path(request.headers["x-gate"]).exists():  # noqa: ASYNC110, ASYNC240 (the test makes it)
            await asyncio.sleep(0.01)
        return "v2"


def test_requests_that_are_shed_are_no_errors_of_the_canary(shop, split, tmp_path):
    split("narrow", Narrow.bind(), weight=100)
    gate = tmp_path / "gate"

    def request():
        return httpx.get(shop.url("narrow"), headers={"x-gate": str(gate)}, timeout=30).status_code

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(request) for _ in range(4)]
        wait_for(lambda: sum(future.done() for future in futures) == 2, what="two requests too many")
        gate.touch()
        assert sorted(future.result() for future in futures) == [200, 200, 503, 503]
    wait_for(lambda: canary.status("narrow").canary_calls.calls == 4, what="their counts")
    assert canary.status("narrow").canary_calls.errors == 0


def test_streams_of_the_old_version_go_on_to_their_end(shop, split, tmp_path):
    split("streaming", weight=0)
    gate = tmp_path / "gate"
    with shop.stub() as stub:
        note = shop.probe.pb.Note(text=str(gate))
        stream = stub.Stream(note, timeout=30, metadata=(("application", "streaming"),))
        assert next(stream).text == "v1"
        canary.promote("streaming")
        wait_for(lambda: shop.ask("streaming") == "v2", what="the new version")
        gate.touch()
        assert [note.text for note in stream] == ["v1"]


def test_calls_wake_a_canary_that_was_scaled_to_none(shop, split):
    scaling = {"min_replicas": 0, "max_replicas": 1, "upscale_delay_s": 0, "downscale_delay_s": 60}
    split("asleep", Model.options(autoscaling_config=scaling).bind("v2"), weight=100)
    assert not canary.status("asleep").deployments["Model"].replica_states
    assert shop.ask("asleep", timeout=40) == "v2"


def test_rolling_back_loses_no_call(shop, split):
    split("returned", weight=50)
    with shop.under_load("returned") as load:
        load.until(200)
        canary.rollback("returned")
        before = load.answers["v2"]
        load.until(200)
        assert load.answers["v2"] - before <= 4
    assert not load.failures
    present = canary.status("returned")
    assert (present.phase, present.message) == (CanaryPhase.ROLLED_BACK, "It was rolled back by command.")
    assert states_of("returned")["RUNNING"] == 1


def test_a_canary_that_fails_too_often_is_rolled_back_by_itself(shop, split):
    limits = {"max_error_percent": 10, "min_calls": 20, "window_s": 10, "for_s": 0}
    split("faulty", Faulty.bind(), weight=30, rollback=limits)
    with shop.under_load("faulty") as load:
        wait_for(lambda: canary.status("faulty").phase is CanaryPhase.ROLLED_BACK, 30, "the rollback")
        failed = sum(load.failures.values())
        load.until(200)
        assert sum(load.failures.values()) - failed <= 4
    present = canary.status("faulty")
    reason = re.match(r"(\d+) of (\d+) calls \(100.0 %\) of the last 10 s failed", present.message)
    # What led to it is still shown.
    assert [present.canary_calls.errors, present.canary_calls.calls] == [int(number) for number in reason.groups()]
    assert present.stable_calls.calls > 0
    assert app_of("faulty").status == "RUNNING"
    assert set(load.answers) == {"v1"}
    assert shop.log("controller").count("The canary of application 'faulty' is rolled back.") == 1


def test_each_version_calls_its_own_deployments_and_others_call_the_application(shop, split):
    split("calling")
    serve.run(Model.bind("v1", Inner.bind("i1")), name="called", route_prefix="/called")
    canary.start(Model.bind("v2", Inner.bind("i2")), "called", {**EASY, "weight": 0, "match": {"x-version": "new"}})
    try:
        assert shop.ask("called", "inner") == "v1 i1"
        assert shop.ask("called", "inner", x_version="new") == "v2 i2"
        assert shop.ask("called", "other", x_version="new") == "v2"
        assert {shop.ask("calling", "other") for _ in range(5)} == {"v1"}
        handle = serve.get_app_handle("called")
        assert handle.name.remote().result(timeout_s=20) == "v1"
        canary.promote("called")
        wait_for(lambda: shop.ask("calling", "other") == "v2", what="the promoted version")
        wait_for(lambda: handle.name.remote().result(timeout_s=20) == "v2", what="the promoted version")
        assert shop.ask("called", "inner") == "v2 i2"
    finally:
        serve.delete("called")


def test_metrics_and_the_access_log_tell_the_version(shop, split):
    split("logged", weight=0, match={"x-version": "new"})
    shop.ask("logged")
    shop.ask("logged", x_version="new")
    text = httpx.get(shop.url("-/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("ray_serve_num_grpc_requests") and "logged" in line]
    assert sorted(('version="canary"' in line, line.rsplit(" ", 1)[1]) for line in lines) == [(False, "1"), (True, "1")]
    statuses = [
        line for line in text.splitlines() if line.startswith("ray_serve_deployment_status{") and "logged" in line
    ]
    assert sorted('version="canary"' in line for line in statuses) == [False, True]
    logged = re.compile(r"/probe.v1.Probe/Unary logged OK \d+\.\dms( canary)?$", re.MULTILINE)
    wait_for(lambda: sorted(logged.findall(shop.log("proxy"))) == ["", " canary"], what="the access log")


def test_a_canary_that_does_not_start_is_rolled_back_and_says_why(shop, split):
    @serve.deployment
    class Broken:
        def __init__(self):
            raise ValueError("no weights")

    serve.run(Model.bind("v1"), name="kept", route_prefix="/kept")
    try:
        with pytest.raises(RuntimeError, match="no weights"):
            canary.start(Broken.bind(), "kept", {"weight": 100})
        assert shop.ask("kept") == "v1"
        assert app_of("kept").status == "RUNNING"
        assert canary.status("kept").phase is CanaryPhase.ROLLED_BACK
    finally:
        serve.delete("kept")
