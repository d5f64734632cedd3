"""A replica learns services while it runs."""

from replica_lab import UNARY, run

from swerve import servicers
from swerve.generated import control_pb2 as pb
from swerve.wire.status import StatusCode

PROBE = "probe_pb2_grpc.add_ProbeServicer_to_server"
SECOND = "probe_pb2_grpc.add_SecondServicer_to_server"
OTHER = "/probe.v1.Second/Other"
NEW = "/probe.v1.Second/AddedSince"


class Taught:
    def Unary(self, note):
        return note

    def Other(self, note):
        return note


def request(*functions, **fields):
    served = servicers.load(functions)
    return pb.TakeOptionsRequest(
        grpc_servicer_functions=functions,
        methods=served.grpc_methods(),
        file_descriptors=served.file_descriptors,
        **fields,
    )


async def code_of(caller, path):
    return (await caller.call(path).over()).code


def test_new_methods_are_served_and_old_ones_stay(probe):
    async def scenario(lab):
        caller = await lab.caller()
        answer = await lab.replica.take_options(request(SECOND))
        assert (list(answer.unknown), answer.outdated, answer.error) == ([], False, "")
        assert await code_of(caller, OTHER) == StatusCode.OK
        assert await code_of(caller, UNARY) == StatusCode.OK

    run(scenario, Taught, probe)


def test_limits_are_taken_over_only_when_the_options_are_in_force(probe):
    async def scenario(lab):
        before = lab.replica.max_message_size
        await lab.replica.take_options(request(PROBE))
        assert lab.replica.max_message_size == before
        limits = '{"max_message_size": 7, "keep_status_on_exception": true}'
        await lab.replica.take_options(request(PROBE, grpc_options_json=limits))
        assert (lab.replica.max_message_size, lab.replica.keep_status_on_exception) == (7, True)

    run(scenario, Taught, probe)


def test_what_an_imported_module_has_not_cannot_be_learnt_and_is_unimplemented_once_it_is_served(probe):
    async def scenario(lab):
        caller = await lab.caller()
        asked = request(SECOND)
        asked.methods.add(path=NEW)
        answer = await lab.replica.take_options(asked)
        assert list(answer.unknown) == [NEW]
        asked.grpc_options_json = "{}"
        await lab.replica.take_options(asked)
        assert await code_of(caller, NEW) == StatusCode.UNIMPLEMENTED
        assert await code_of(caller, OTHER) == StatusCode.OK

    run(scenario, Taught, probe)


def test_a_function_that_cannot_be_imported_is_told_and_harms_nothing(probe):
    async def scenario(lab):
        asked = request(PROBE)
        asked.grpc_servicer_functions.append("no_such_module.add")
        asked.methods.add(path=NEW)
        answer = await lab.replica.take_options(asked)
        assert list(answer.unknown) == [NEW]
        assert "no_such_module.add can't be imported" in answer.error
        assert await code_of(await lab.caller(), UNARY) == StatusCode.OK

    run(scenario, Taught, probe)


def test_older_messages_are_told(probe):
    async def scenario(lab):
        asked = request(PROBE)
        asked.file_descriptors.append(b"of another version")
        answer = await lab.replica.take_options(asked)
        assert answer.outdated
        assert not answer.unknown

    run(scenario, Taught, probe)
