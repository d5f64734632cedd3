"""Replicas: slots and queues, configuration, death and replacement."""

import json
import os
import signal
import threading
import time

import grpc
import pytest
from e2e_support import failure_of, in_threads, read

import swerve as serve
from tests.conftest import wait_for


@pytest.fixture
def deploy(world):
    """Runs an application of the test's own and deletes it at the end."""
    names = []

    def run(target, name="own"):
        serve.run(target, name=name, route_prefix=f"/{name}")
        if name not in names:
            names.append(name)
        return world.client.of(name)

    yield run
    for name in names:
        serve.delete(name)


# --- slots and queues ------------------------------------------------------------------------------------------------


def test_a_full_queue_sheds_with_its_numbers(client, deploy):
    import e2e_lab

    narrow = deploy(e2e_lab.Lab.options(max_ongoing_requests=1, max_queued_requests=2).bind())
    # Until the proxy has a connection to the replica all calls wait, and one more is shed.
    narrow.ask("Describe")
    calls = [narrow.begin("Hold", f"hold {i}") for i in range(4)]

    wait_for(lambda: any(call.done() for call in calls), what="one call being shed")

    errors = [call.exception() for call in calls if call.done()]
    assert [(error.code().name, error.details()) for error in errors] == [
        (
            "RESOURCE_EXHAUSTED",
            "Request dropped due to backpressure (num_queued_requests=2, max_queued_requests=2).",
        )
    ]
    assert "request_id" in dict(errors[0].trailing_metadata())
    for call in calls:
        call.cancel()


def test_max_ongoing_requests_is_never_exceeded(world, client):
    """Two clients with many calls each and two handles, all at once, at three replicas with two slots."""
    most, replicas = set(), set()
    clients = [world.new_client("pool") for _ in range(2)]
    handle = serve.get_app_handle("pool")

    def work(index):
        if index >= 2:
            responses = [handle.most.remote(0.005) for _ in range(40)]
            most.update(response.result(timeout_s=30) for response in responses)
            return
        for method in ("Plain", "Coroutine"):
            futures = [clients[index].begin(method, timeout=30) for _ in range(40)]
            for future in futures:
                note = future.result()
                most.add(note.number)
                replicas.add(note.text)

    with in_threads(4, work):
        pass
    for one in clients:
        one.channel.close()

    assert len(replicas) == 3
    assert max(most) == 2


HANDLES = """
import sys
import swerve as serve
from probe_pb2 import Note

handle = serve.get_app_handle("lab").Coroutine
print("ready", flush=True)
sys.stdin.readline()
responses = [handle.remote(Note(number=10)) for _ in range(60)]
print(max(response.result(timeout_s=30).number for response in responses))
"""


def test_max_ongoing_requests_holds_across_proxies_and_processes_with_handles(tuned):
    """Two proxies and two programs with handles, none of which knows what the others do."""
    clients = [tuned.new_client() for _ in range(6)]
    programs = [tuned.program(HANDLES) for _ in range(2)]
    for program in programs:
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        program.stdin.write("go\n")
        program.stdin.flush()
    most = []

    def work(index):
        futures = [clients[index].begin("Coroutine", number=10) for _ in range(8)]
        # Some may be too late for the second and a half that they have.
        most.extend(future.result().number for future in futures if future.exception() is None)

    with in_threads(6, work):
        pass
    for one in clients:
        one.channel.close()
    most += [int(program.communicate(timeout=40)[0]) for program in programs]

    assert max(most) == 4


def test_plain_handlers_run_in_parallel_up_to_max_ongoing_requests(client):
    """Four calls of a handler that sleeps in its thread take less time than two after each other."""
    import time

    begun = time.monotonic()
    steps = json.dumps([["sleep", 1.0]])
    futures = [client.begin("ScriptPlain", steps) for _ in range(4)]
    for future in futures:
        future.result()

    assert time.monotonic() - begun < 3


# --- configuration ---------------------------------------------------------------------------------------------------


CONFIGURED = """
applications:
  - name: own
    import_path: e2e_lab:configured
    deployments: [{{name: Configured, user_config: {{greeting: {greeting}}}, {more}}}]
"""


def test_options_change_in_the_running_replica_and_those_of_its_process_replace_it(bare):
    own = bare.client.of("own")
    bare.deploy(CONFIGURED.format(greeting="first", more="max_queued_requests: 5"))
    before = own.ask("__call__")

    # The controller and the proxy read this one alone.
    bare.deploy(CONFIGURED.format(greeting="first", more="max_queued_requests: 6"))
    assert own.ask("__call__").number == before.number, "the replica was restarted"

    bare.deploy(CONFIGURED.format(greeting="second", more="max_queued_requests: 6"))
    wait_for(lambda: own.ask("__call__").text == "second")
    assert before.text == "first"
    assert own.ask("__call__").number == before.number, "the replica was restarted"

    bare.deploy(CONFIGURED.format(greeting="second", more="ray_actor_options: {num_cpus: 0.5}"))
    wait_for(lambda: own.ask("__call__").number != before.number, what="another replica")


def test_an_update_that_cannot_start_leaves_the_old_version_serving_and_says_why(deploy):
    import e2e_lab

    own = deploy(e2e_lab.Answer.bind("old"))
    broken = e2e_lab.Failing.options(name="Answer", max_constructor_retry_count=2).bind()
    with pytest.raises(RuntimeError, match="no weights"):
        deploy(broken)

    assert own.ask("__call__").text == "old"
    application = serve.status().applications["own"]
    assert application.status == "DEPLOY_FAILED"
    assert "the replicas of the previous version keep serving" in application.message
    assert "OSError: no weights here" in application.deployments["Answer"].message
    assert application.deployments["Answer"].status_trigger == "REPLICA_STARTUP_FAILED"


def test_no_call_fails_while_an_application_is_updated(deploy):
    import e2e_lab

    own = deploy(e2e_lab.Answer.bind("old"))
    stop = threading.Event()
    answers = []

    def work(index):
        while not stop.is_set():
            answers.append(own.ask("__call__").text)

    with in_threads(2, work):
        try:
            deploy(e2e_lab.Answer.bind("new"))
            wait_for(lambda: answers[-1:] == ["new"])
        finally:
            stop.set()

    assert set(answers) == {"old", "new"}


def test_calls_to_a_deleted_application_are_not_found(world, deploy):
    import e2e_lab

    own = deploy(e2e_lab.Answer.options(max_ongoing_requests=1).bind("x"), name="short-lived")
    assert own.ask("__call__").text == "x"

    serve.delete("short-lived")

    error = own.failure("__call__")
    assert error.code().name == "NOT_FOUND"
    assert error.details().startswith("Application 'short-lived' not found.")


def test_a_deployment_that_failed_to_deploy_is_unavailable(world, client):
    import e2e_lab

    with pytest.raises(RuntimeError, match="no weights"):
        serve.run(e2e_lab.Failing.bind(), name="failing", route_prefix="/failing")
    try:
        error = client.of("failing").failure("__call__")
        assert serve.status().applications["failing"].status == "DEPLOY_FAILED"
    finally:
        serve.delete("failing")

    assert error.code().name == "UNAVAILABLE"
    assert error.details() == ("Deployment(name='Failing', app='failing') is unavailable because it failed to deploy.")
    assert client.ask("__call__", "others").text == "Hello others"


# --- death -----------------------------------------------------------------------------------------------------------


def running(app: str, deployment: str) -> int:
    return serve.status().applications[app].deployments[deployment].replica_states.get("RUNNING", 0)


def test_a_killed_replica_fails_its_calls_and_is_replaced(world, client):
    pool = client.of("pool")
    pids = set()
    wait_for(lambda: pids.add(int(pool.ask("Describe").payload)) or len(pids) == 3, what="an answer of each replica")
    victim = min(pids)
    calls = [pool.begin("Hold", timeout=40) for _ in range(6)]
    wait_for(lambda: pool.outcome("Describe", timeout=0.3) == "DEADLINE_EXCEEDED", what="all slots taken")

    os.kill(victim, signal.SIGKILL)

    wait_for(lambda: sum(call.done() for call in calls) == 2, what="the end of the replica's calls")
    errors = [call.exception() for call in calls if call.done()]
    for call in calls:
        call.cancel()
    assert {error.code().name for error in errors} == {"UNAVAILABLE"}
    assert all("replica" in error.details() for error in errors)
    assert all("request_id" in dict(error.trailing_metadata()) for error in errors)

    later = set()
    wait_for(lambda: later.add(int(pool.ask("Describe").payload)) or len(later - pids) == 1, what="a new replica")
    wait_for(lambda: running("pool", "Pool") == 3)
    assert victim not in later


def test_a_call_waits_for_the_replacement_of_the_only_replica(deploy):
    import e2e_lab

    own = deploy(e2e_lab.Lab.bind(e2e_lab.Helper.bind()))
    pid = json.loads(own.ask("Describe").text)["pid"]
    stream = own.stream("AsyncGenerator", "gated-killed", 3)
    received = [next(stream).number]

    os.kill(pid, signal.SIGKILL)
    error = failure_of(lambda: received.extend(note.number for note in stream))

    assert received == [0]
    assert error.code().name == "UNAVAILABLE"
    assert json.loads(own.ask("Describe").text)["pid"] != pid


def test_a_call_that_a_killed_replica_had_not_begun_is_answered_by_its_replacement(deploy, tmp_path):
    import e2e_lab

    own = deploy(e2e_lab.Stuck.bind())
    pid = own.ask("__call__").number
    holding = own.lab.__call__.future(
        own.note(payload=str(tmp_path / "held").encode()), timeout=40, metadata=(("application", own.app),)
    )
    wait_for((tmp_path / "held").exists, what="the replica being held up")
    waiting = [own.begin("__call__", f"waiting {i}", timeout=40) for i in range(20)]
    handle = serve.get_app_handle("own").remote(own.note("by handle"))
    # They are on the replica's socket; nothing tells when, and if they are not yet the call is answered all the same.
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)

    assert holding.code().name == "UNAVAILABLE"
    answers = [call.result() for call in waiting]
    assert [answer.text for answer in answers] == [f"waiting {i}" for i in range(20)]
    assert handle.result(timeout_s=30).text == "by handle"
    assert pid not in {answer.number for answer in answers}


def test_a_replica_whose_health_check_fails_is_replaced(deploy):
    import e2e_lab

    own = deploy(e2e_lab.Sickly.bind())
    pid = own.ask("__call__").number

    own.ask("Plain", "fall ill")

    def replaced():
        try:
            return own.ask("__call__").number != pid
        except grpc.RpcError:
            return False

    wait_for(replaced, 30, "a new replica")


def test_a_replica_whose_event_loop_is_blocked_is_replaced(deploy, tmp_path):
    import e2e_lab

    own = deploy(e2e_lab.Stuck.options(health_check_period_s=0.1, health_check_timeout_s=0.5).bind())
    pid = own.ask("__call__").number
    holding = own.lab.__call__.future(
        own.note(payload=str(tmp_path / "held").encode()), timeout=40, metadata=(("application", own.app),)
    )
    wait_for((tmp_path / "held").exists, what="the replica being held up")

    later = own.ask("__call__", "later", timeout=40)

    assert later.text == "later"
    assert later.number != pid
    assert holding.code().name == "UNAVAILABLE"


def test_a_killed_proxy_is_replaced_and_clients_come_back(tuned):
    own = tuned.new_client()
    assert own.ask("__call__", "a").text == "Hello a"
    proxies = [path.stem for path in (tuned.state_dir / "run").glob("proxy-*.ready")]
    pids = [int(pid) for pid in proxy_pids(tuned.state_dir)]
    assert len(proxies) == len(pids) == 2

    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    def answered():
        try:
            return own.ask("__call__", "b", timeout=2).text == "Hello b"
        except grpc.RpcError:
            return False

    wait_for(answered, 30, "an answer of a new proxy")
    own.channel.close()
    wait_for(lambda: len(proxy_pids(tuned.state_dir)) == 2)
    assert not set(pids) & set(proxy_pids(tuned.state_dir))
    assert read(tuned.client.stream("Generator", "again", 2))


def proxy_pids(state_dir) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if b"swerve.proxy.process" in words and any(word.startswith(str(state_dir).encode()) for word in words):
                found.append(int(entry))
    return found
