"""What the C library does with the memory of large messages."""

import platform
import subprocess
import sys

import pytest

# The life of a large message, over and over: memory for its copies is taken, written to and freed.
PROGRAM = """
import resource, sys
from swerve.net.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory(64 << 20)
for turn in range(23):
    if turn == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    copies = [b"x" * (8 << 20) for _ in range(4)]
    del copies
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 20 * 4 * (8 << 20) // 4096


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_used_again_without_asking_the_system():
    assert page_faults("kept") < PAGES / 100
