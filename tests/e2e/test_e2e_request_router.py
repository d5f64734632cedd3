"""Request routers of users: in the proxy, in handles, and as Ray Serve's guide writes them."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import swerve as serve
from swerve.config import RequestRouterConfig
from swerve.request_router import RequestRouter
from tests.conftest import wait_for
from tests.e2e.conftest import remove


class BestRank(RequestRouter):
    """The replica of the lowest rank; none while the rank of one is not known."""

    def choose_replicas(self, candidate_replicas, pending_request=None):
        known = [one for one in candidate_replicas if "rank" in one.routing_stats]
        if len(known) < 3:
            return []
        return [[min(known, key=lambda one: one.routing_stats["rank"])]]


def test_a_user_s_router_decides_by_what_replicas_say_of_themselves(world):
    import e2e_lab

    config = RequestRouterConfig(request_router_class=BestRank, request_routing_stats_period_s=0.2)
    target = e2e_lab.Ranked.options(num_replicas=3, request_router_config=config).bind()
    handle = serve.run(target, name="ranked", route_prefix="/ranked")
    try:
        client = world.client.of("ranked")
        first = client.ask("Coroutine").text
        assert {client.ask("Coroutine").text for _ in range(20)} == {first}
        assert {handle.who.remote().result(timeout_s=20) for _ in range(20)} == {first}

        # It has had enough, and says so.
        client.ask("Coroutine", "retire")
        wait_for(lambda: client.ask("Coroutine").text != first, 20, "another best replica")
    finally:
        serve.delete("ranked")


def test_replicas_are_numbered_on_the_first_machine(world):
    import e2e_lab

    handle = serve.run(e2e_lab.Ranked.options(num_replicas=2).bind(), name="numbered", route_prefix="/numbered")
    try:
        seen = set()
        wait_for(lambda: seen.add(handle.ranks.remote().result(timeout_s=20)) or len(seen) == 2, 20, "both replicas")
        assert seen == {(0, 0, 0), (1, 0, 1)}
    finally:
        serve.delete("numbered")


ROUTERS = """
import random
from ray.serve.request_router import (
    FIFOMixin, LocalityMixin, MultiplexMixin, PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica,
)


class Uniform(RequestRouter):
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        return [[random.choice(candidate_replicas)]]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult):
        print("routed to", replica_id)


class LeastThroughput(FIFOMixin, MultiplexMixin, LocalityMixin, RequestRouter):
    async def choose_replicas(self, candidate_replicas, pending_request=None):
        candidates = {}
        if pending_request is not None and pending_request.metadata.multiplexed_model_id:
            ranked = self.rank_replicas_via_multiplex(
                replicas=candidate_replicas, multiplexed_model_id=pending_request.metadata.multiplexed_model_id
            )[0]
            for replica in self.select_available_replicas(candidates=ranked):
                candidates[replica.replica_id] = replica
        near = self.rank_replicas_via_locality(replicas=candidate_replicas)[0]
        for replica in self.select_available_replicas(candidates=near):
            candidates[replica.replica_id] = replica
        return [[min(candidates.values(), key=lambda replica: replica.routing_stats.get("throughput", 0))]]
"""

SCRIPT = """
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.context import _get_internal_replica_context
from ray.serve._private.request_router import PendingRequest
from ray.serve.experimental.round_robin_router import RoundRobinRouter


class App:
    def __init__(self):
        self.id = _get_internal_replica_context().replica_id
        self.calls = 0

    async def __call__(self):
        self.calls += 1
        return self.id

    def record_routing_stats(self):
        return {"throughput": self.calls}


for router in ("routers:Uniform", "routers:LeastThroughput", RoundRobinRouter):
    config = RequestRouterConfig(
        request_router_class=router, request_routing_stats_period_s=1, request_routing_stats_timeout_s=1
    )
    deployment = serve.deployment(request_router_config=config, num_replicas=3, ray_actor_options={"num_cpus": 0})(App)
    handle = serve.run(deployment.bind())
    # In one piece: the router prints from its own thread.
    print(f"replicas:{len({handle.remote().result() for _ in range(60)})};")
"""


def test_routers_of_ray_serve_s_guide_run_unchanged(tmp_path):
    (tmp_path / "routers.py").write_text(ROUTERS)
    (tmp_path / "script.py").write_text(SCRIPT)
    state_dir = Path(tempfile.mkdtemp(prefix="swerve-"))
    done = subprocess.run(
        [sys.executable, "-m", "swerve.ray_compat", "script.py"],
        env={**os.environ, "SWERVE_STATE_DIR": str(state_dir), "RAY_SERVE_DEFAULT_HTTP_HOST": "127.0.0.1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    remove(state_dir)
    assert done.returncode == 0, done.stderr
    counts = [int(count) for count in re.findall(r"replicas:(\d+);", done.stdout)]
    assert counts[0] == counts[2] == 3
    assert counts[1] >= 1
    assert "routed to Replica(id='" in done.stdout
