"""The loop on a tiny model: it learns, and whatever stops it, it goes on to the same losses, bit by bit."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.tokenizer.packing import TokenStore
from kiban.training.checkpoint import Checkpoints, Identity, Position
from tests.training import tiny

SAME = ("step", "tokens", "loss", "lr", "grad_norm", "expert_load_max")


def trace(folder: Path) -> list[tuple[float, ...]]:
    """What must not depend on interruptions."""
    return [tuple(json.loads(line)[key] for key in SAME) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny.run(folder)
    return folder


def test_it_learns(whole: Path) -> None:
    losses = [step[2] for step in trace(whole)]
    assert len(losses) == 40
    assert losses[0] == pytest.approx(math.log(tiny.VOCABULARY), abs=0.3)
    assert sum(losses[-5:]) / 5 < 4.0
    line = json.loads((whole / "log.jsonl").read_text().splitlines()[-1])
    assert line["tokens"] == 32 * 4 * 40 and line["tokens_per_s"] > 0 and 0 < line["mfu"] < 1
    assert line["expert_load_max"] >= 1


def test_a_batch_taken_in_parts_gives_the_same_steps(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "tokens", tmp_path / "tokens")
    tiny.run(tmp_path, micro_batch_tokens=3 * 32)  # four sequences a step: three, then one
    for parts, at_once in zip(trace(tmp_path)[:10], trace(whole)[:10], strict=True):  # rounding grows from step to step
        assert parts == pytest.approx(at_once, rel=1e-4)


def test_it_says_how_often_the_data_is_read(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole / "tokens", tmp_path / "tokens")
    tiny.run(tmp_path, Progress(), tokens=1)
    assert "times" not in capsys.readouterr().err
    sequences = (TokenStore.open(whole / "tokens").total - 1) // 32
    for batch, expected in (
        (sequences - 1, "reads the data 2.0 times"),
        (sequences + 1, "is more than the data holds"),
    ):
        shutil.rmtree(tmp_path / "checkpoints")
        tiny.run(tmp_path, Progress(), tokens=32 * batch * 2, batch_sequences=batch)
        assert expected in capsys.readouterr().err


def test_another_seed_gives_another_run(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "tokens", tmp_path / "tokens")
    tiny.run(tmp_path, seed=1)
    assert trace(tmp_path) != trace(whole)


def start(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    command = [sys.executable, "-m", "tests.training.tiny", str(folder), *arguments]
    return subprocess.Popen(command, env=environment, **options)


def wait_for_steps(folder: Path, number: int) -> None:
    deadline = time.monotonic() + 60
    log = folder / "log.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= number):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_run_goes_on_bit_by_bit(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "tokens", tmp_path / "tokens")
    for steps in (5, 20):
        process = start(tmp_path)
        wait_for_steps(tmp_path, steps)
        process.send_signal(signal.SIGKILL)
        process.wait()
    tiny.run(tmp_path)
    assert trace(tmp_path) == trace(whole)


OTHER_WAYS: dict[str, Any] = {"optimiser": "muon", "schedule": "cosine", "qk_clip": 0.05, "balance_weight": 1e-3}


def test_muon_cosine_clip_and_balance_go_on_bit_by_bit(whole: Path, tmp_path: Path) -> None:
    """With a bound on attention logits so low that it is reached all the time."""
    for name in ("stopped", "through"):
        shutil.copytree(whole / "tokens", tmp_path / name / "tokens")
    tiny.run(tmp_path / "through", **OTHER_WAYS)
    process = start(tmp_path / "stopped", "", json.dumps(OTHER_WAYS))
    wait_for_steps(tmp_path / "stopped", 10)
    process.kill()
    process.wait()
    tiny.run(tmp_path / "stopped", **OTHER_WAYS)
    assert trace(tmp_path / "stopped") == trace(tmp_path / "through")
    lines = [json.loads(line) for line in (tmp_path / "through" / "log.jsonl").read_text().splitlines()]
    assert sum(line["loss"] for line in lines[-5:]) / 5 < 4.0
    assert any(line["max_logit"] > 0.05 for line in lines) and all(line["balance_loss"] >= 1 for line in lines)
    assert [line["lr"] for line in lines[2:]] == sorted((line["lr"] for line in lines[2:]), reverse=True)


LONG: dict[str, Any] = {"tokens": 32 * 4 * 12000, "save_every_seconds": 0.2}


@pytest.mark.slow
def test_a_hundred_kills_at_any_moment(whole: Path, tmp_path: Path) -> None:
    """While importing, restoring, training and saving: the losses are those of a run that nothing happened to."""
    for name in ("through", "killed"):
        shutil.copytree(whole / "tokens", tmp_path / name / "tokens")
    tiny.run(tmp_path / "through", **LONG)
    began = time.monotonic()
    process = start(tmp_path / "killed", "", json.dumps(LONG))
    wait_for_steps(tmp_path / "killed", 1)
    process.kill()
    process.wait()
    beginning = time.monotonic() - began  # until the first step: kills are to fall on both sides of it
    rng = random.Random(5)
    reached = []
    for _ in range(100):
        process = start(tmp_path / "killed", "", json.dumps(LONG))
        try:
            process.wait(rng.uniform(0.5 * beginning, beginning + 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        folders = (tmp_path / "killed" / "checkpoints").glob("step-*")
        reached.append(max((int(path.name.removeprefix("step-")) for path in folders), default=0))
    assert reached == sorted(reached) and len(set(reached)) > 20, "too few of the kills hit a run on its way"
    tiny.run(tmp_path / "killed", **LONG)
    assert trace(tmp_path / "killed") == trace(tmp_path / "through")


def test_sigterm_saves_the_present_step(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "tokens", tmp_path / "tokens")
    process = start(tmp_path)
    wait_for_steps(tmp_path, 3)
    process.terminate()
    assert process.wait(30) != 0
    done = len(trace(tmp_path))
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == f"step-{done:08d}"
    tiny.run(tmp_path)
    assert trace(tmp_path) == trace(whole)


def test_a_damaged_checkpoint_is_passed_over(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole / "tokens", tmp_path / "tokens")
    process = start(tmp_path)
    wait_for_steps(tmp_path, 12)
    process.kill()
    process.wait()
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    shard = next(newest.glob("*-model-00001-of-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    tiny.run(tmp_path, Progress())
    assert f"checkpoint {newest.name} is damaged and passed over" in capsys.readouterr().err
    assert trace(tmp_path) == trace(whole)


def test_a_full_disk_leaves_the_checkpoints_before(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "tokens", tmp_path / "tokens")
    process = start(tmp_path)
    wait_for_steps(tmp_path, 12)
    process.kill()
    process.wait()
    before = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    largest = max(path.stat().st_size for path in (tmp_path / "checkpoints").rglob("*.safetensors"))
    process = start(tmp_path, str(largest // 2), stderr=subprocess.PIPE)
    _, printed = process.communicate(timeout=60)
    assert process.returncode != 0 and b"File too large" in printed
    assert len(trace(tmp_path)) == 40  # it went on meanwhile: only the last save has to succeed
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if not path.name.startswith(".")) == before
    assert list((tmp_path / "checkpoints").glob(".step-*.tmp")) == []
    tiny.run(tmp_path)
    assert trace(tmp_path) == trace(whole)


def test_what_goes_wrong_in_the_background_is_raised(tmp_path: Path) -> None:
    """Other than a full disk: here a tensor of a kind that safetensors does not hold."""
    saved = Checkpoints(tmp_path, Identity({}, {}, ""), 2, print)
    module = torch.nn.Module()
    module.register_buffer("complex", torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8))
    saved.save(module, [], Position(1, 0.0, 1.0))
    with pytest.raises(BaseException, match="(?i)checkpoint|dtype|quant|key"):
        saved.wait()
    assert not list(tmp_path.iterdir())


def test_a_lost_log_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    with pytest.raises(KibanError, match="does not hold the lines of steps 1 to 40"):
        tiny.run(tmp_path)


def test_other_data_in_the_same_run_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with pytest.raises(KibanError, match="learning_rate was 0.01 and is 0.0001; delete"):
        tiny.run(tmp_path, learning_rate=1e-4)
    shutil.rmtree(tmp_path / "tokens")
    words = tiny.Tokenizer.train(tiny.texts(), tiny.VOCABULARY)
    (tmp_path / "tokens").mkdir()
    list(tiny.pack(words, [("another", "test", text) for text in tiny.texts()], tmp_path / "tokens"))
    with pytest.raises(KibanError, match="made on other data than this run has; delete"):
        tiny.run(tmp_path)


def test_checkpoints_to_keep_stay_and_others_go(tmp_path: Path) -> None:
    tiny.run(tmp_path, save_every_seconds=0.01, keep_checkpoints=3, permanent_every=15)
    steps = [int(path.name.removeprefix("step-")) for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert {15, 30} <= set(steps) and steps[-1] == 40 and len(set(steps) - {15, 30}) == 3


def test_a_checkpoint_without_its_state_is_passed_over(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (newest := max((tmp_path / "checkpoints").iterdir())).joinpath("state.json").unlink()
    tiny.run(tmp_path, Progress())
    assert f"checkpoint {newest.name} is damaged and passed over" in capsys.readouterr().err
    assert trace(tmp_path) == trace(whole)


def test_a_loss_that_is_no_number_names_the_documents(tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="lower learning_rate.*documents of that step: id"):
        tiny.run(tmp_path, learning_rate=1e6, grad_clip=1e9, warmup_share=0.0)


def test_skipping_does_not_go_on_for_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights are broken after the first steps: no batch helps."""
    with pytest.raises(KibanError, match="lower learning_rate"):
        tiny.run(tmp_path, Progress(), learning_rate=1e6, grad_clip=1e9, warmup_share=0.0, on_nan="skip")
    assert capsys.readouterr().err.count("its update is skipped") == 8
    faults = [json.loads(line).get("fault") for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert faults.count("nan") == 8


NOISE = {"tokens": 32 * 4 * 250, "seed": 9}


def noisy(folder: Path) -> None:
    """The usual text, and a short document of characters at random, which stands out once the rest is learnt."""
    rng = random.Random(1)
    words = tiny.Tokenizer.train(tiny.texts(), tiny.VOCABULARY)
    (folder / "tokens").mkdir(parents=True)
    words.save(folder / "tokens")
    noise = "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(40))
    texts = [(f"id{i}", "test", text) for i, text in enumerate(tiny.texts(240))]
    list(tiny.pack(words, [*texts[:9], ("noise", "test", noise), *texts[9:]], folder / "tokens"))


@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_a_spike_is_passed_over_and_its_documents_named(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy(tmp_path)
    done = tiny.run(tmp_path, Progress(), **(NOISE | {"on_spike": action, "permanent_every": 5}))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    spiked = [line["step"] for line in lines if "fault" in line]
    said = capsys.readouterr().err
    assert spiked and "noise" in said and "a loss spike, loss" in said
    assert [last for _, last in done.excluded] == spiked
    if action == "skip":
        assert all(first == last for first, last in done.excluded)
    else:
        assert all((first - 1) % 5 == 0 or first - 1 in spiked for first, last in done.excluded)
        assert "weights are again those of step" in said
    with pytest.raises(KibanError, match=r"a loss spike.*documents of that step: .*noise"):
        shutil.rmtree(tmp_path / "checkpoints")
        (tmp_path / "log.jsonl").unlink()
        tiny.run(tmp_path, **(NOISE | {"on_spike": "stop"}))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"sequence_length": 128}, "exceeds the model's context of 64"), ({"tokens": 0}, "more than 0")],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, settings: dict[str, int], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        tiny.run(tmp_path, **settings)
