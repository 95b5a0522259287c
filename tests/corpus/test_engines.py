"""Serial, on worker processes and on Ray: the same bytes."""

import importlib.util
from pathlib import Path

import pytest

from kiban.artifacts.errors import KibanError
from kiban.corpus import engines, pieces
from kiban.corpus.stage import CorpusSettings
from tests.corpus.building import build, digests, sentences, source_of, write_jsonl

RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'kiban[ray]'"
)


@RAY
def test_every_engine_makes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 8_000)
    records = [{"text": text} for text in [*sentences(120), *sentences(3), "abc", "電話は090-1234-5678です。"]]
    source = source_of("own", write_jsonl(tmp_path / "own.jsonl", records), "jsonl")
    made = {
        engine: build(tmp_path / engine, [source], hold_back=0.05, engine=engine, workers=workers)
        for engine, workers in (("serial", 1), ("process", 2), ("ray", 2))
    }
    assert len(list(made["serial"].path.glob("shards/*"))) > 4
    assert digests(made["serial"]) == digests(made["process"]) == digests(made["ray"])
    assert len({artifact.address for artifact in made.values()}) == 1


def fails(number: int) -> None:
    if number == 2:
        raise KibanError("the third is wrong")


@RAY
@pytest.mark.slow
def test_an_error_on_ray_is_the_error_of_the_work(tmp_path: Path) -> None:
    done = []
    with pytest.raises(KibanError, match="the third is wrong"), engines.engine("ray", 1) as engine:
        for (number,) in engine.run(fails, ((n,) for n in range(5))):
            done.append(number)
    assert done == [0, 1]


def killed(number: int) -> None:
    import os
    import signal

    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_told_in_one_line() -> None:
    with (
        pytest.raises(engines.WorkerLost, match="run again with fewer `workers`"),
        engines.engine("process", 1) as engine,
    ):
        for _ in engine.run(killed, ((n,) for n in range(3))):
            pass


def test_no_more_than_so_many_pieces_are_under_way() -> None:
    begun: list[int] = []
    engine = engines.Engine(lambda function, number: begun.append(number), lambda future: None, most=3)
    for (number,) in engine.run(fails, ((n,) for n in range(10))):
        assert len(begun) <= number + 3
    assert begun == list(range(10))


def test_without_ray_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(KibanError, match=r"pip install 'kiban\[ray\]'"), engines.engine("ray", 2):
        pass


def test_a_setting_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="engine 'serial' has one worker, not 4"):
        CorpusSettings(engine="serial", workers=4)
