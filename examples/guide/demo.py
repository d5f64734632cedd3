"""`make demo`: compile the stubs, start Swerve with the tea house, call every RPC of it, shut down."""

import subprocess
import sys
import time
from pathlib import Path

from examples.support import compile_proto, environment, running

HERE = Path(__file__).parent
BUILD = HERE / "build"
SERVICER = "tea_pb2_grpc.add_TeaHouseServicer_to_server"


def main() -> int:
    compile_proto(HERE / "tea.proto", BUILD)
    path = [HERE, BUILD]
    began = time.monotonic()
    with running("app:app", servicers=[SERVICER], path=path, options=["--name", "tea"]) as swerve:
        print(f"Swerve serves the tea house at {swerve.address}, {time.monotonic() - began:.2f} s after the command.\n")
        code = subprocess.run(
            [sys.executable, str(HERE / "client.py"), swerve.address], env=environment(path), timeout=120
        ).returncode
    print("\nSwerve has shut down." if code == 0 else "\nAn answer was wrong.")
    return code


if __name__ == "__main__":
    sys.exit(main())
