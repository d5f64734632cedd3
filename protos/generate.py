"""Regenerate `src/swerve/generated` from the .proto files beside this script: `python protos/generate.py`.

Run it with `grpcio-tools==1.72.*`: generated code works with its own major version of protobuf and the next one, so
an older compiler keeps the range of protobuf releases that Swerve installs with wide.

Each file lives in a descriptor pool of its own: `serve.proto` keeps Ray Serve's full names and must not clash with
Ray's stubs in one process, and a user's own `control.proto` must not clash with ours.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).parent
OUT = PROTOS.parent / "src" / "swerve" / "generated"

SOURCES = {
    "serve": (PROTOS / "ray_serve", "serve.proto"),
    "control": (PROTOS / "swerve" / "control" / "v1", "control.proto"),
    "http": (PROTOS / "swerve" / "control" / "v1", "http.proto"),
}


def generate(name: str, folder: Path, proto: str, out: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}"]
    command += [f"--python_out={out}", f"--pyi_out={out}"]
    if name == "serve":
        command.append(f"--grpc_python_out={out}")
    subprocess.run([*command, proto], check=True)


def main() -> None:
    for name, (folder, proto) in SOURCES.items():
        with tempfile.TemporaryDirectory() as scratch:
            generate(name, folder, proto, Path(scratch))
            for made in sorted(Path(scratch).iterdir()):
                text = made.read_text()
                text = text.replace("import serve_pb2 as", "from swerve.generated import serve_pb2 as")
                if made.name.endswith("_pb2.py"):
                    text = text.replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()")
                (OUT / made.name).write_text(text)


if __name__ == "__main__":
    main()
