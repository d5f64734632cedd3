"""How the C library's allocator treats what large messages free."""

from __future__ import annotations

import ctypes

# <malloc.h>, of glibc.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
# The most that glibc takes (its HEAP_MAX_SIZE / 2). Larger blocks get a mapping of their own.
_FROM_HEAP = 32 << 20


def keep_freed_memory(at_most: int) -> None:
    """Have this process reuse the memory of large messages instead of returning it to the system each time.

    By default glibc gives back a block of more than 128 KiB as soon as it is free, and the next message finds each page
    of its memory absent: a page fault, and 4 KiB to be zeroed by the system, for every 4 KiB that are copied. At
    most `at_most` free bytes at the end of the heap stay with the process. Of more than that a quarter goes with the
    excess, not all as by default: a burst that needs a little more than is kept would pay for each page of it every
    time. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, at_most)
        mallopt(_M_TOP_PAD, at_most * 3 // 4)
