"""mp4: pictures in, pictures out, and episodes joined or cut apart without encoding anew. With PyAV (`kiban[video]`).

H.264 without B-frames and with every second frame a key frame: every reader has it, any frame is one step from a key
frame, and an episode begins with one, so that it can be cut out as it is. Frame k is shown at k / fps, exactly.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError

CODEC_NAME, PIXEL_FORMAT = "h264", "yuv420p"
OPTIONS = {"g": "2", "bf": "0", "crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "stitchable=1"}

Pictures = NDArray[np.uint8]
Source = Path | IO[bytes]


def av() -> ModuleType:
    """Raises KibanError if PyAV is not installed."""
    try:
        import av
    except ImportError:
        raise KibanError("videos need the package av; install it with `pip install 'kiban[video]'`") from None
    return av


@contextmanager
def _opened(source: Source, what: str) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream.

    Raises:
        KibanError: if it cannot be read as a video, now or later on.
    """
    library = av()
    try:
        with library.open(str(source) if isinstance(source, Path) else source) as container:
            if not container.streams.video:
                raise KibanError(f"{what}: there is no video in it; restore it")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            yield container, stream
    except FileNotFoundError:
        raise KibanError(f"{what}: there is no such file; restore it") from None
    except (library.FFmpegError, OSError) as error:
        raise KibanError(f"{what}: not a whole video ({error}); restore it") from None


def encode(frames: Pictures, fps: int) -> bytes:
    """An mp4 of frames uint8 [frames, height, width, 3].

    Raises:
        KibanError: if a side is odd, which this codec does not have.
    """
    height, width = frames.shape[1:3]
    if height % 2 or width % 2 or frames.shape[-1] != 3:
        raise KibanError(f"pictures of {height}x{width}: a video needs even sides and three colours; record images")
    buffer = io.BytesIO()
    library = av()
    with library.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=OPTIONS)
        stream.height, stream.width, stream.pix_fmt = height, width, PIXEL_FORMAT
        for frame in frames:
            container.mux(stream.encode(library.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def decode(source: Source, first: int, count: int, what: str) -> Pictures:
    """Frames `first` to `first + count` of a video, uint8 [count, height, width, 3].

    Raises:
        KibanError: if the video cannot be read, or ends before.
    """
    pictures: list[Pictures] = []
    with _opened(source, what) as (container, stream):
        rate = stream.average_rate
        container.seek(_ticks(first, rate, stream), stream=stream)
        for frame in container.decode(stream):
            number = _number(frame.pts, rate, stream)
            if number >= first + len(pictures):
                pictures.append(frame.to_ndarray(format="rgb24"))
            if len(pictures) == count:
                return np.stack(pictures)
    raise KibanError(f"{what}: ends after frame {first + len(pictures)}, before frame {first + count}; restore it")


@dataclass(frozen=True)
class Probe:
    """`frames` counts the pictures whose data are there; `fps` is what its frames' times say."""

    frames: int
    fps: Fraction
    height: int
    width: int


def probe(source: Source, what: str) -> Probe:
    """What is in a video; its last pictures are decoded, the others counted.

    Raises:
        KibanError: if it cannot be read, or not to its end.
    """
    with _opened(source, what) as (container, stream):
        times = [packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None]
        promised = stream.frames
        found = Probe(len(times), Fraction(stream.average_rate or 0), stream.height, stream.width)
    if promised and len(times) < promised:
        raise KibanError(f"{what}: {len(times)} of {promised} frames are there: truncated; restore it")
    decode(source, max(found.frames - 2, 0), min(found.frames, 2), what)
    return found


def cut(source: Source, first: int, count: int, what: str) -> bytes:
    """Frames `first` to `first + count` as an mp4 of their own, not encoded anew.

    Raises:
        KibanError: if there is no key frame at `first`, or the video ends before.
    """
    buffer = io.BytesIO()
    with _opened(source, what) as (container, stream):
        rate, start = stream.average_rate, _ticks(first, stream.average_rate, stream)
        end = _ticks(first + count, rate, stream)
        container.seek(start, stream=stream)
        packets = [p for p in container.demux(stream) if p.size and p.pts is not None and start <= p.pts < end]
        if len(packets) != count or not packets[0].is_keyframe or packets[0].pts != start:
            raise KibanError(
                f"{what}: frames {first} to {first + count} cannot be cut out without loss: there are {len(packets)}, "
                "or they do not begin with a key frame"
            )
        with av().open(buffer, "w", format="mp4") as out:
            copied = out.add_stream_from_template(stream, opaque=True)
            for packet in packets:
                packet.pts -= start
                packet.dts -= start
                packet.stream = copied
                out.mux(packet)
    return buffer.getvalue()


class Joined:
    """An mp4 at `path` that episodes are appended to, not encoded anew; `close` makes it readable."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.frames = self.bytes = 0
        self._container = av().open(str(path), "w", format="mp4")
        self._stream: Any = None
        self._encoding: Any = None  # what a decoder must know beforehand

    def append(self, episode: bytes, what: str) -> None:
        """Raises KibanError if the episode was encoded otherwise than those before it."""
        count = 0
        with _opened(io.BytesIO(episode), what) as (container, stream):
            context = stream.codec_context
            encoding = (context.name, context.extradata, stream.time_base, stream.average_rate)
            if self._stream is None:
                self._stream = self._container.add_stream_from_template(stream, opaque=True)
                self._stream.time_base = stream.time_base
                self._encoding = encoding
            if encoding != self._encoding:
                raise KibanError(f"{what}: encoded otherwise than the episodes before it; it cannot be joined to them")
            offset = _ticks(self.frames, stream.average_rate, stream)
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                packet.pts += offset
                packet.dts += offset
                packet.stream = self._stream
                self._container.mux(packet)
                count += 1
        self.frames += count
        self.bytes += len(episode)

    def close(self) -> None:
        self._container.close()


def _ticks(number: int, rate: Fraction, stream: Any) -> int:
    return round(number / rate / stream.time_base)


def _number(pts: int, rate: Fraction, stream: Any) -> int:
    return round(pts * stream.time_base * rate)
