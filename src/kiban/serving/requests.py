"""What the API accepts. A parameter that is not honoured is refused by its name, never ignored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiban.serving.engine import Engine, Sampling

# Accepted since they ask for what is done anyway: name -> the values that do.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logprobs": (False, None),
    "top_logprobs": (0, None),
    "logit_bias": ({}, None),
    "tools": ([], None),
    "tool_choice": ("none", None),
    "response_format": ({"type": "text"}, None),
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": ("", None),
    "store": (False, None),
}
SHARED = {"model", "stream", "stream_options", "temperature", "top_p", "seed", "stop", "max_tokens", "user", "metadata"}
CHAT = SHARED | {"messages", "max_completion_tokens"}
COMPLETION = SHARED | {"prompt"}
DEFAULT_TOKENS = 256


class Refusal(Exception):
    """An answer other than 200, with the parameter that it is about."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


@dataclass(frozen=True)
class Asked:
    """A request that can be honoured."""

    prompt: list[int]
    sampling: Sampling
    stream: bool
    include_usage: bool


def chat(body: Mapping[str, Any], engine: Engine) -> Asked:
    """Raises Refusal."""
    _known(body, CHAT, engine)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages must be a list of at least one message", "messages")
    given = []
    for number, message in enumerate(messages):
        role, content = (message.get(key) for key in ("role", "content")) if isinstance(message, dict) else (None, None)
        if role not in ("system", "user", "assistant"):
            raise Refusal(
                400, f"role {role!r} is not supported; use system, user, assistant", f"messages[{number}].role"
            )
        given.append({"role": role, "content": _text_of(content, number)})
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    return _asked(body, engine.words.chat_tokens(given), most, engine)


def completion(body: Mapping[str, Any], engine: Engine) -> Asked:
    """Raises Refusal."""
    _known(body, COMPLETION, engine)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise Refusal(400, "prompt must be one string", "prompt")
    return _asked(body, [engine.words.bos_id, *engine.words.encode(prompt)], body.get("max_tokens", 16), engine)


def _text_of(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if texts and len(texts) == len(parts) and all(isinstance(text, str) for text in texts):
        return "".join(map(str, texts))
    raise Refusal(400, "only text content is supported", f"messages[{number}].content")


def _known(body: Mapping[str, Any], known: set[str], engine: Engine) -> None:
    for name, value in body.items():
        if name in known:
            continue
        if name not in WITHOUT_EFFECT:
            raise Refusal(400, f"'{name}' is not supported; leave it out", name, "unsupported_parameter")
        if value not in WITHOUT_EFFECT[name]:
            raise Refusal(400, f"'{name}' = {value!r} is not supported; leave it out", name, "unsupported_parameter")
    model = body.get("model")
    if model is None:
        raise Refusal(400, "model is missing", "model")
    if model != engine.name:
        raise Refusal(404, f"there is no model '{model}'; this server has '{engine.name}'", "model", "model_not_found")


def _asked(body: Mapping[str, Any], prompt: list[int], most: Any, engine: Engine) -> Asked:
    room = engine.context - len(prompt)
    if room < 1:
        raise Refusal(
            400,
            f"the prompt has {len(prompt)} tokens, the context {engine.context}",
            "messages",
            "context_length_exceeded",
        )
    max_tokens = min(DEFAULT_TOKENS, room) if most is None else _number(most, "max_tokens", 1, float("inf"))
    if max_tokens > room:
        message = f"{len(prompt)} prompt tokens and max_tokens {max_tokens:.0f} exceed the context of {engine.context}"
        raise Refusal(400, message, "max_tokens", "context_length_exceeded")
    stop = body.get("stop")
    stops: Sequence[Any] = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(s, str) and s for s in stops):
        raise Refusal(400, "stop must be a string or up to four", "stop")
    stream = body.get("stream") or False
    options = body.get("stream_options") or {}
    if not isinstance(options, dict) or set(options) - {"include_usage"} or (options and not stream):
        raise Refusal(400, "stream_options takes include_usage, with stream", "stream_options")
    return Asked(
        prompt=prompt,
        sampling=Sampling(
            max_tokens=int(max_tokens),
            temperature=_number(_or(body.get("temperature"), 1.0), "temperature", 0.0, 2.0),
            top_p=_number(_or(body.get("top_p"), 1.0), "top_p", 0.0, 1.0),
            seed=int(_number(_or(body.get("seed"), 0), "seed", -(2**63), 2**63 - 1)),
            stop=tuple(stops),
        ),
        stream=bool(stream),
        include_usage=bool(options.get("include_usage")),
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refusal(400, f"{name} must be a number from {low:g} to {high:g}, not {value!r}", name)
    return value
