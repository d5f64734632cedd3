"""The router under random histories: nothing is lost, handed out twice, or kept waiting without need."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swerve.routing.asked import Asked
from swerve.routing.calls import Shed, Unavailable
from swerve.routing.lines import QueueOptions
from swerve.routing.options import CONSISTENT_HASH, LEAST_LOADED, POWER_OF_TWO, ROUND_ROBIN, RouterOptions
from swerve.routing.replicas import Replica, ReplicaInfo
from swerve.routing.router import Router
from tests.routing.routing_support import Call, Shared

MODELS = ["", "", "", "m1", "m2"]
NAMES = ["a", "b", "c", "d"]


# Not built in: the machine itself answers what a user's router would.
ASKED = "mine:Router"
QUEUES = [
    None,
    QueueOptions(tenant_key="tenant", max_tenants=2),
    QueueOptions(priority_key="class", priorities=("high", "low"), default_priority="low"),
]


class RouterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.count = 0
        self.waiting: list[Call] = []
        self.running: list[tuple[Call, Replica]] = []

    @initialize(
        random=st.randoms(use_true_random=False),
        max_queued=st.sampled_from([-1, -1, 0, 3]),
        choice=st.sampled_from([POWER_OF_TWO, POWER_OF_TWO, LEAST_LOADED, ROUND_ROBIN, CONSISTENT_HASH, ASKED]),
        queue=st.sampled_from(QUEUES),
    )
    def start(self, random, max_queued, choice, queue):
        self.router: Router[Call] = Router(clock=lambda: self.now, rng=random.random)
        self.router.max_queued = max_queued
        self.options = RouterOptions(choice, {"fallback_replicas": 1}, queue=queue)
        self.forgotten: list[Call] = []
        self.asked: Asked[Call] | None = None
        if choice == ASKED:
            self.asked = Asked(self.options, self.forgotten.append, lambda: self.now)
        self.router.configure(self.options, self.asked)
        self.refused_before: set[Call] = set()

    def hand_out(self, assigned: list[tuple[Call, Replica]]) -> None:
        for call, replica in assigned:
            assert call in self.waiting, "handed out, but it was not waiting"
            self.waiting.remove(call)
            # Among plain calls that nobody refused, the oldest goes first.
            if self.is_plain(call) and call not in self.refused_before and self.options.queue is None:
                older = [
                    c for c in self.waiting if self.is_plain(c) and c not in self.refused_before and c.name < call.name
                ]
                assert not older
            self.run(call, replica)

    def run(self, call: Call, replica: Replica) -> None:
        assert self.router.replicas.get(replica.info.replica_id) is replica, "handed to a replica that is gone"
        assert replica.blocked_until <= self.now, "handed to a replica that rests"
        assert replica.ongoing <= replica.limit
        self.running.append((call, replica))

    def is_plain(self, call: Call) -> bool:
        """Whether any replica will do."""
        if self.asked is not None:
            return False
        hashes = self.options.request_router_class == CONSISTENT_HASH
        return not call.model_id and not (hashes and call.field(b"session_id"))

    @rule(
        model=st.sampled_from(MODELS),
        session=st.sampled_from(["", "s1", "s2"]),
        tenant=st.sampled_from(["t1", "t2", "t3", ""]),
        priority=st.sampled_from(["high", "low", ""]),
    )
    def submit(self, model, session, tenant, priority):
        call = Call(self.count, model, {b"session_id": session, b"tenant": tenant, b"class": priority})
        self.count += 1
        try:
            replica = self.router.submit(call)
        except Shed:
            assert 0 <= self.router.max_queued <= len(self.waiting)
            if self.asked is None:
                assert not any(self.is_free(one) for one in self.router.replicas.values())
            else:
                assert self.forgotten.pop() is call
        except Unavailable:
            assert self.router.unavailable
        else:
            if replica is None:
                self.waiting.append(call)
            else:
                self.run(call, replica)
            for victim, _ in self.router.pushed_out:
                assert victim is not call
                self.waiting.remove(victim)
            self.router.pushed_out.clear()

    @precondition(lambda self: self.asked is not None and self.asked._open)
    @rule(data=st.data(), ranks=st.none() | st.lists(st.lists(st.sampled_from(NAMES), max_size=2), max_size=3))
    def answer(self, data, ranks):
        calls = list(self.asked._open)
        call = calls[data.draw(st.integers(0, len(calls) - 1))]
        self.asked.answered(call, ranks)
        self.hand_out(self.router.poll())

    def is_free(self, replica: Replica) -> bool:
        return replica.ongoing < replica.limit and not replica.blocked_until

    @precondition(lambda self: self.router.replicas)
    @rule(data=st.data(), pace_s=st.sampled_from([1e-6, 1e-4, 1.0]))
    def hear_of_pace(self, data, pace_s):
        replica = self.router.replicas[data.draw(st.sampled_from(sorted(self.router.replicas)))]
        replica.shared = Shared(pace_s)

    @rule(busy=st.booleans())
    def turn_over(self, busy):
        if busy:
            self.router.together.calls = 100
        self.router.together.turn_over()

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
        for replica in added:
            replica.shared = Shared()
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
        if any(self.is_plain(call) for call in self.waiting):
            assert not any(self.is_free(replica) for replica in self.router.replicas.values())

    @invariant()
    def a_call_with_a_model_waits_only_for_a_holder_or_a_slot_and_not_for_ever(self):
        with_model = [call for call in self.waiting if call.model_id or self.asked is not None]
        if with_model and any(self.is_free(replica) for replica in self.router.replicas.values()):
            assert self.router.wake_at is not None

    @invariant()
    def the_queue_is_never_longer_than_allowed(self):
        if getattr(self, "asked", None) is not None:
            return  # calls that are being decided do not count
        limit = getattr(self, "router", Router()).max_queued
        # Calls that a replica turned away come back whatever the queue's length.
        assert limit < 0 or len([call for call in self.waiting if call not in self.refused_before]) <= limit

    @invariant()
    def nothing_is_kept_of_a_call_that_does_not_wait(self):
        if getattr(self, "asked", None) is not None:
            known = {*self.asked._open, *self.asked._answers, *self.asked._pauses}
            assert known <= set(self.waiting)

    @invariant()
    def a_resting_replica_is_woken(self):
        if self.waiting and any(replica.blocked_until for replica in self.router.replicas.values()):
            assert self.router.wake_at is not None


RouterMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestRouter = RouterMachine.TestCase
