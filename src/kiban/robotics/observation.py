"""What a robot sends with a request, brought into the form that the policy reads, or refused in one line."""

import math
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics.embodiment import Camera, Embodiment

LONGEST_INSTRUCTION = 200  # characters
INSTRUCTION = ("prompt", "instruction")  # openpi's word for it, and ours
EXTRAS = ("request_id", "deadline_ms", "seed", "filtered", "last", "delay")
MOST_ACTIONS = 1024  # of a chunk


class RefusedError(KibanError):
    """The request cannot be answered as it is; the connection is fine."""


@dataclass(frozen=True)
class Request:
    """`observation`: an image a camera (uint8 [height, width, 3]) and `state` (float32, the embodiment's names).

    `last`: what is left of the actions [n, A] that are being carried out, `delay`: how many of them will have been when
    the answer is there.
    """

    observation: dict[str, NDArray[Any]]
    instruction: str
    request_id: str | int | None
    deadline_ms: float | None  # from when the server has the request; it is not computed later
    seed: int | None
    last: NDArray[np.float64] | None = None
    delay: int = 0


def check_instruction(text: Any) -> str:
    """The instruction without space around it.

    Raises:
        RefusedError: if it is empty, too long, or not Japanese: there is no Japanese sentence without kana, and few
            with more letters of another script than Japanese ones.
    """
    if not isinstance(text, str):
        raise RefusedError("instruction: there is none; send a Japanese sentence as 'prompt'")
    text = text.strip()
    if not text:
        raise RefusedError("instruction: is empty; send a Japanese sentence as 'prompt'")
    if len(text) > LONGEST_INSTRUCTION:
        raise RefusedError(f"instruction: {len(text)} characters; send at most {LONGEST_INSTRUCTION}")
    scripts = [unicodedata.name(c, "").split(" ")[0] for c in unicodedata.normalize("NFKC", text) if c.isalpha()]
    japanese = sum(script in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK") for script in scripts)
    if not any(script in ("HIRAGANA", "KATAKANA") for script in scripts) or 2 * japanese < len(scripts):
        raise RefusedError(f"instruction '{text[:40]}': is not Japanese; the policy understands Japanese only")
    return text


def read_request(message: Any, embodiment: Embodiment) -> Request:
    """A request from what came over the wire.

    Cameras and the state may stand at the top, under `observation/` or under `images` (as openpi's LIBERO, DROID and
    ALOHA robots have it); an image is [height, width, 3] or [3, height, width].

    Raises:
        RefusedError: if something is missing, unknown, of another shape, or no number.
    """
    if not isinstance(message, dict):
        raise RefusedError(f"request: is a {type(message).__name__}; send a map with the observation")
    given = _flat(message)
    extras = {name: given.pop(name, None) for name in EXTRAS}
    if extras["filtered"]:
        raise RefusedError(
            "filtered: the safety filter must stand on the robot's side, with no network between it and the motors; "
            "use kiban.robotics.client there"
        )
    spoken = [given.pop(name) for name in INSTRUCTION if name in given]
    cameras = {camera.name: camera for camera in embodiment.cameras}
    needed = [*cameras, "state"]
    missing, unknown = [name for name in needed if name not in given], [name for name in given if name not in needed]
    if missing or unknown:
        wrong = [f"no '{name}'" for name in missing] + [f"'{name[:40]}' is not known" for name in unknown]
        raise RefusedError(f"observation: {', '.join(wrong[:6])}; the policy needs {', '.join(needed)}")
    observation: dict[str, NDArray[Any]] = {name: _image(given[name], camera) for name, camera in cameras.items()}
    observation["state"] = _state(given["state"], embodiment.state_names)
    return Request(
        observation,
        check_instruction(spoken[0] if spoken else None),
        _identifier(extras["request_id"]),
        _deadline(extras["deadline_ms"]),
        _seed(extras["seed"]),
        *_continued(extras["last"], extras["delay"], len(embodiment.action.names)),
    )


def request_id_of(message: Any) -> str | int | None:
    """The id of a request that may be wrong otherwise."""
    try:
        return _identifier(message.get("request_id")) if isinstance(message, dict) else None
    except RefusedError:
        return None


def _flat(message: dict[str, Any]) -> dict[str, Any]:
    """Without the levels and prefixes that only say that it is an observation."""
    flat: dict[str, Any] = {}
    for name, value in message.items():
        inner = (
            _flat(value) if name in ("observation", "images", "observation/images") and isinstance(value, dict) else {}
        )
        for key, item in (inner or {name: value}).items():
            short = key.removeprefix("observation/").removeprefix("images/")
            if short in flat:
                raise RefusedError(f"observation: '{short}' is given twice")
            flat[short] = item
    return flat


def _image(value: Any, camera: Camera) -> NDArray[np.uint8]:
    shape = (camera.height, camera.width, 3)
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise RefusedError(f"camera '{camera.name}': is {kind}; send uint8, levels from 0 to 255")
    if value.shape == (3, *shape[:2]) and value.shape != shape:
        value = value.transpose(1, 2, 0)
    if value.shape != shape:
        raise RefusedError(f"camera '{camera.name}': has shape {list(value.shape)}; send {list(shape)}")
    return np.array(value, order="C")  # its own: what came is a view of the message


def _state(value: Any, names: tuple[str, ...]) -> NDArray[np.float32]:
    try:
        state = np.array(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise RefusedError(f"state: is no list of numbers; send {len(names)}: {', '.join(names)}") from None
    if state.shape != (len(names),):
        raise RefusedError(f"state: has shape {list(state.shape)}; send {len(names)} numbers: {', '.join(names)}")
    wrong = [f"{name} is {number}" for name, number in zip(names, state, strict=True) if not math.isfinite(number)]
    if wrong:
        raise RefusedError(f"state: {', '.join(wrong[:4])}; look at the sensor, and send numbers")
    return state


def _identifier(value: Any) -> str | int | None:
    if value is None or (isinstance(value, int | str) and not isinstance(value, bool) and len(str(value)) <= 64):
        return value
    raise RefusedError("request_id: send a whole number or a text of at most 64 characters")


def _deadline(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise RefusedError("deadline_ms: send how many milliseconds the answer may take, more than 0")
    return float(value)


def _continued(last: Any, delay: Any, size: int) -> tuple[NDArray[np.float64] | None, int]:
    if last is None and delay is None:
        return None, 0
    if not isinstance(last, np.ndarray) or last.ndim != 2 or last.shape[1] != size or not 0 < len(last) <= MOST_ACTIONS:
        raise RefusedError(f"last: send what is left of the actions, an array [1 to {MOST_ACTIONS}, {size}]")
    if not np.isfinite(last).all():
        raise RefusedError("last: holds a NaN or an infinity; send the actions as the server gave them")
    if isinstance(delay, bool) or not isinstance(delay, int) or not 0 <= delay <= MOST_ACTIONS:
        raise RefusedError("delay: send how many actions of 'last' will have been carried out, a whole number")
    return last.astype(np.float64), delay


def _seed(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63):
        return value
    raise RefusedError("seed: send a whole number from 0 on")
