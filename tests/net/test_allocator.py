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
    copies = [b"x" * (8 << 20) for _ in range(int(sys.argv[2]))]
    del copies
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")


def pages(copies: int) -> int:
    return 20 * copies * (8 << 20) // 4096


def page_faults(how: str, copies: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, str(copies)], capture_output=True, check=True, timeout=60
    )
    return int(done.stdout)


def test_freed_memory_is_used_again_without_asking_the_system():
    assert page_faults("kept", 4) < pages(4) / 100


def test_of_more_than_is_kept_most_is_used_again():
    assert page_faults("kept", 10) < pages(10) / 2
