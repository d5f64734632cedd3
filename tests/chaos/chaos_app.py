"""The application under chaos: every kind of handler, each of which records durably that it began and that it ended.

A record is one `write` to a file of the process: it is in the system's memory from then on, and outlives SIGKILL.
"""

import asyncio
import os
import time

import numpy
from probe_pb2 import Note

import swerve as serve

# How long a handler takes, and how long one that blocks its event loop does.
WORK_S = 0.02
BLOCK_S = 0.1
# Bytes of an argument that is lent instead of sent.
LARGE = 2 << 20


class Journal:
    """The records of this process, in the folder that CHAOS_JOURNAL names."""

    def __init__(self, part: str) -> None:
        self._part = part
        path = os.path.join(os.environ["CHAOS_JOURNAL"], f"{os.getpid()}.{part}")
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, call: str) -> None:
        os.write(self._file, f"{self._part} {event} {call} {os.getpid()}\n".encode())


@serve.deployment(num_replicas=2, max_ongoing_requests=8, graceful_shutdown_timeout_s=10, health_check_period_s=1)
class Back:
    def __init__(self) -> None:
        self.journal = Journal("back")

    async def work(self, call: str, load: numpy.ndarray | None = None) -> str:
        self.journal.write("began", call)
        await asyncio.sleep(WORK_S)
        self.journal.write("ended", call)
        return call if load is None or load.sum(dtype=int) == LARGE else "a part was lost"


@serve.deployment(num_replicas=3, max_ongoing_requests=8, graceful_shutdown_timeout_s=10, health_check_period_s=1)
class Front:
    def __init__(self, back) -> None:
        self.back = back
        self.journal = Journal("front")

    def reconfigure(self, config) -> None:
        pass

    def __call__(self, note: Note) -> Note:
        """In a thread."""
        self.journal.write("began", note.text)
        time.sleep(WORK_S)
        self.journal.write("ended", note.text)
        return Note(text=note.text)

    async def Unary(self, note: Note) -> Note:
        self.journal.write("began", note.text)
        answer = await getattr(self, note.payload.decode())(note.text)
        self.journal.write("ended", note.text)
        return Note(text=answer)

    async def quick(self, call: str) -> str:
        await asyncio.sleep(WORK_S)
        return call

    async def blocking(self, call: str) -> str:
        """Holds up its event loop: what is sent to this replica meanwhile waits in its socket."""
        time.sleep(BLOCK_S)  # noqa: ASYNC251 (to block is what it is for)
        return call

    async def composed(self, call: str) -> str:
        return await self.back.work.remote(call)

    async def large(self, call: str) -> str:
        return await self.back.work.remote(call, numpy.ones(LARGE, numpy.uint8))

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.02)
    async def batched(self, calls: list[str]) -> list[str]:
        for call in calls:
            self.journal.write("joined", call)
        await asyncio.sleep(WORK_S)
        return calls

    async def Stream(self, note: Note):
        self.journal.write("began", note.text)
        for number in range(note.number):
            yield Note(text=note.text, number=number)
            await asyncio.sleep(WORK_S / 4)
        self.journal.write("ended", note.text)

    async def Collect(self, notes, grpc_context) -> Note:
        call = request_id(grpc_context)
        self.journal.write("began", call)
        total = 0
        async for note in notes:
            total += note.number
        self.journal.write("ended", call)
        return Note(text=call, number=total)

    async def Chat(self, notes, grpc_context):
        call = request_id(grpc_context)
        self.journal.write("began", call)
        async for note in notes:
            yield note
        self.journal.write("ended", call)


def request_id(grpc_context) -> str:
    return dict(grpc_context.invocation_metadata())["request_id"]


app = Front.bind(Back.bind())
