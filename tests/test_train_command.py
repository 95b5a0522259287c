"""Training outside a programme: from text files to tokens, a run, and its export, through the installed command."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.commands import KIBAN, error_of, kiban, kiban_json
from tests.training import tiny


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    from kiban.tokenizer.bpe import Tokenizer

    words = folder / "words"
    words.mkdir()
    Tokenizer.train(tiny.texts(), tiny.VOCABULARY).save(words)
    files = []
    for number, text in enumerate(tiny.texts()):
        files.append(folder / f"{number}.txt")
        files[-1].write_text(text, encoding="utf-8")
    kiban("tokens", *files, "--tokenizer", words, "--to", folder / "tokens")
    return folder / "tokens"


SMALL = ["--sequence-length", "64", "--batch-sequences", "4"]


def test_a_run_logs_every_step_and_is_exported(packed: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.jsonl"
    kiban("train", "--preset", "nano", "--data", packed, "--steps", "3", "--json-log", log, "--to", run, *SMALL)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    wanted = {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s", "mfu", "seconds"}
    assert [line["step"] for line in lines] == [1, 2, 3] and all(wanted <= set(line) for line in lines)
    assert lines[-1]["tokens"] == 3 * 4 * 64
    (tmp_path / "text.txt").write_text("箱を運ぶ", encoding="utf-8")
    scores = []
    for source in (run, next(iter((run / "checkpoints").iterdir()))):
        to = tmp_path / f"hf-{source.name}"
        kiban("export", source, "--to", to)
        scores.append(kiban_json("eval", "score", to, "--text-file", tmp_path / "text.txt", "--json"))
    assert scores[0] == scores[1] and scores[0]["characters"] == 4
    said = kiban("export", run, "--to", tmp_path / "hf-fp8", "--dtype", "fp8").stdout
    assert "end in part of a 128 x 128 block" in said
    score = kiban_json("eval", "score", tmp_path / "hf-fp8", "--text-file", tmp_path / "text.txt", "--json")
    assert score["log_likelihood"] == pytest.approx(scores[0]["log_likelihood"], rel=0.1)
    assert score["log_likelihood"] != scores[0]["log_likelihood"]
    (run / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json: cannot be written or read" in error_of("export", run, "--to", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_sigterm_saves_and_exits_0(packed: Path, tmp_path: Path) -> None:
    command = [KIBAN, "train", "--data", str(packed), "--steps", "200", "--to", str(tmp_path / "run"), *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "is saved; the same command goes on" in said
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_what_cannot_be_done_is_refused(packed: Path, tmp_path: Path) -> None:
    assert "exceeds the model's context" in error_of(
        "train", "--data", packed, "--steps", "1", "--to", tmp_path / "a", "--sequence-length", "4096"
    )
    assert "trillion" not in str(tmp_path) and "more than are free" in error_of(
        "train", "--preset", "large", "--data", packed, "--steps", "1", "--to", tmp_path / "b"
    )
    assert "neither a programme" in error_of("export", tmp_path, "--to", tmp_path / "c")
    (tmp_path / "bad.txt").write_bytes("文".encode("cp932"))
    assert "not UTF-8" in error_of("tokens", tmp_path / "bad.txt", "--tokenizer", packed, "--to", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_run_is_watched_and_goes_on_from_an_export(packed: Path, tmp_path: Path) -> None:
    plug = tmp_path / "notes.py"
    plug.write_text(
        "class Run:\n"
        "    def __init__(self, folder): self.file = open(folder + '/notes.txt', 'a')\n"
        "    def log(self, figures, step): print(step, figures['loss'], file=self.file, flush=True)\n"
        "    def finish(self): print('end', file=self.file)\n"
        "def init(project, dir): return Run(dir)\n"
    )
    first, second = tmp_path / "first", tmp_path / "second"
    done = kiban(
        *("train", "--data", packed, "--steps", "6", "--to", first, *SMALL, "--dtype", "bfloat16", "--set", "mtp=true"),
        *("--set", "optimiser=muon", "--tensorboard", "--tracker", plug, "--profile"),
    )
    assert "ui.perfetto.dev" in done.stderr
    lines = [json.loads(line) for line in (first / "log.jsonl").read_text().splitlines()]
    assert all({"mtp_loss", "max_logit", "memory_bytes"} <= set(line) for line in lines)
    assert (first / "notes.txt").read_text().splitlines()[-1] == "end"
    assert len(list((first / "tensorboard").iterdir())) == 1 and (first / "trace.json.gz").stat().st_size > 10_000

    kiban("export", first, "--to", tmp_path / "hf")
    again = ("train", "--data", packed, "--from", tmp_path / "hf", "--to", second, *SMALL, "--learning-rate", "1e-9")
    assert "has an MTP layer, this model has none" in kiban(*again, "--steps", "2").stderr
    continued = json.loads((second / "log.jsonl").read_text().splitlines()[0])
    assert continued["loss"] < lines[0]["loss"] - 0.02
    assert "started from other weights" in error_of(
        "train", "--data", packed, "--steps", "2", "--to", second, *SMALL, "--learning-rate", "1e-9"
    )
    assert "hidden_size is 256 there and 384 in this model" in error_of(
        *(*again[:6], tmp_path / "third", "--steps", "1", "--preset", "tiny")
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--set", "on_nan"], "write it as NAME=VALUE"),
        (["--set", "steps_per_day=3"], "there is no such setting; there are balance_weight"),
        (["--set", "on_nan=ignore"], "--set on_nan ignore: input should be 'stop', 'skip' or 'rollback'"),
        (["--set", "schedule=cosine", "--set", "decay_share=0.2"], "decay_share has no effect"),
        (["--dtype", "float16"], "--dtype float16: input should be 'float32' or 'bfloat16'"),
        (["--tracker", "no_such_module"], "there is no module no_such_module"),
    ],
)
def test_wrong_options_are_one_line(packed: Path, tmp_path: Path, given: list[str], expected: str) -> None:
    assert expected in error_of("train", "--data", packed, "--steps", "1", "--to", tmp_path / "run", *SMALL, *given)
