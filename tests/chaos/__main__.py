"""The long form: `python -m tests.chaos --minutes 30 --seed 7`."""

import argparse
import importlib
import random
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.chaos import report
from tests.chaos.campaign import run
from tests.conftest import compiled_protos


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos", description="Kill every process again and again under load.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None, help="chooses the faults; a random one is printed")
    parser.add_argument("--output", type=Path, default=Path("build/chaos"), help="where the report goes")
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    with compiled_protos():
        probe = SimpleNamespace(
            pb=importlib.import_module("probe_pb2"),
            rpc=importlib.import_module("probe_pb2_grpc"),
            add="probe_pb2_grpc.add_ProbeServicer_to_server",
        )
        keep = arguments.output / f"chaos-{seed}-folder"
        result = run(arguments.minutes * 60, seed, probe, lambda line: print(line, flush=True), keep)
    print(f"{report.write(result, arguments.output)}\n{report.text(result)}")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
