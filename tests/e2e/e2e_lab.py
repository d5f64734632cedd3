"""The applications that the end-to-end tests call."""

import array
import asyncio
import builtins
import json
import os
import threading
import time

from probe_pb2 import Note

import swerve as serve
from swerve.context import _get_serve_request_context


class Odd(Exception):
    """An exception with a constructor and a state of its own."""

    def __init__(self, number: int, *, reason: str = "none") -> None:
        super().__init__(number)
        self.number = number
        self.reason = reason


def _step(name, arguments, context):
    """One step of a script, other than those that wait or give a message."""
    match name:
        case "code":
            context.set_code(arguments[0])
        case "details":
            context.set_details(arguments[0])
        case "trailing":
            context.set_trailing_metadata([tuple(pair) for pair in arguments[0]])
        case "initial":
            context.send_initial_metadata([tuple(pair) for pair in arguments[0]])
        case "compression":
            context.set_compression(arguments[0])
        case "abort":
            context.abort(*arguments)
        case "raise":
            raise _exception(*arguments)
        case _:
            raise AssertionError(name)


def _exception(kind, *arguments):
    from swerve import exceptions

    return (getattr(builtins, kind, None) or getattr(exceptions, kind))(*arguments)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _answer(arguments):
    match arguments:
        case ["None"]:
            return None
        case ["str"]:
            return "a string"
        case [text]:
            return Note(text=text)
        case [text, size]:
            return Note(text=text, payload=b"x" * size)
    return Note(text="done")


class Gauge:
    """How many run at a time here, and how many did at most."""

    def __init__(self):
        self.lock = threading.Lock()
        self.now = self.most = self.calls = 0

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.calls += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *exception):
        with self.lock:
            self.now -= 1


@serve.deployment
class Helper:
    """What the lab calls."""

    def __init__(self):
        self.events = []

    async def __call__(self, value):
        return value

    def plain(self, value):
        return value

    async def fail(self, number):
        raise Odd(number, reason="asked to")

    def big(self, value):
        return array.array("B", value)

    async def wait(self, key, seconds):
        self.events.append(f"started {key}")
        try:
            await asyncio.sleep(seconds)
            self.events.append(f"ended {key}")
        except asyncio.CancelledError:
            self.events.append(f"cancelled {key}")
            raise

    async def seen(self):
        return self.events

    async def request(self):
        context = _get_serve_request_context()
        left = None if context.deadline is None else context.deadline - time.monotonic()
        return {"request_id": context.request_id, "app": context.app_name, "left": left}

    async def count(self, n):
        for i in range(n):
            yield i


@serve.deployment(max_ongoing_requests=100, graceful_shutdown_timeout_s=2)
class Lab:
    """Every kind of handler."""

    def __init__(self, helper=None):
        self.helper = helper
        self.events = []
        self.gates = {}
        self.gauge = Gauge()

    def __call__(self, note: Note) -> Note:
        return Note(text=f"Hello {note.text}", number=note.number * 2)

    def Plain(self, note: Note) -> Note:
        return Note(text=f"{note.text} in {_in_main_thread()}", payload=note.payload)

    async def Coroutine(self, note: Note) -> Note:
        with self.gauge:
            await asyncio.sleep(note.number / 1000)
        return Note(text=f"{note.text} in {_in_main_thread()}", payload=note.payload, number=self.gauge.most)

    def Generator(self, note: Note):
        self.events.append(f"started {note.text}")
        try:
            for i in range(note.number):
                yield Note(text=note.text, number=i, payload=note.payload)
                self.events.append(f"yielded {i} {note.text}")
                time.sleep(0.05)
        finally:
            self.events.append(f"closed {note.text}")

    async def AsyncGenerator(self, note: Note):
        self.events.append(f"started {note.text}")
        try:
            for i in range(note.number):
                yield Note(text=note.text, number=i, payload=note.payload)
                self.events.append(f"yielded {i} {note.text}")
                await self._gate(f"{note.text}/{i}") if note.text.startswith("gated") else None
        finally:
            self.events.append(f"closed {note.text}")

    async def Blocking(self, note: Note):
        """Computes on the event loop, as models often do."""
        for i in range(note.number):
            yield Note(number=i, payload=str(time.monotonic()).encode())
            time.sleep(0.3)  # noqa: ASYNC251 (this is what it is for)

    async def Total(self, notes) -> Note:
        """The sum. A note "slow/key" waits for its gate; "enough" ends the call early."""
        total = count = 0
        key = ""
        try:
            async for note in notes:
                key = note.text or key
                self.events.append(f"got {note.number} {key}")
                total += note.number
                count += 1
                if note.text.startswith("slow"):
                    await self._gate(note.text)
                if note.text == "enough":
                    return Note(text="early", number=total)
        except asyncio.CancelledError:
            self.events.append(f"cancelled {key}")
            raise
        self.events.append(f"complete {key}")
        return Note(text=f"{count} notes, exhausted {notes.is_exhausted}", number=total)

    async def Talk(self, notes):
        key = ""
        try:
            async for note in notes:
                key = note.text
                yield Note(text=f"echo {note.text}", number=note.number)
            yield Note(text="goodbye")
            self.events.append(f"complete {key}")
        except asyncio.CancelledError:
            self.events.append(f"cancelled {key}")
            raise

    # --- scripts -----------------------------------------------------------------------------------------------------

    async def Script(self, note: Note, grpc_context) -> Note:
        for name, *arguments in json.loads(note.text):
            if name == "sleep":
                await asyncio.sleep(*arguments)
            elif name == "return":
                return _answer(arguments)
            else:
                _step(name, arguments, grpc_context)
        return Note(text="done")

    def ScriptPlain(self, note: Note, grpc_context) -> Note:
        for name, *arguments in json.loads(note.text):
            if name == "sleep":
                time.sleep(*arguments)
            elif name == "return":
                return _answer(arguments)
            else:
                _step(name, arguments, grpc_context)
        return Note(text="done")

    async def ScriptStream(self, note: Note, grpc_context):
        for name, *arguments in json.loads(note.text):
            if name == "sleep":
                await asyncio.sleep(*arguments)
            elif name == "return":
                yield _answer(arguments)
            else:
                _step(name, arguments, grpc_context)

    def ScriptGenerator(self, note: Note, grpc_context):
        for name, *arguments in json.loads(note.text):
            if name == "sleep":
                time.sleep(*arguments)
            elif name == "return":
                yield _answer(arguments)
            else:
                _step(name, arguments, grpc_context)

    # --- looking in --------------------------------------------------------------------------------------------------

    async def Events(self, note: Note) -> Note:
        """The events that name the text; those of the helper if the number is not 0."""
        events = await self.helper.seen.remote() if note.number else self.events
        return Note(text=json.dumps([event for event in events if note.text in event]))

    async def Describe(self, note: Note, grpc_context) -> Note:
        metadata = [
            (key, value if isinstance(value, str) else list(value)) for key, value in grpc_context.invocation_metadata()
        ]
        context = serve.get_replica_context()
        return Note(
            text=json.dumps(
                {
                    "metadata": metadata,
                    "peer": grpc_context.peer(),
                    "request_id": grpc_context.request_id(),
                    "context_request_id": _get_serve_request_context().request_id,
                    "application": grpc_context.application(),
                    "model": grpc_context.multiplexed_model_id(),
                    "code": grpc_context.code(),
                    "details": grpc_context.details(),
                    "trailing": grpc_context.trailing_metadata(),
                    "left": grpc_context.time_remaining(),
                    "identities": grpc_context.peer_identities(),
                    "identity_key": grpc_context.peer_identity_key(),
                    "auth": {key: [v.decode() for v in values] for key, values in grpc_context.auth_context().items()},
                    "replica": context.replica_tag,
                    "deployment": context.deployment,
                    "app": context.app_name,
                    "pid": os.getpid(),
                }
            )
        )

    def _gate(self, key):
        return asyncio.wait_for(self.gates.setdefault(key, asyncio.Event()).wait(), 30)

    async def Hold(self, note: Note) -> Note:
        """Wait until the text is released; with a number other than 0 by way of the helper, for that many seconds."""
        self.events.append(f"started {note.text}")
        try:
            if note.number:
                await self.helper.wait.remote(note.text, note.number)
            else:
                await self._gate(note.text)
        except asyncio.CancelledError:
            self.events.append(f"cancelled {note.text}")
            raise
        self.events.append(f"ended {note.text}")
        return note

    async def Release(self, note: Note) -> Note:
        self.gates.setdefault(note.text, asyncio.Event()).set()
        return note

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.5)
    async def Batched(self, notes: list[Note]) -> list[Note]:
        return [Note(text=note.text, number=len(notes)) for note in notes]

    # --- composition -------------------------------------------------------------------------------------------------

    async def Compose(self, note: Note) -> Note:
        helper = self.helper
        match note.text:
            case "value":
                return Note(number=await helper.remote(note.number))
            case "nested":
                return Note(number=await helper.plain.remote(helper.remote(note.number)))
            case "message":
                return await helper.remote(note)
            case "stream":
                return Note(number=sum([i async for i in helper.options(stream=True).count.remote(note.number)]))
            case "big":
                returned = await helper.big.remote(bytes(note.number))
                return Note(number=len(returned), text=type(returned).__name__)
            case "caught":
                try:
                    await helper.fail.remote(note.number)
                except Odd as error:
                    return Note(text=f"{type(error).__name__} {error.number} {error.reason}")
            case "uncaught":
                await helper.fail.remote(note.number)
            case "request":
                return Note(text=json.dumps(await helper.request.remote()))
            case "missing":
                await helper.nothing_of_this_name.remote()
            case "abandon":
                await helper.wait.remote("inherited", 30)
        raise AssertionError(note.text)

    def ComposePlain(self, note: Note) -> Note:
        helper = self.helper
        match note.text:
            case "value":
                return Note(number=helper.remote(note.number).result())
            case "nested":
                return Note(number=helper.remote(helper.plain.remote(note.number)).result())
            case "stream":
                return Note(number=sum(helper.options(stream=True).count.remote(note.number)))
        raise AssertionError(note.text)


@serve.deployment(num_replicas=3, max_ongoing_requests=2)
class Pool:
    """Several replicas with few slots."""

    def __init__(self):
        self.gauge = Gauge()

    def Plain(self, note: Note) -> Note:
        with self.gauge:
            time.sleep(0.005)
        return self._report()

    async def Coroutine(self, note: Note) -> Note:
        with self.gauge:
            await asyncio.sleep(0.005)
        return self._report()

    async def Nap(self, note: Note) -> Note:
        with self.gauge:
            await asyncio.sleep(0.5)
        return self._report()

    async def Hold(self, note: Note) -> Note:
        await asyncio.sleep(30)
        return note

    async def Describe(self, note: Note) -> Note:
        return self._report()

    async def most(self, seconds):
        with self.gauge:
            await asyncio.sleep(seconds)
        return self.gauge.most

    def _report(self):
        return Note(text=serve.get_replica_context().replica_tag, number=self.gauge.most, payload=b"%d" % os.getpid())


@serve.deployment(num_replicas=2, max_ongoing_requests=10)
class Models:
    """Two models a replica."""

    @serve.multiplexed(max_num_models_per_replica=2)
    async def load(self, model_id: str) -> str:
        return f"model {model_id}"

    async def Model(self, note: Note) -> Note:
        model = await self.load(serve.get_multiplexed_model_id())
        return Note(text=f"{model} on {serve.get_replica_context().replica_tag}")


@serve.deployment
class Ranked:
    """Tells request routers its rank, the last one once it has retired."""

    def __init__(self):
        context = serve.get_replica_context()
        self.tag = context.replica_tag
        self.rank = context.rank.rank

    async def Coroutine(self, note: Note) -> Note:
        if note.text == "retire":
            self.rank = 99
        return Note(text=self.tag)

    def who(self) -> str:
        return self.tag

    def ranks(self) -> tuple[int, int, int]:
        rank = serve.get_replica_context().rank
        return rank.rank, rank.node_rank, rank.local_rank

    def record_routing_stats(self):
        return {"rank": self.rank}


@serve.deployment
class Kinds:
    """Handlers of other kinds than their RPCs."""

    def Plain(self, note: Note):
        yield note

    async def Coroutine(self, note: Note):
        yield note

    def Generator(self, note: Note) -> Note:
        return note

    async def AsyncGenerator(self, note: Note) -> Note:
        return note


@serve.deployment
def function(note: Note, grpc_context) -> Note:
    grpc_context.set_trailing_metadata([("kind", "function")])
    return Note(text=f"function got {note.text}")


@serve.deployment
class Configured:
    """Takes a user_config, and fails its health check when that says so."""

    def __init__(self):
        self.made = os.getpid()
        self.greeting = "unset"

    def reconfigure(self, config):
        self.greeting = config["greeting"]

    def __call__(self, note: Note) -> Note:
        return Note(text=self.greeting, number=self.made)


lab = Lab.bind(Helper.bind())
# One call at a time.
narrow = Lab.options(name="Narrow", max_ongoing_requests=1, max_queued_requests=2).bind()
pool = Pool.bind()
models = Models.bind()
func = function.bind()
kinds = Kinds.bind()
configured = Configured.bind()


@serve.deployment(graceful_shutdown_timeout_s=5)
class Answer:
    """Says what it was made with."""

    def __init__(self, text):
        self.text = text

    async def __call__(self, note: Note) -> Note:
        await asyncio.sleep(0.01)
        return Note(text=self.text)


@serve.deployment
class Failing:
    def __init__(self):
        raise OSError("no weights here")

    def __call__(self, note: Note) -> Note:
        return note


@serve.deployment(health_check_period_s=0.1, health_check_timeout_s=5, graceful_shutdown_timeout_s=1)
class Sickly:
    """Falls ill when it is told to."""

    def __init__(self):
        self.ill = False

    def __call__(self, note: Note) -> Note:
        return Note(number=os.getpid())

    def Plain(self, note: Note) -> Note:
        self.ill = True
        return note

    def check_health(self):
        if self.ill:
            raise RuntimeError("I am ill")


@serve.deployment(graceful_shutdown_timeout_s=1)
class Stuck:
    """One replica, whose event loop a call with a payload holds up; the payload is a file that says so."""

    async def __call__(self, note: Note) -> Note:
        if note.payload:
            os.close(os.open(note.payload, os.O_CREAT | os.O_WRONLY))
            time.sleep(60)  # noqa: ASYNC251 (to block is what it is for)
        return Note(text=note.text, number=os.getpid())
