"""What goes over the wire to a robot: msgpack with numpy arrays, as openpi's `msgpack_numpy` writes them.

An array is the map {b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": (..)}, a numpy scalar the map
{b"__npgeneric__": True, b"data": number, b"dtype": ..}. Only booleans, integers and floats pass, in both directions: an
array of objects would need pickle, which runs what the sender likes. Sizes are bounded before anything is allocated.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from kiban.artifacts.errors import KibanError

DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
MOST_DIMENSIONS = 8
MOST_ITEMS, MOST_KEYS, MOST_TEXT = 4096, 256, 1 << 16  # of a list, of a map, of a text in bytes


class WireError(KibanError):
    """A message that is not what this file describes."""


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and not DTYPE.fullmatch(value.dtype.str):
        raise WireError(f"dtype {value.dtype}: only booleans, integers and floats are sent; convert the array first")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise WireError(f"{type(value).__name__}: is not sent; send numbers, texts, lists, maps and arrays")


def pack(value: Any) -> bytes:
    """Raises WireError for what may not be sent: objects, complex numbers, arrays of texts or of records."""
    try:
        packed: bytes = msgpack.packb(value, default=_encoded)
    except (ValueError, OverflowError) as error:
        raise error if isinstance(error, WireError) else WireError(f"cannot be packed: {error}") from None
    return packed


def _decoded(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        dtype, shape, data = _dtype(value), value.get(b"shape"), value.get(b"data")
        if not isinstance(shape, list | tuple) or len(shape) > MOST_DIMENSIONS:
            raise WireError(f"an array's shape is a list of at most {MOST_DIMENSIONS} numbers")
        if not all(type(size) is int and size >= 0 for size in shape):
            raise WireError(f"an array's shape is {list(shape)}; give whole numbers")
        wanted = math.prod(shape) * dtype.itemsize
        if not isinstance(data, bytes) or len(data) != wanted:
            held = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
            raise WireError(f"an array of shape {list(shape)} and dtype {dtype.str} has {held} for {wanted} bytes")
        return np.ndarray(tuple(shape), dtype, data)
    if b"__npgeneric__" in value:
        number = value.get(b"data")
        if not isinstance(number, bool | int | float):
            raise WireError("a numpy scalar holds no number")
        try:
            return _dtype(value).type(number)
        except (OverflowError, ValueError):
            raise WireError(f"{number} does not fit {_dtype(value).str}") from None
    if any(isinstance(key, bytes) for key in value):
        raise WireError("a key is bytes, and it is no array; write keys as texts")
    return value


def _dtype(value: dict[Any, Any]) -> np.dtype[Any]:
    name = value.get(b"dtype")
    if not isinstance(name, str) or not DTYPE.fullmatch(name):
        raise WireError(f"dtype {str(name)[:40]!r}: only booleans, integers and floats are taken")
    return np.dtype(name)


def _refuse_extension(code: int, data: bytes) -> Any:
    raise WireError(f"msgpack extension type {code}: is not taken")


def unpack(message: bytes) -> Any:
    """The value of `message`; its arrays are views of it that cannot be written to.

    Raises:
        WireError: if it is not msgpack, is cut short, or holds anything but numbers, texts, lists, maps and arrays.
    """
    hook: Callable[[dict[Any, Any]], Any] = _decoded
    try:
        return msgpack.unpackb(
            message,
            object_hook=hook,
            ext_hook=_refuse_extension,
            max_array_len=MOST_ITEMS,
            max_map_len=MOST_KEYS,
            max_str_len=MOST_TEXT,
            max_ext_len=0,
        )
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"not a msgpack message ({str(error)[:80] or type(error).__name__})") from None
