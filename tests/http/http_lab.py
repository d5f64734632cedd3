"""The applications that the HTTP tests call."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI, WebSocket, WebSocketDisconnect
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse

import swerve as serve
from swerve.context import _get_serve_request_context
from swerve.exceptions import BackPressureError


def exists(path):
    return Path(path).exists()


def write(path, text):
    Path(path).write_text(text)


async def wait_for_file(path):
    while not exists(path):  # noqa: ASYNC110 (another process makes it)
        await asyncio.sleep(0.01)


@serve.deployment(max_ongoing_requests=20)
class Plain:
    """Each path shows one behaviour."""

    async def __call__(self, request: Request):
        action = request.url.path.rpartition("/")[2]
        return await getattr(self, f"do_{action}", self.scope)(request)

    async def scope(self, request):
        client = request.client.host if request.client else ""
        keys = ("method", "path", "root_path", "http_version", "scheme")
        query = request.scope["query_string"].decode()
        return {key: request.scope[key] for key in keys} | {"query": query, "client": client}

    async def do_echo(self, request):
        return await request.body()

    async def do_text(self, request):
        return "grüße"

    async def do_response(self, request):
        return PlainTextResponse("teapot", 418, {"x-kind": "own", "x-request-id": "forged"})

    async def do_headers(self, request):
        return request.headers.getlist("x-many")

    async def do_context(self, request):
        context = _get_serve_request_context()
        return {
            "request_id": context.request_id,
            "model_id": serve.get_multiplexed_model_id(),
            "session_id": context.session_id,
            "route": context.route,
            "app": context.app_name,
        }

    async def do_raise(self, request):
        raise ValueError("a secret")

    async def do_overload(self, request):
        raise BackPressureError(3, 2, 429, 1.5)

    async def do_unserializable(self, request):
        return object()

    async def do_generator(self, request):
        return (part for part in "abc")

    async def do_stream(self, request):
        async def parts():
            yield "first"
            await wait_for_file(request.query_params["until"])
            yield "second"

        return StreamingResponse(parts(), media_type="text/plain")

    async def do_flood(self, request):
        self.flooded = 0

        async def parts():
            for _ in range(2000):
                yield b"x" * 50_000
                self.flooded += 50_000

        return StreamingResponse(parts())

    async def do_flooded(self, request):
        return self.flooded

    async def do_break(self, request):
        def parts():
            yield "first"
            raise ValueError("in the middle")

        return StreamingResponse(parts())

    async def do_count(self, request):
        self.counted = 0
        async for chunk in request.stream():
            self.counted += len(chunk)
            if "until" in request.query_params:
                await wait_for_file(request.query_params["until"])
        return self.counted

    async def do_counted(self, request):
        return getattr(self, "counted", 0)

    async def do_hang(self, request):
        note = request.query_params["note"]
        write(note, "started")
        try:
            await asyncio.sleep(float(request.query_params.get("s", 60)))
            write(note, "finished")
        except asyncio.CancelledError:
            write(note, "cancelled")
            raise
        return "done"


@serve.deployment
class Threaded:
    def __call__(self, request: Request):
        time.sleep(float(request.query_params.get("s", 0)))
        return {"main": threading.current_thread() is threading.main_thread(), "id": request.headers["x-request-id"]}


@serve.deployment
def hello():
    return "hello"


@serve.deployment(
    max_ongoing_requests=1, max_queued_requests=1, backpressure_config={"status_code": 429, "retry_after_s": 7}
)
class Narrow:
    async def __call__(self, request: Request):
        await wait_for_file(request.query_params["until"])
        return "done"


@serve.deployment(max_ongoing_requests=1)
class Shared:
    """Its only slot may be taken by a handle, of which the proxy knows nothing."""

    async def __call__(self, request: Request):
        return await request.body()

    async def hold(self, held, until):
        write(held, "")
        await wait_for_file(until)


@asynccontextmanager
async def lifespan(app):
    app.state.started = True
    yield {"color": "blue"}


api = FastAPI(lifespan=lifespan)
router = APIRouter()


def doubled(value: int = 1):
    return 2 * value


@api.get("/free")
def free(request: Request):
    return {"started": request.app.state.started, "color": request.state.color, "url": str(request.url_for("free"))}


@serve.deployment
@serve.ingress(api)
class Shop:
    def __init__(self, price: int):
        self.price = price

    @api.get("/total/{count}")
    def total(self, count: int, value: int = Depends(doubled)):
        return {"total": self.price * count, "value": value}

    @router.get("/inner")
    async def inner(self):
        return self.price

    @api.get("/raise")
    async def fail(self):
        raise ValueError("a secret")

    @api.get("/after")
    async def after(self, path: str):
        async def work():
            await asyncio.sleep(0.05)
            write(path, "done")

        return PlainTextResponse("before", background=BackgroundTask(work))

    @api.post("/items")
    async def items(self, items: list[int]):
        return sum(items)

    @api.websocket("/chat")
    async def chat(self, socket: WebSocket):
        await socket.accept(subprotocol=socket.scope["subprotocols"][0] if socket.scope["subprotocols"] else None)
        while (text := await socket.receive_text()) != "bye":
            await socket.send_text(f"{self.price} {text}")
        await socket.close(4001, "told to")

    @api.websocket("/mirror")
    async def mirror(self, socket: WebSocket):
        await socket.accept()
        await socket.send_bytes(await socket.receive_bytes())

    @api.websocket("/leave")
    async def leave(self, socket: WebSocket, path: str):
        await socket.accept()
        try:
            await socket.receive_text()
        except WebSocketDisconnect as left:
            write(path, f"{left.code} {left.reason}")

    @api.websocket("/trip")
    async def trip(self, socket: WebSocket):
        await socket.accept()
        raise ValueError("a secret")

    @api.websocket("/denied")
    async def denied(self, socket: WebSocket):
        await socket.send_denial_response(PlainTextResponse("teapot", 418))


api.include_router(router, prefix="/sub")


async def bare(scope, receive, send):
    """An ASGI application without lifespan."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1"), (b"x-a", b"2")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


@serve.deployment
@serve.ingress(bare)
class Bare:
    pass


def build():
    made = FastAPI()

    @made.get("/")
    def root():
        return "built"

    return made


@serve.deployment
@serve.ingress(build)
class Built:
    pass


@serve.deployment
@serve.ingress(None)
class SelfBuilt:
    def __init__(self):
        self.word = "mine"

    def __serve_build_asgi_app__(self):
        made = FastAPI()
        made.get("/")(lambda: self.word)
        return made


APPS = {
    "plain": Plain.bind(),
    "threaded": Threaded.bind(),
    "hello": hello.bind(),
    "narrow": Narrow.bind(),
    "shared": Shared.bind(),
    "shop": Shop.bind(price=5),
    "bare": Bare.bind(),
    "built": Built.bind(),
    "selfbuilt": SelfBuilt.bind(),
}
