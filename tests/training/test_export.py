"""The export of a run, without the command: what it writes, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.model import hf
from kiban.model.tensor_files import write_tensors
from kiban.model.transformer import Transformer
from kiban.tokenizer.bpe import Tokenizer
from kiban.training.export import Dtype, export_run, partial_blocks
from tests.model.test_transformer import build
from tests.training import tiny


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    model = build(vocab_size=tiny.VOCABULARY, hidden_size=200, num_nextn_predict_layers=1)
    write_tensors(folder / "model.safetensors", model.state_dict())
    write_json(folder / "config.json", model.config.model_dump(mode="json"))
    Tokenizer.train(tiny.texts(), tiny.VOCABULARY).save(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp8"])
def test_a_run_is_exported_without_a_model_in_memory(dtype: Dtype, run: Path, tmp_path: Path) -> None:
    written: Transformer = build(vocab_size=tiny.VOCABULARY, hidden_size=200, num_nextn_predict_layers=1)
    export_run(run, run, tmp_path / "hf", dtype)
    content = read_json(tmp_path / "hf" / "config.json")
    assert content["torch_dtype"] == ("bfloat16" if dtype == "fp8" else dtype)
    assert ("quantization_config" in content) == (dtype == "fp8")
    loaded = hf.load(tmp_path / "hf").state_dict()
    most = {"float32": 0.0, "bfloat16": 2**-8, "fp8": 2**-4}[dtype]  # half a step, relative
    for name, tensor in written.state_dict().items():
        assert torch.allclose(loaded[name], tensor, rtol=most, atol=0.002 if dtype == "fp8" else 0.0), name
    assert (partial_blocks(tmp_path / "hf") > 0) == (dtype == "fp8")


def shorten(run: Path) -> None:
    (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-100])


def config(**changes: object) -> Callable[[Path], None]:
    return lambda run: write_json(run / "config.json", read_json(run / "config.json") | changes)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shorten, "model.safetensors: no whole safetensors file"),
        (config(vocab_size=400), "not of the model that config.json describes"),
        (config(hidden_size="wide"), "config.json: describes no model"),
        (lambda run: write_json(run / "state.json", {}), "state.json: describes no model"),
        (lambda run: (run / "model.safetensors").unlink(), "holds no model.safetensors"),
    ],
)
def test_a_damaged_run_is_not_exported(damage: Callable[[Path], None], says: str, run: Path, tmp_path: Path) -> None:
    damage(run)
    with pytest.raises(KibanError, match=says):
        export_run(run, run, tmp_path / "hf")
    assert not (tmp_path / "hf" / "config.json").exists()
