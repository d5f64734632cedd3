"""Clients: real grpcio channels that make calls of every kind, and remember how each of them ended."""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace

import grpc

APP = "chaos"
# What a call may take, and how much longer its end may need before it counts as one that hangs.
DEADLINE_S = 30.0
HANG_S = DEADLINE_S + 10.0
STREAM_LENGTH = 5
_CHANNELS = 4
_CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    # A client that has lost its proxy looks for the next one soon.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]
# A client that was refused does not ask again at once.
_PAUSE_S = 0.05
# What grpc.aio makes, with the code INTERNAL, of a call that ended while a message was being written; the code that it
# ended with is lost then.
_BROKEN_WRITE = "Internal error from Core"


class WrongAnswer(Exception):
    """The answer is not that of this call."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. `code` is a status code's name, HANG or WRONG; times are `time.monotonic()` seconds."""

    call: str
    kind: str
    code: str
    details: str
    began: float
    ended: float


class Load:
    """So many clients at a time, from `start` to `stop`, on an event loop in a thread of its own."""

    def __init__(self, address: str, probe: SimpleNamespace, clients: int, seed: int, prefix: str) -> None:
        self.outcomes: list[Outcome] = []
        self._address = address
        self._probe = probe
        self._clients = clients
        # Begins the names of its calls.
        self._prefix = prefix
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Make no more calls, and wait for the end of those that were made."""
        self._stop.set()
        self._thread.join(HANG_S + 10)
        assert not self._thread.is_alive(), "the clients did not end"

    async def _run(self) -> None:
        channels = [grpc.aio.insecure_channel(self._address, options=_CHANNEL_OPTIONS) for _ in range(_CHANNELS)]
        stubs = [self._probe.rpc.ProbeStub(channel) for channel in channels]
        await asyncio.gather(*(self._client(stubs[number % _CHANNELS]) for number in range(self._clients)))
        for channel in channels:
            await channel.close()

    async def _client(self, stub: object) -> None:
        kinds = list(KINDS)
        while not self._stop.is_set():
            outcome = await self._call(stub, self._random.choice(kinds), f"{self._prefix}{next(self._numbers)}")
            self.outcomes.append(outcome)
            if outcome.code != "OK":
                await asyncio.sleep(_PAUSE_S)

    async def _call(self, stub: object, kind: str, call: str) -> Outcome:
        began = time.monotonic()
        code, details = "OK", ""
        try:
            async with asyncio.timeout(HANG_S):
                await KINDS[kind](stub, self._probe.pb.Note, call)
        except grpc.aio.AioRpcError as error:
            code, details = error.code().name, error.details() or ""
            if details == _BROKEN_WRITE:
                code = "UNAVAILABLE"
        except WrongAnswer as error:
            code, details = "WRONG", str(error)
        except TimeoutError:
            code, details = "HANG", f"no end within {HANG_S} s"
        return Outcome(call, kind, code, details, began, time.monotonic())


def _check(call: str, expected: object, came: object) -> None:
    if came != expected:
        raise WrongAnswer(f"{call}: expected {expected}, came {came}")


def _options(call: str) -> dict[str, object]:
    return {
        "timeout": DEADLINE_S,
        "metadata": (("application", APP), ("request_id", call)),
        "wait_for_ready": True,
    }


async def _plain(stub, note, call: str) -> None:
    answer = await stub.__call__(note(text=call), **_options(call))
    _check(call, call, answer.text)


def _unary(how: bytes) -> Callable[..., Awaitable[None]]:
    async def ask(stub, note, call: str) -> None:
        answer = await stub.Unary(note(text=call, payload=how), **_options(call))
        _check(call, call, answer.text)

    return ask


async def _stream(stub, note, call: str) -> None:
    numbers = [answer.number async for answer in stub.Stream(note(text=call, number=STREAM_LENGTH), **_options(call))]
    _check(call, list(range(STREAM_LENGTH)), numbers)


async def _collect(stub, note, call: str) -> None:
    async def notes():
        for number in range(STREAM_LENGTH):
            yield note(text=call, number=number)
            await asyncio.sleep(0.005)

    answer = await stub.Collect(notes(), **_options(call))
    _check(call, (call, sum(range(STREAM_LENGTH))), (answer.text, answer.number))


async def _chat(stub, note, call: str) -> None:
    talk = stub.Chat(**_options(call))
    for number in range(STREAM_LENGTH):
        await talk.write(note(text=call, number=number))
        answer = await talk.read()
        if answer is grpc.aio.EOF:
            # The status says why.
            break
        _check(call, number, answer.number)
    await talk.done_writing()
    if await talk.code() != grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            await talk.code(), await talk.initial_metadata(), await talk.trailing_metadata(), await talk.details()
        )


KINDS: dict[str, Callable[..., Awaitable[None]]] = {
    "thread": _plain,
    "quick": _unary(b"quick"),
    "blocking": _unary(b"blocking"),
    "composed": _unary(b"composed"),
    "large": _unary(b"large"),
    "batched": _unary(b"batched"),
    "stream": _stream,
    "collect": _collect,
    "chat": _chat,
}
