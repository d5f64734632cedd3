"""A network with nothing but a loopback interface, for servers that cannot be told to stay on it.

A Ray node listens on every interface, and whoever reaches it can run code on it. In a network namespace of its own
nobody reaches it.
"""

import os
import shutil
import subprocess
import sys

INSIDE = "BENCHMARKS_ON_LOOPBACK"
# `--map-root-user` lets an ordinary user make the namespace and bring its interface up.
UNSHARE = ("unshare", "--map-root-user", "--net")
SCRIPT = 'ip link set lo up && exec "$@"'


def isolate() -> None:
    """Start this program again in such a network; go on where the system does not allow it, after a warning."""
    if os.environ.get(INSIDE):
        return
    if not possible():
        print("warning: `unshare --net` is not possible here; Ray will listen on every interface", file=sys.stderr)
        return
    os.environ[INSIDE] = "1"
    os.execvp(
        "unshare", [*UNSHARE, "sh", "-c", SCRIPT, "sh", sys.executable, "-m", "benchmarks.compare", *sys.argv[1:]]
    )


def possible() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run([*UNSHARE, "sh", "-c", SCRIPT, "sh", "true"], capture_output=True).returncode == 0
