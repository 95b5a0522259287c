"""The HTTP face: models, chat completions and completions, streamed or whole, as OpenAI's clients expect them."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool

from kiban.artifacts.errors import KibanError
from kiban.serving import requests
from kiban.serving.engine import Engine, Piece
from kiban.serving.requests import Asked, Refusal


def create_app(engine: Engine) -> FastAPI:
    """The application. It opens no connection of its own, and serves no page that would."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> JSONResponse:
        return _error(refusal.status, refusal.message, refusal.param, refusal.code)

    @app.exception_handler(KibanError)
    async def refuse_input(request: Request, error: KibanError) -> JSONResponse:
        return _error(400, str(error), None, None)

    @app.exception_handler(404)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        return _error(404, f"there is no {request.url.path}", None, None)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(engine)]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name != engine.name:
            raise Refusal(
                404, f"there is no model '{name}'; this server has '{engine.name}'", "model", "model_not_found"
            )
        return _model(engine)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _answer(engine, requests.chat(await _body(request), engine), "chat.completion", _chat_choice)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = requests.completion(await _body(request), engine)
        return await _answer(engine, asked, "text_completion", _text_choice)

    return app


Choice = Callable[[str, str | None, bool], dict[str, Any]]


def _chat_choice(text: str, finish: str | None, part: bool) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"index": 0, "delta" if part else "message": message, "finish_reason": finish, "logprobs": None}


def _text_choice(text: str, finish: str | None, part: bool) -> dict[str, Any]:
    return {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}


async def _answer(engine: Engine, asked: Asked, kind: str, choice: Choice) -> Response:
    head = {
        "id": f"{'chatcmpl' if kind == 'chat.completion' else 'cmpl'}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": engine.name,
    }
    pieces = engine.complete(asked.prompt, asked.sampling)
    if asked.stream:
        chunk = kind + ".chunk" if kind == "chat.completion" else kind
        return StreamingResponse(
            _events(pieces, asked, {**head, "object": chunk}, choice), media_type="text/event-stream"
        )
    text, finish, tokens = "", "length", 0
    async for piece in iterate_in_threadpool(pieces):
        text, finish, tokens = text + piece.text, piece.finish or finish, piece.tokens
    usage = _usage(len(asked.prompt), tokens)
    return JSONResponse({**head, "object": kind, "choices": [choice(text, finish, False)], "usage": usage})


async def _events(
    pieces: Generator[Piece, None, None], asked: Asked, head: dict[str, Any], choice: Choice
) -> AsyncIterator[str]:
    """Server-sent events. When the client goes away the task is cancelled, and the generation is closed."""
    tokens = 0
    usage = {"usage": None} if asked.include_usage else {}
    try:
        async for piece in iterate_in_threadpool(pieces):
            tokens = piece.tokens
            if piece.text or piece.finish:
                yield _event({**head, "choices": [choice(piece.text, piece.finish, True)], **usage})
    finally:
        pieces.close()  # frees the engine's lock
    if asked.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(len(asked.prompt), tokens)})
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _model(engine: Engine) -> dict[str, Any]:
    return {"id": engine.name, "object": "model", "created": 0, "owned_by": "kiban"}


def _error(status: int, message: str, param: str | None, code: str | None) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=status)


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise Refusal(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body must be a JSON object")
    return body
