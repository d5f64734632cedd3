"""A deployment's router with its connections."""

import asyncio

from swerve.caller.target import Target
from swerve.routing.replicas import Replica, ReplicaInfo


class Call:
    model_id = ""

    def field(self, name):
        return ""


def test_a_call_that_is_turned_away_after_the_deployment_is_forgotten_is_dropped():
    async def main():
        dropped = []
        target = Target("app", "name", asyncio.get_running_loop())
        replica = Replica(ReplicaInfo("one", "unix:/none", 1))
        replica.ongoing = 1
        waiting, running = Call(), Call()
        assert target.router.submit(waiting) is None
        target.close(dropped.append)
        target.refused(replica, running)
        return dropped == [waiting, running]

    assert asyncio.run(main())
