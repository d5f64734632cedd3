"""Calls every RPC of the tea house with stubs made by grpcio-tools: `python client.py localhost:9000`.

Prints what came back; ends with code 1 if an answer is not the expected one.
"""

import sys
from collections.abc import Callable
from typing import Any

import grpc
from tea_pb2 import Order, Taste
from tea_pb2_grpc import TeaHouseStub

from swerve.generated.serve_pb2 import HealthzRequest, ListApplicationsRequest
from swerve.generated.serve_pb2_grpc import RayServeAPIServiceStub

TIMEOUT_S = 30
ORDER = Order(guest="Ada", tea="sencha", cups=3)


def unary(stub: TeaHouseStub) -> list[Any]:
    cup, call = stub.__call__.with_call(ORDER, timeout=TIMEOUT_S)
    return [call.code().name, cup.text, cup.number]


def multiplexing(stub: TeaHouseStub) -> list[Any]:
    metadata = [("request_id", "order-7"), ("multiplexed_model_id", "genmaicha")]
    cup, call = stub.Multiplexing.with_call(Taste(), metadata=metadata, timeout=TIMEOUT_S)
    return [cup.text, dict(call.trailing_metadata())["request_id"]]


def streaming(stub: TeaHouseStub) -> list[Any]:
    return [cup.number for cup in stub.Streaming(ORDER, timeout=TIMEOUT_S)]


def composition(stub: TeaHouseStub) -> list[Any]:
    receipt, call = stub.Bill.with_call(ORDER, metadata=[("application", "tea")], timeout=TIMEOUT_S)
    return [receipt.text, receipt.cents, dict(call.trailing_metadata())["currency"]]


def status(stub: TeaHouseStub) -> list[Any]:
    try:
        stub.Bill(Order(tea="coffee"), timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["no error"]


EXPECTED: list[tuple[str, Callable[[TeaHouseStub], list[Any]], list[Any]]] = [
    ("TeaHouse/__call__", unary, ["OK", "sencha for Ada", 3]),
    ("TeaHouse/Multiplexing", multiplexing, ["genmaicha, steeped for three minutes", "order-7"]),
    ("TeaHouse/Streaming", streaming, [1, 2, 3]),
    ("TeaHouse/Bill", composition, ["3 x sencha", 1050, "EUR"]),
    ("TeaHouse/Bill, no such tea", status, ["NOT_FOUND", "there is no coffee today"]),
]


def main(address: str) -> int:
    wrong = 0
    with grpc.insecure_channel(address) as channel:
        health = RayServeAPIServiceStub(channel)
        listed = health.ListApplications(ListApplicationsRequest(), timeout=TIMEOUT_S).application_names
        wrong += report("RayServeAPIService/ListApplications", list(listed), ["tea"])
        wrong += report(
            "RayServeAPIService/Healthz", [health.Healthz(HealthzRequest(), timeout=TIMEOUT_S).message], ["success"]
        )
        stub = TeaHouseStub(channel)
        for name, call, expected in EXPECTED:
            wrong += report(name, call(stub), expected)
    return 1 if wrong else 0


def report(name: str, got: list[Any], expected: list[Any]) -> bool:
    """Print one call's answer; true if it is wrong."""
    print(f"{name:36} {got}")
    if got != expected:
        print(f"{'':36} wrong, expected {expected}")
    return got != expected


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:9000"))
