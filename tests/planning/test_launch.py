"""From a plan to a launch, and from the run's own figures back to the cost model."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kiban.artifacts.errors import KibanError
from kiban.cli.train import _planned
from kiban.model.config import ModelConfig
from kiban.model.hf_config import hf_config
from kiban.model.layout import Layout
from kiban.model.presets import PRESETS, preset
from kiban.planning.check import check
from kiban.planning.hardware import gpu, gpu_of_device
from kiban.planning.history import append, run_row
from kiban.planning.plan_file import read_plan, settings_of, write_plan
from kiban.planning.published import _shape, read_rows, read_run
from kiban.planning.search import layouts, search
from kiban.planning.shape import shape_of
from tests.commands import error_of, kiban, kiban_json
from tests.training import tiny

SEARCH = ("plan", "search", "nano", "--gpu", "h100", "--gpus", 1, "--tokens", "2k", "--batch", 4)
SEARCH = (*map(str, SEARCH), "--sequence-length", "64", "--precision", "bf16", "--write")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    tiny.pack_texts(folder / "tokens")
    (folder / "tokens" / "tokenizer.json").unlink()  # or every run would end with samples, and take twice as long
    return folder / "tokens"


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plan") / "plan.toml"
    kiban(*SEARCH, file)
    return file


def row_of(config: ModelConfig, layout: Layout, device: str, length: int = 2048) -> dict[str, object]:
    return run_row("run", config, length, layout, device, gpu_of_device(device), 10**9, 5e4, 2e4, 0.25, 30 * 2**30)


def test_a_plan_is_launched_and_its_run_is_checked(packed: Path, plan_file: Path, tmp_path: Path) -> None:
    launch = ("train", "--plan", plan_file, "--data", packed, "--to", tmp_path / "run", "--learning-rate", "1e-3")
    done = kiban(*launch)
    assert f"planned with a vocabulary of 8192; that of the data is {tiny.VOCABULARY}" in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 2000 // (4 * 64) and lines[-1]["tokens"] == 7 * 4 * 64
    (state,) = (tmp_path / "run" / "checkpoints").glob("step-*/state.json")
    settings = json.loads(state.read_text())["identity"]["settings"]
    wanted = {"preset": "nano", "dtype": "bfloat16", "micro_batch_tokens": 256, "batch_sequences": 4}
    assert wanted.items() <= settings.items()

    history = tmp_path / "history.json"
    (row,) = read_rows(history)
    assert row["measured"]["step_time_s"] == pytest.approx(4 * 64 / row["measured"]["tokens_per_s_per_gpu"])
    speeds = sorted(line["tokens_per_s"] for line in lines)
    assert row["measured"]["tokens_per_s_per_gpu"] == pytest.approx(speeds[3])
    if row["hardware"]["gpu"].startswith("CPU"):
        answer = kiban_json("plan", "check", history, "--json")
        (reason,) = answer["unmodelled"]
        assert reason["id"] == row["id"] and "of no architecture" in reason["reason"]
    kiban(*launch)  # it is finished: nothing to train, and nothing new to tell
    assert read_rows(history) == [row]
    part = kiban(*launch[:5], "--to", tmp_path / "part", "--steps", "1")
    assert "1 of the 7 steps that are planned" in part.stderr
    assert [row["name"] for row in read_rows(history)] == ["run", "part"]


@pytest.mark.slow
def test_a_plan_for_a_folder_keeps_its_model(packed: Path, tmp_path: Path) -> None:
    config = preset("nano", tiny.VOCABULARY).model_copy(update={"num_hidden_layers": 2, "num_nextn_predict_layers": 1})
    (tmp_path / "model").mkdir()
    content = hf_config(config, torch.float32, bos_id=0, eos_id=1, pad_id=2)
    (tmp_path / "model" / "config.json").write_text(json.dumps(content))
    search_it = ("plan", "search", tmp_path / "model", *SEARCH[3:])
    kiban(*search_it, tmp_path / "plan.toml")
    plan = read_plan(tmp_path / "plan.toml")
    assert plan.preset is None and plan.model == config
    launch = ("train", "--plan", tmp_path / "plan.toml", "--data", packed, "--to", tmp_path / "run")
    assert "for a model of its own" in error_of(*launch, "--preset", "tiny")
    assert "--set mtp False: " in error_of(*launch, "--set", "mtp=false")
    kiban(*launch, "--steps", "1")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_hidden_layers"] == 2
    assert read_rows(tmp_path / "history.json")[0]["model"]["mtp_layers"] == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"preset": "tiny"}, "--preset tiny: "),
        ({"batch_sequences": 8}, "--batch-sequences 8: "),
        ({"sequence_length": 128}, "says 64; leave it out, or plan anew"),
        ({"dtype": "float32"}, "says bfloat16"),
        ({"micro_batch_tokens": 64}, "--set micro_batch_tokens 64: "),
    ],
)
def test_what_contradicts_the_plan_is_refused(plan_file: Path, given: dict[str, object], expected: str) -> None:
    with pytest.raises(KibanError) as caught:
        _planned(read_plan(plan_file), plan_file, given)
    assert expected in str(caught.value)


def test_more_steps_than_planned_are_refused(packed: Path, plan_file: Path, tmp_path: Path) -> None:
    launch = ("train", "--plan", plan_file, "--data", packed, "--to", tmp_path / "run")
    assert "has tokens for 7" in error_of(*launch, "--steps", "8")
    assert not (tmp_path / "run").exists()


def test_what_one_process_cannot_do_is_named(plan_file: Path) -> None:
    plan = read_plan(plan_file)
    wide = replace(plan.layout, gpus=8, tensor=2, global_batch=8)
    for layout, expected in (
        (wide, "tensor = 2, data = 4: this is one process; start the ranks with torchrun"),
        (replace(plan.layout, recompute="full"), 'recompute = "full"'),
        (replace(plan.layout, precision="fp8"), 'precision = "fp8": training computes in bf16'),
    ):
        with pytest.raises(KibanError, match=expected.replace("=", ".")):
            settings_of(plan.model_copy(update={"layout": layout}), plan_file)
    assert settings_of(plan, plan_file)["batch_sequences"] == 4


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("\ntensor = 1", "\ntensor = 3", "are no multiple of tensor 3"),
        ("\ntensor = 1", "\ntensor_parallel = 1", "there is no tensor_parallel"),
        ("tokens = 2000", "tokens = 0", "tokens: input should be greater than 0"),
        ("hidden_size = 256", "hidden_size = 512", "[model] is not what preset 'nano' is"),
        ('preset = "nano"', 'preset = "nano', "not TOML"),
    ],
)
def test_a_plan_that_was_spoilt_is_refused(plan_file: Path, tmp_path: Path, old: str, new: str, expected: str) -> None:
    text = plan_file.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "plan.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(KibanError) as caught:
        read_plan(tmp_path / "plan.toml")
    assert expected in str(caught.value)


def test_neither_steps_nor_a_plan(packed: Path) -> None:
    assert "give a --plan" in error_of("train", "--data", packed)
    with pytest.raises(KibanError, match="cannot be read"):
        read_plan(packed / "none.toml")


def test_a_plan_is_read_as_it_was_written(plan_file: Path, tmp_path: Path) -> None:
    plan = read_plan(plan_file)
    write_plan(tmp_path / "again.toml", plan)
    assert read_plan(tmp_path / "again.toml") == plan
    assert tomllib.loads(plan_file.read_text())["predicted"]["step_seconds"]["total"] > 0
    with pytest.raises(KibanError, match="cannot be written"):
        write_plan(plan_file / "x" / "plan.toml", plan)


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_says_the_whole_shape(name: str) -> None:
    """What `plan check` reads out of a row is the model that ran."""
    for mtp in (0, 1):
        config = preset(name).model_copy(update={"num_nextn_predict_layers": mtp})
        row = row_of(config, Layout(1, global_batch=8), "NVIDIA H100 80GB HBM3")
        assert _shape(row["model"]) == shape_of(config)  # type: ignore[arg-type]


def test_a_run_on_a_gpu_is_predicted_as_the_search_predicts_it() -> None:
    shape, card = shape_of(preset("small")), gpu("h100")
    (best, *_) = search(shape, card, layouts(shape, card, 1, 64, 2048, ["bf16"]), 2048).candidates
    row = row_of(preset("small"), best.layout, "NVIDIA H100 80GB HBM3")
    run = read_run(row)
    assert (run.layout.tensor, run.layout.micro_batch) == (1, best.layout.micro_batch) and run.chosen == ()
    found = check([row])
    assert not found.unmodelled
    predicted = {compared.figure: compared.predicted for compared in found.rows}
    assert {"step_time_s", "tokens_per_s_per_gpu", "tflops_per_gpu_model", "peak_mem_gb", "gpu_hours"} == {*predicted}
    assert predicted["step_time_s"] == pytest.approx(best.seconds)
    assert predicted["peak_mem_gb"] == pytest.approx(best.memory["total"] / 2**30)
    tflops = next(compared for compared in found.rows if compared.figure == "tflops_per_gpu_model")
    assert tflops.measured / tflops.predicted == pytest.approx(5e4 / predicted["tokens_per_s_per_gpu"])


def test_devices() -> None:
    for device, name in (
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40GB"),
        ("NVIDIA GB200", gpu("gb200").name),
    ):
        card = gpu_of_device(device)
        assert card and card.name == name
    for device in ("NVIDIA H100 PCIe", "NVIDIA H200 NVL", "NVIDIA GeForce RTX 4090", "CPU: AMD EPYC 9R14, 2 cores"):
        assert gpu_of_device(device) is None


def test_a_history_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text('{"mine": 1}')
    with pytest.raises(KibanError, match="must be a list"):
        append(tmp_path / "history.json", row_of(preset("nano"), Layout(1), "CPU"))
    assert (tmp_path / "history.json").read_text() == '{"mine": 1}'
