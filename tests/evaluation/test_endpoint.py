"""Models behind HTTP: our own server for real, and one that misbehaves as servers do."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.evaluation import engine, judge, suite
from kiban.evaluation.answers import Answers
from kiban.evaluation.endpoint import Endpoint, ask_by_letter, letter_of
from kiban.evaluation.suite import Item
from kiban.serving.engine import Engine
from kiban.serving.server import create_app
from tests.evaluation import models

Reply = Callable[[str, dict[str, Any]], tuple[int, Any]]


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], str]]:
    """Starts a server that answers with what a function gives: (status, JSON, or bytes as they are)."""
    running = []

    def start(reply: Reply) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = reply(self.path, body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data) + (10 if isinstance(answer, bytes) else 0)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def said(text: Any, finish: Any = "stop") -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


def nothing(n: int) -> None:
    pass


def ask(url: str, prompts: list[str], **options: Any) -> tuple[list[str], Endpoint]:
    endpoint = Endpoint(url, "m", pause=0.01, **options)
    return Answers(endpoint, None).generate(prompts, 8, (), nothing), endpoint


def chat_only(reply: Callable[[dict[str, Any]], tuple[int, Any]]) -> Reply:
    return lambda path, body: reply(body) if "chat" in path else (404, {"error": {"message": "no completions"}})


def test_our_own_server_is_asked_by_letter(tmp_path: Path) -> None:
    app = create_app(Engine(models.exported(tmp_path / "model")))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "model")
        assert not endpoint.scores
        items = [Item(str(i), "", ("箱", "部"), 0) for i in range(3)]
        found = suite.load("keigo")
        # The prompt alone is longer than this model's context: the server says so, and so do we.
        with pytest.raises(KibanError, match="refuses chat/completions: status 400"):
            engine.score(found, items, Answers(endpoint, None), nothing)
        register = suite.load("register").model_copy(update={"max_tokens": 4})
        result = engine.score(register, [Item("1", "箱を", by="keigo")], Answers(endpoint, None), nothing)
        assert result.metrics["kept"].n == 1
    finally:
        server.should_exit = True
        thread.join(10)


def test_an_answer_that_names_no_choice_is_not_wrong_but_missing(serve: Callable[[Reply], str]) -> None:
    items = [Item(str(i), f"問{i}：", ("正しい", "正しくない"), 0) for i in range(6)]
    letters = {ask_by_letter(item)[0]: "AB"[ask_by_letter(item)[1].index(0)] for item in items}

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        prompt = body["messages"][0]["content"]
        number = list(letters).index(prompt)
        return 200, said(
            [f"答えは{letters[prompt]}です。", letters[prompt], "Ａ。", "分かりません。", "AかB", "A"][number]
        )

    result = engine.score(suite.load("keigo"), items, Answers(Endpoint(serve(chat_only(reply)), "m"), None), nothing)
    assert result.metrics["answered"].value == pytest.approx(4 / 6) and result.metrics["accuracy"].n == 4
    assert [row["score"] for row in result.rows[:2]] == [1.0, 1.0] and result.rows[3]["score"] is None
    assert any("2 of 6 answers name no choice" in note for note in result.notes)


def test_letters_are_drawn_by_the_item() -> None:
    orders = {tuple(ask_by_letter(Item(str(i), "問", ("a", "b", "c"), 0))[1]) for i in range(40)}
    assert len(orders) == 6
    assert [letter_of(text, 3) for text in ("A", "(b)", "Ｃ", "D", "AB", "A and A", "")] == [
        0,
        None,
        2,
        None,
        None,
        0,
        None,
    ]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ((503, {"error": {"message": "overloaded"}}), "status 503 \\(overloaded\\)"),
        ((200, b'{"choices": [{"mess'), "half an answer"),
        ((200, {"choices": []}), "half an answer"),
        ((200, said(None)), "half an answer"),
        ((200, said("はい", None)), "half an answer"),
    ],
)
def test_half_an_answer_is_asked_for_again_and_recorded(
    serve: Callable[[Reply], str], bad: tuple[int, Any], named: str
) -> None:
    tries: list[int] = []

    def twice(body: dict[str, Any]) -> tuple[int, Any]:
        tries.append(1)
        return bad if len(tries) < 3 else (200, said("はい"))

    texts, endpoint = ask(serve(chat_only(twice)), ["問"])
    assert texts == ["はい"] and endpoint.retried == 2 and endpoint.notes == ["2 requests had to be sent again"]
    with pytest.raises(KibanError, match=f"failed 4 times, at last with {named}"):
        ask(serve(chat_only(lambda body: bad)), ["問"])


def test_an_endpoint_that_does_not_answer_in_time_is_named(serve: Callable[[Reply], str]) -> None:
    waiting = threading.Event()

    def slow(body: dict[str, Any]) -> tuple[int, Any]:
        waiting.wait(5)
        return 200, said("遅い")

    with pytest.raises(KibanError, match="no answer in 0.1 s; what was answered is kept"):
        ask(serve(chat_only(slow)), ["問"], timeout=0.1)
    waiting.set()
    with pytest.raises(KibanError, match="cannot be reached"):
        Endpoint("http://127.0.0.1:9/v1", "m", pause=0.01)
    with pytest.raises(KibanError, match="begins with http"):
        Endpoint("localhost:8000", "m")


def test_what_was_answered_before_a_failure_is_kept(serve: Callable[[Reply], str], tmp_path: Path) -> None:
    seen: list[str] = []
    down = threading.Event()
    down.set()

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        prompt = body["messages"][0]["content"]
        seen.append(prompt)
        return (500, {}) if down.is_set() and prompt == "問題三" else (200, said(prompt))

    url = serve(chat_only(reply))
    prompts = ["問", "問二", "問題三"]
    with pytest.raises(KibanError, match="status 500"):
        endpoint = Endpoint(url, "m", pause=0.01, concurrent=1)
        Answers(endpoint, tmp_path / "cache").generate(prompts, 8, (), nothing)
    down.clear()
    seen.clear()
    endpoint = Endpoint(url, "m", pause=0.01)
    assert Answers(endpoint, tmp_path / "cache").generate(prompts, 8, (), nothing) == prompts
    assert seen == ["問題三"]


def test_log_likelihoods_come_from_echoed_prompts(serve: Callable[[Reply], str]) -> None:
    """A server that echoes with log-probabilities, as vLLM does, here over a model of ours."""
    scorer = models.scorer()

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if "chat" in path or not body.get("echo"):
            return 400, {"error": {"message": "completions with echo alone"}}
        ids = scorer.words.encode(body["prompt"])
        ends = [len(scorer.words.decode(ids[: i + 1]).rstrip("\ufffd")) for i in range(len(ids))]
        starts = [0, *ends[:-1]]
        sequence = [*scorer.words.lead, *ids]
        sums = scorer._scores([sequence], [len(ids)])[0]
        return 200, {
            "choices": [{"text": "", "logprobs": {"text_offset": starts, "token_logprobs": [None, *sums[1:]]}}]
        }

    endpoint = Endpoint(serve(reply), "m")
    assert endpoint.scores
    pairs = [("箱を運ぶ前に", "部品を数える"), ("箱を運ぶ前に", "数える")]
    [found] = Answers(endpoint, None).log_likelihoods([pairs], nothing)
    expected = scorer.log_likelihoods(pairs)
    assert [n for _, n in found] == [n for _, n in expected]
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], abs=1e-4)


def test_a_judge_is_believed_as_far_as_it_agrees(serve: Callable[[Reply], str]) -> None:
    rows = [
        {
            "suite": "register",
            "id": str(i),
            "prompt": "敬語で",
            "written": f"文{i}",
            "failed": [],
            "score": float(i < 6),
        }
        for i in range(8)
    ]

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        prompt = body["messages"][0]["content"]
        number = next(i for i in range(8) if f"文{i}" in prompt)
        if number == 7:
            return 200, said("A")  # likes A whatever is asked
        good = number < 5
        asked_for_faults = "不適切な点がありますか" in prompt
        return 200, said("B" if good == asked_for_faults else "A")

    answers = Answers(Endpoint(serve(chat_only(reply)), "m"), None)
    found = judge.judge(rows, answers, {"0": True, "5": True}, Progress(quiet=True))
    agreement = found["summary"]["agreement"]
    assert agreement["with itself, asked the other way round"] == pytest.approx(
        {"agreement": 7 / 8, "kappa": agreement["with itself, asked the other way round"]["kappa"], "n": 8}
    )
    assert agreement["with the rules of register"]["agreement"] == pytest.approx(6 / 7)
    assert agreement["with people"]["agreement"] == 0.5
    assert found["summary"]["undecided"] == 1 and found["summary"]["good"] == pytest.approx(5 / 7)
    with pytest.raises(KibanError, match="no item has a text"):
        judge.judge([{"suite": "keigo", "id": "1"}], answers, {}, Progress(quiet=True))
    undecided = Answers(Endpoint(serve(chat_only(lambda body: (200, said("？")))), "m"), None)
    with pytest.raises(KibanError, match="decided none of 8"):
        judge.judge(rows, undecided, {}, Progress(quiet=True))


def test_labels_are_whole(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"id": "1", "label": true}\n{"id": "2", "label": false}\n')
    assert judge.read_labels(tmp_path / "labels.jsonl") == {"1": True, "2": False}
    for bad in ('{"id": "1"}', '{"id": "1", "label": "yes"}', "{"):
        (tmp_path / "labels.jsonl").write_text(bad)
        with pytest.raises(KibanError, match="labels.jsonl"):
            judge.read_labels(tmp_path / "labels.jsonl")
