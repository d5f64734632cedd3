"""The image classification example, as a user runs it: `swerve run`, a gRPC client, a picture behind an HTTP URL."""

import functools
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from examples.support import compile_proto, running

NEEDED = "needs examples/image_classification/requirements.txt, which `make test` installs"
pytest.importorskip("torch", reason=NEEDED)
skimage = pytest.importorskip("skimage", reason=NEEDED)

EXAMPLE = Path(__file__).parents[2] / "examples" / "image_classification"
SERVICER = "images_pb2_grpc.add_ImageClassificationServicer_to_server"
EGYPTIAN_CAT = 285


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def pictures() -> Iterator[str]:
    """The URL of scikit-image's folder of pictures, served on loopback."""
    folder = Path(skimage.__file__).parent / "data"
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[grpc.Channel]:
    compile_proto(EXAMPLE / "images.proto", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with (
        running("app:app", servicers=[SERVICER], path=[EXAMPLE, tmp_path]) as swerve,
        grpc.insecure_channel(swerve.address) as channel,
    ):
        yield channel
    for name in ("images_pb2", "images_pb2_grpc"):
        sys.modules.pop(name, None)


@pytest.mark.timeout(300)  # importing torch and loading the network take long on a busy machine
def test_the_cat_is_an_egyptian_cat(channel: grpc.Channel, pictures: str) -> None:
    from images_pb2 import Picture
    from images_pb2_grpc import ImageClassificationStub

    stub = ImageClassificationStub(channel)
    labels, call = stub.Predict.with_call(Picture(url=f"{pictures}/chelsea.png"), timeout=120)

    assert call.code() is grpc.StatusCode.OK
    assert len(labels.classes) == len(labels.probabilities) == 5
    assert (labels.class_ids[0], labels.classes[0]) == (EGYPTIAN_CAT, "Egyptian cat")
    assert labels.probabilities[0] == pytest.approx(0.7, abs=0.1)
    assert list(labels.probabilities) == sorted(labels.probabilities, reverse=True)
