"""llama.cpp's converter on our export: that it takes it, and that what it wrote are the weights that we load.

KIBAN_LLAMA_CPP names a checkout of llama.cpp, whose converter wants sentencepiece and PyYAML beside what `dev` has.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kiban.model import hf
from kiban.model.transformer import Transformer
from kiban.tokenizer.bpe import Tokenizer
from tests.model.test_hf import ODD
from tests.model.test_transformer import VARIANTS, build
from tests.training import tiny

pytestmark = pytest.mark.slow

# The converter knows pre-tokenizers by a hash of what they make of one text, and refuses those that it does not know,
# ours among them: llama.cpp has to learn the pattern before it can tokenise as we do. That is not what is tested here,
# so a name is given to it; a file so made would cut text in other places.
CONVERT = """
import runpy, sys
folder = sys.argv.pop(1)
sys.path.insert(0, folder)
sys.argv[0] = folder + "/convert_hf_to_gguf.py"
if KNOWN:
    from conversion.base import TextModel
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "default"
runpy.run_path(sys.argv[0], run_name="__main__")
"""

NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.o_proj": "attn_output",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}


@pytest.fixture
def checkout() -> Path:
    location = os.environ.get("KIBAN_LLAMA_CPP")
    if not location:
        pytest.skip("KIBAN_LLAMA_CPP is not set: llama.cpp's converter was NOT run on the export")
    assert (Path(location) / "convert_hf_to_gguf.py").is_file(), f"KIBAN_LLAMA_CPP={location} is no checkout"
    return Path(location)


def convert(checkout: Path, folder: Path, known: bool) -> subprocess.CompletedProcess[str]:
    code = f"KNOWN = {known}\n{CONVERT}"
    command = [sys.executable, "-c", code, str(checkout), str(folder), "--outtype", "f32"]
    return subprocess.run([*command, "--outfile", str(folder / "model.gguf")], capture_output=True, text=True)


def expected(model: Transformer) -> dict[str, torch.Tensor]:
    """Under llama.cpp's names, with its halves of kv_b_proj: [H, C, N] and [H, V, C]. It leaves the MTP layer out."""
    c, wanted = model.config, {}
    for name, tensor in model.state_dict().items():
        if name.startswith("mtp."):
            continue
        match = re.fullmatch(r"(?:layers\.(\d+)\.)?(.*?)(?:\.weight)?", name)
        assert match
        prefix, name = f"blk.{match[1]}." if match[1] else "", match[2]
        if name == "mlp.experts.gate_up_proj":
            gate, up = tensor.chunk(2, 1)
            wanted |= {f"{prefix}ffn_gate_exps.weight": gate, f"{prefix}ffn_up_exps.weight": up}
        elif name == "mlp.experts.down_proj":
            wanted[f"{prefix}ffn_down_exps.weight"] = tensor
        elif name == "mlp.gate.e_score_correction_bias":
            wanted[f"{prefix}exp_probs_b.bias"] = tensor
        elif name == "self_attn.kv_b_proj":
            heads = tensor.view(c.num_attention_heads, -1, c.kv_lora_rank)
            key, value = heads.split([c.qk_nope_head_dim, c.v_head_dim], 1)
            wanted |= {f"{prefix}attn_k_b.weight": key.mT, f"{prefix}attn_v_b.weight": value}
        else:
            wanted[f"{prefix}{NAMES[name]}.weight"] = tensor
    return wanted


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        ({}, torch.float32),
        ({"num_nextn_predict_layers": 1}, torch.float32),
        ({"q_lora_rank": 24, "n_group": 4, "topk_group": 2, "num_nextn_predict_layers": 1}, torch.bfloat16),
        (VARIANTS["yarn"], torch.float32),
        (ODD, torch.float8_e4m3fn),
    ],
    ids=["plain", "mtp", "compressed queries and groups in bfloat16", "yarn", "fp8 with odd sizes"],
)
def test_llama_cpp_converts_every_weight(
    variant: dict[str, Any], dtype: torch.dtype, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf.save(build(vocab_size=tiny.VOCABULARY, **variant), tmp_path, dtype, shard_bytes=200_000)
    Tokenizer.train(tiny.texts(), tiny.VOCABULARY).save(tmp_path)
    done = convert(checkout, tmp_path, known=True)
    assert done.returncode == 0, done.stderr[-4000:]
    monkeypatch.syspath_prepend(str(checkout / "gguf-py"))
    from gguf import GGUFReader

    reader, model = GGUFReader(tmp_path / "model.gguf"), hf.load(tmp_path)
    made = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in reader.tensors}
    wanted = expected(model)
    assert set(made) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(made[name], tensor), name
    fields = {key.removeprefix("deepseek2."): field.contents() for key, field in reader.fields.items()}
    c = model.config
    numbers = {
        "block_count": c.num_hidden_layers,
        "leading_dense_block_count": c.first_k_dense_replace,
        "expert_gating_func": 2,  # sigmoid
        "expert_weights_norm": True,
        "expert_weights_scale": c.routed_scaling_factor,
        "expert_group_count": c.n_group,
        "expert_group_used_count": c.topk_group,
        "expert_shared_count": c.n_shared_experts,
        "expert_used_count": c.num_experts_per_tok,
        "attention.key_length_mla": c.qk_nope_head_dim + c.qk_rope_head_dim,
        "rope.dimension_count": c.qk_rope_head_dim,
        "rope.freq_base": c.rope_theta,
    }
    if c.rope_scaling:
        numbers |= {"rope.scaling.type": "yarn", "rope.scaling.factor": c.rope_scaling.factor}
    assert {key: fields[key] for key in numbers} == numbers


def test_llama_cpp_does_not_know_our_pre_tokenizer_yet(checkout: Path, tmp_path: Path) -> None:
    """When this fails, it does: then `CONVERT` need not tell it a name."""
    hf.save(build(vocab_size=tiny.VOCABULARY), tmp_path)
    Tokenizer.train(tiny.texts(), tiny.VOCABULARY).save(tmp_path)
    done = convert(checkout, tmp_path, known=False)
    assert done.returncode != 0 and "BPE pre-tokenizer was not recognized" in done.stderr
