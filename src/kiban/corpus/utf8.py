"""UTF-8 bytes of Arrow string arrays, for kernels that read them in place."""

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


@numba.njit(inline="always")
def decode(data: Any, i: int) -> Any:
    """The code point at byte `i` of valid UTF-8, and its length in bytes."""
    first = data[i]
    if first < 0x80:
        return np.int64(first), np.int64(1)
    if first < 0xE0:
        return np.int64((first & 0x1F) << 6 | (data[i + 1] & 0x3F)), np.int64(2)
    if first < 0xF0:
        high = np.int64(first & 0x0F) << 12
        return high | np.int64(data[i + 1] & 0x3F) << 6 | np.int64(data[i + 2] & 0x3F), np.int64(3)
    high = np.int64(first & 0x07) << 18 | np.int64(data[i + 1] & 0x3F) << 12
    return high | np.int64(data[i + 2] & 0x3F) << 6 | np.int64(data[i + 3] & 0x3F), np.int64(4)


@numba.njit(nogil=True)
def longest(offsets: Any) -> int:
    """Bytes of the longest of the texts."""
    most = 0
    for d in range(len(offsets) - 1):
        most = max(most, offsets[d + 1] - offsets[d])
    return most


@numba.njit(inline="always")
def slots_for(count: int) -> int:
    """How many slots a hash table of so many entries has: a power of two, at least twice as many."""
    slots = 32
    while slots < 2 * count:
        slots *= 2
    return slots


def buffers(texts: "pa.StringArray") -> tuple[np.ndarray, np.ndarray]:
    """Offsets (N + 1, int32) and bytes (uint8) of an array of N strings without nulls, not copied."""
    assert texts.null_count == 0
    _, offsets, data = texts.buffers()
    starts = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else _NONE
    return starts, np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)


_NONE = np.zeros(1, np.int32)


def strings(offsets: np.ndarray, data: np.ndarray) -> "pa.StringArray":
    """The array of strings with these offsets (N + 1, int32) and UTF-8 bytes."""
    import pyarrow as pa

    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
