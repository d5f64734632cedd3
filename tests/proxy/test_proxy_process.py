"""The parts of the proxy process that need no process."""

import asyncio
import json
import socket

from swerve.caller import queues
from swerve.generated import control_pb2 as pb
from swerve.proxy.forward import CLIENT_WINDOW
from swerve.proxy.ingress import Ingress
from swerve.proxy.ports import Ports
from swerve.proxy.process import Proxy

INNER = pb.View(deployments=[pb.DeploymentView(app="app", name="Inner", autoscaled=True)])


def test_an_autoscaled_deployment_that_is_no_ingress_has_no_queue_here():
    async def ask():
        proxy = Proxy(pb.ProxySpec(controller_address="unix:/nowhere"), asyncio.get_running_loop())
        assert proxy._queue("app", "Inner", "") is None
        proxy._ingress = Ingress(asyncio.get_running_loop(), None)
        return proxy._queue("app", "Inner", "")

    assert asyncio.run(ask()) is None


def test_clients_get_the_window_that_bounds_waiting_calls():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"host": "127.0.0.1", "port": port}
    view = pb.View(
        options=pb.InstanceOptions(
            grpc_options_json=json.dumps(options), grpc_methods=[pb.GrpcMethod(path="/t.S/M")], num_proxies=1
        )
    )

    async def serve():
        loop = asyncio.get_running_loop()
        ports = Ports(Ingress(loop, None), None, None, shared=False)
        assert await ports.serve(view)
        assert ports.grpc_address == f"127.0.0.1:{port}"
        window = ports._grpc.listener._options.limits.stream_window
        await ports.drain(0, linger=False)
        return window

    assert asyncio.run(serve()) == CLIENT_WINDOW


def test_a_fault_in_a_queue_report_is_logged_once_and_the_next_one_is_sent(caplog, monkeypatch):
    monkeypatch.setattr(queues, "_INTERVAL_S", 0)
    faults = [KeyError("app")] * 3
    sent = []

    class Queue:
        queued = 2

    class Controller:
        async def report_queues(self, request):
            sent.append(request.queues[0].queued)

    def find(app, deployment, release):
        if faults:
            raise faults.pop()
        return Queue()

    async def report():
        reporter = queues.QueueReporter(Controller(), "proxy", "p", find)
        reporter.update(INNER)
        async with asyncio.timeout(20):
            while not sent:  # noqa: ASYNC110 (the reporter's timer is the event)
                await asyncio.sleep(0.001)
        reporter.close()

    asyncio.run(report())
    assert sent[0] == 2
    (record,) = caplog.records
    assert "Queue lengths cannot be reported" in record.getMessage()
