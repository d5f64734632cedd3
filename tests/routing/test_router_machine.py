"""The router under random histories: nothing is lost, handed out twice, or kept waiting without need."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swerve.routing.replicas import Replica, ReplicaInfo
from swerve.routing.router import Router, Shed, Unavailable

MODELS = ["", "", "", "m1", "m2"]
NAMES = ["a", "b", "c", "d"]


@dataclass(eq=False)
class Call:
    number: int
    model_id: str

    def __repr__(self) -> str:
        return f"{self.number}{self.model_id}"


class RouterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.count = 0
        self.waiting: list[Call] = []
        self.running: list[tuple[Call, Replica]] = []

    @initialize(random=st.randoms(use_true_random=False), max_queued=st.sampled_from([-1, -1, 0, 3]))
    def start(self, random, max_queued):
        self.router: Router[Call] = Router(clock=lambda: self.now, rng=random.random)
        self.router.max_queued = max_queued
        self.refused_before: set[Call] = set()

    def hand_out(self, assigned: list[tuple[Call, Replica]]) -> None:
        for call, replica in assigned:
            assert call in self.waiting, "handed out, but it was not waiting"
            self.waiting.remove(call)
            # Among plain calls that nobody refused, the oldest goes first.
            if not call.model_id and call not in self.refused_before:
                older = [
                    c
                    for c in self.waiting
                    if not c.model_id and c not in self.refused_before and c.number < call.number
                ]
                assert not older
            self.run(call, replica)

    def run(self, call: Call, replica: Replica) -> None:
        assert self.router.replicas.get(replica.info.replica_id) is replica, "handed to a replica that is gone"
        assert replica.blocked_until <= self.now, "handed to a replica that rests"
        assert replica.ongoing <= replica.limit
        self.running.append((call, replica))

    @rule(model=st.sampled_from(MODELS))
    def submit(self, model):
        call = Call(self.count, model)
        self.count += 1
        try:
            replica = self.router.submit(call)
        except Shed:
            assert 0 <= self.router.max_queued <= len(self.waiting)
            assert not any(self.is_free(one) for one in self.router.replicas.values())
        except Unavailable:
            assert self.router.unavailable
        else:
            if replica is None:
                self.waiting.append(call)
            else:
                self.run(call, replica)

    def is_free(self, replica: Replica) -> bool:
        return replica.ongoing < replica.limit and not replica.blocked_until

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data):
        _, replica = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.hand_out(list(self.router.release(replica)))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def refuse(self, data):
        call, replica = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.waiting.append(call)
        self.refused_before.add(call)
        self.hand_out(self.router.refused(replica, call))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data):
        call = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.router.withdraw(call)

    @rule(
        view=st.dictionaries(
            st.sampled_from(NAMES),
            st.tuples(st.integers(1, 3), st.frozensets(st.sampled_from(["m1", "m2"]))),
            max_size=4,
        )
    )
    def update(self, view):
        infos = [ReplicaInfo(name, "unix:/x", limit, models) for name, (limit, models) in view.items()]
        known = set(self.router.replicas)
        added = self.router.update(infos)
        assert {replica.info.replica_id for replica in added} == set(view) - known
        self.hand_out(self.router.poll())

    @precondition(lambda self: self.router.replicas)
    @rule(data=st.data())
    def lose(self, data):
        self.router.lost(self.router.replicas[data.draw(st.sampled_from(sorted(self.router.replicas)))])

    @rule(step=st.sampled_from([0.01, 0.1, 2.0]))
    def time_passes(self, step):
        """The caller's timer: it fires when the router asked for it, not otherwise."""
        self.now += step
        if self.router.wake_at is not None and self.router.wake_at <= self.now:
            self.hand_out(self.router.poll())

    @invariant()
    def no_call_is_lost(self):
        if self.count:
            assert self.router.queued == len(self.waiting)

    @invariant()
    def counts_are_exact(self):
        for replica in getattr(self, "router", Router()).replicas.values():
            assert replica.ongoing == sum(1 for _, one in self.running if one is replica)

    @invariant()
    def a_plain_call_waits_only_while_no_replica_is_free(self):
        if any(not call.model_id for call in self.waiting):
            assert not any(self.is_free(replica) for replica in self.router.replicas.values())

    @invariant()
    def a_call_with_a_model_waits_only_for_a_holder_or_a_slot_and_not_for_ever(self):
        if self.waiting and any(self.is_free(replica) for replica in self.router.replicas.values()):
            assert self.router.wake_at is not None

    @invariant()
    def a_resting_replica_is_woken(self):
        if self.waiting and any(replica.blocked_until for replica in self.router.replicas.values()):
            assert self.router.wake_at is not None


RouterMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestRouter = RouterMachine.TestCase
