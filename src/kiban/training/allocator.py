"""The C library's memory allocator, told to keep what training frees: every step asks for the same again."""

import ctypes
import sys

# glibc, malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_MOST_MMAP_THRESHOLD = 32 * 1024**2  # glibc takes no more
_GROWTH = 256 * 1024**2


def keep_freed_memory() -> None:
    """For the whole process, from now on. Without effect where the C library is not glibc.

    By default glibc gives large blocks back to the system as they are freed, and each is paged in anew, zeroed, when it
    is next asked for: a tenth to a sixth of a step on a CPU. Threads get no heaps of their own, which would be small.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    for parameter, value in (
        (_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD),
        (_TRIM_THRESHOLD, 2**31 - 1),
        (_TOP_PAD, _GROWTH),
        (_ARENA_MAX, 1),
    ):
        mallopt(parameter, value)
