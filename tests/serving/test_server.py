"""A real server on loopback, spoken to by OpenAI's own client."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import uvicorn

from kiban.model import hf
from kiban.model.transformer import Transformer
from kiban.serving.engine import Engine, Sampling
from kiban.serving.server import create_app
from kiban.tokenizer.bpe import Tokenizer
from tests.training import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tiny-model"
    model = Transformer(tiny.config(initializer_range=0.3))  # type: ignore[arg-type]
    model.init_weights(torch.Generator().manual_seed(0))
    hf.save(model, folder)
    Tokenizer.train(tiny.texts(), tiny.VOCABULARY).save(folder)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(Engine(folder)), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


MESSAGES: Any = [{"role": "user", "content": "箱を"}]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny-model"]
    assert client.models.retrieve("tiny-model").owned_by == "kiban"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_stream_is_the_whole_answer_in_parts(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "tiny-model", "messages": MESSAGES, "max_tokens": 24, "seed": 5, "temperature": 1.2}
    whole = client.chat.completions.create(**arguments)
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **arguments))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].usage == whole.usage
    assert whole.usage and whole.usage.completion_tokens <= 24
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    again = client.chat.completions.create(**arguments)
    assert again.choices[0].message.content == text
    other = client.chat.completions.create(**(arguments | {"seed": 6}))
    assert other.choices[0].message.content != text


def test_completions_and_stop(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "tiny-model", "prompt": "工具を並べる前に", "max_tokens": 30, "temperature": 0}
    text = client.completions.create(**arguments).choices[0].text
    assert len(text) > 8
    stop = text[3:5]
    stopped = client.completions.create(stop=[stop], **arguments).choices[0]
    assert stopped.finish_reason == "stop" and stopped.text == text[: text.index(stop)]
    parts = [chunk.choices[0].text for chunk in client.completions.create(stop=stop, stream=True, **arguments)]
    assert "".join(parts) == stopped.text


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"max_tokens": 10_000}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"novelty": 1}}, "novelty"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_is_not_honoured_gets_400_with_its_name(client: openai.OpenAI, extra: Any, param: str) -> None:
    arguments = {"model": "tiny-model", "messages": MESSAGES} | extra
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**arguments)
    assert caught.value.param == param


def test_what_asks_for_the_default_is_accepted(client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="tiny-model", messages=MESSAGES, max_completion_tokens=2, n=1, presence_penalty=0, logprobs=False
    )


def test_another_model_and_too_long_a_prompt(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny-model", prompt="箱" * 500)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_object(address: str, body: bytes) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"{address}/v1/completions", body), timeout=10)
    assert caught.value.code == 400
    assert "body" in json.load(caught.value)["error"]["message"]


def test_health_and_unknown_paths(address: str) -> None:
    with urllib.request.urlopen(f"{address}/health", timeout=10) as answer:
        assert json.load(answer) == {"status": "ok"}
    for path in ("/docs", "/v1/embeddings", "/openapi.json"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(address + path, timeout=10)
        assert caught.value.code == 404


def test_a_client_that_goes_away_frees_the_engine(client: openai.OpenAI) -> None:
    stream = client.completions.create(model="tiny-model", prompt="箱", max_tokens=50, temperature=1.5, stream=True)
    next(iter(stream))
    stream.close()
    client.completions.create(model="tiny-model", prompt="箱", max_tokens=1, timeout=15)


def test_no_piece_breaks_a_character(folder: Path) -> None:
    engine = Engine(folder)
    prompt = [0, *engine.words.encode("書類を")]
    for seed in range(5):
        pieces = list(engine.complete(prompt, Sampling(max_tokens=40, temperature=1.5, seed=seed)))
        text = "".join(piece.text for piece in pieces)
        from kiban.model.generate import generate

        ids = [t for t, _ in generate(engine.model, prompt, 40, 1.5, 1.0, seed, {1, 6}) if t not in (1, 6)]
        assert text == engine.words.decode(ids)
        assert pieces[-1].finish in ("stop", "length") and pieces[-1].tokens == len(ids)
