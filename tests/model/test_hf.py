"""The Hugging Face layout: against transformers' own model, against what transformers writes, and what is refused."""

import resource
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.model import hf
from kiban.model.config import Yarn
from kiban.model.fp8 import dequantise, is_quantised, quantise
from kiban.model.presets import preset
from kiban.model.transformer import Transformer
from tests.model.test_transformer import VARIANTS, build, tokens

# No multiples of 128; the width of an expert is one of 4, which torch's grouped matmul wants in float32.
ODD = {"hidden_size": 200, "moe_intermediate_size": 132, "kv_lora_rank": 129, "num_nextn_predict_layers": 1}
SAVED = VARIANTS | {
    "odd sizes": ODD,
    "everything": VARIANTS["compressed queries"] | VARIANTS["groups"] | VARIANTS["mtp"] | VARIANTS["yarn"],
}


def logits_of(folder: Path, x_BL: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """By transformers. Nothing may be missing there."""
    from transformers import DeepseekV3ForCausalLM

    theirs, report = DeepseekV3ForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    with torch.no_grad():
        return theirs.eval()(x_BL).logits


def assert_same(ours: Transformer, theirs: torch.Tensor, x_BL: torch.Tensor) -> None:
    with torch.no_grad():
        logits = ours.eval().logits(ours(x_BL))
    assert theirs.std() > 0.1
    assert (logits - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("shard_bytes", [hf.SHARD_BYTES, 40_000])
@pytest.mark.parametrize("variant", SAVED)
def test_transformers_loads_the_export_and_gives_the_same_logits(
    variant: str, shard_bytes: int, tmp_path: Path
) -> None:
    model = build(**SAVED[variant])
    hf.save(model, tmp_path, shard_bytes=shard_bytes)
    assert_same(model, logits_of(tmp_path, tokens(2, 70)), tokens(2, 70))


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_transformers_loads_presets(name: str, tmp_path: Path) -> None:
    config = preset(name, 512).model_copy(update={"num_nextn_predict_layers": 1, "initializer_range": 0.1})
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(1))
    hf.save(model, tmp_path, shard_bytes=20_000_000)
    assert_same(model, logits_of(tmp_path, tokens(1, 40)), tokens(1, 40))


@pytest.mark.parametrize("shard_bytes", [hf.SHARD_BYTES, 40_000])
@pytest.mark.parametrize("variant", SAVED)
def test_the_way_back_is_exact(variant: str, shard_bytes: int, tmp_path: Path) -> None:
    model = build(**SAVED[variant])
    hf.save(model, tmp_path, shard_bytes=shard_bytes)
    again = hf.load(tmp_path).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_shards_are_what_the_index_says(dtype: torch.dtype, tmp_path: Path) -> None:
    count = hf.save(build(**ODD), tmp_path, dtype, shard_bytes=300_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
    ]
    index, held, total = read_json(tmp_path / hf.INDEX), {}, 0
    for file in files:
        tensors = load_file(file)
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 300_000 or len(tensors) == 1
        held |= dict.fromkeys(tensors, file.name)
        total += size
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert index == {"metadata": {"total_size": total}, "weight_map": held} and count == len(held)
    mtp = {file for name, file in held.items() if name.startswith("model.layers.3.")}
    assert len(files) > len(mtp) + 1 and mtp.isdisjoint(
        file for name, file in held.items() if not name.startswith("model.layers.3.")
    )
    for name, file in held.items():
        assert held.get(f"{name}_scale_inv", file) == file


def test_scales_count_for_the_size_of_a_shard() -> None:
    weights = [(f"model.layers.0.mlp.{name}_proj.weight", torch.zeros(128, 128)) for name in ("gate", "up")]
    both = 2 * (128 * 128 + 4)
    assert [len(hf._shards(weights, torch.float8_e4m3fn, most)) for most in (both, both - 1)] == [1, 2]


def test_one_shard_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[weakref.ref[torch.Tensor]] = []
    model, sizes = build(), []

    def write(path: Path, given: dict[str, torch.Tensor]) -> None:
        assert not any(ref() is not None for ref in before), "tensors of an earlier shard are still held"
        before.extend(weakref.ref(tensor) for tensor in given.values())
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in given.values()))

    monkeypatch.setattr(hf, "write_tensors", write)
    hf.save(model, tmp_path, shard_bytes=40_000)
    assert len(sizes) > 5 and max(sizes) <= 40_000


def test_a_full_disk_is_an_os_error_and_leaves_no_config(tmp_path: Path) -> None:
    model = build()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            hf.save(model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "config.json").exists()


def test_bfloat16_export_keeps_the_routing_bias_in_float32(tmp_path: Path) -> None:
    from transformers import DeepseekV3ForCausalLM

    model = build(num_nextn_predict_layers=1)
    hf.save(model, tmp_path, dtype=torch.bfloat16)
    for file in tmp_path.glob("*.safetensors"):
        kinds = {name.endswith("e_score_correction_bias"): t.dtype for name, t in load_file(file).items()}
        assert kinds == {True: torch.float32, False: torch.bfloat16}
    theirs = DeepseekV3ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    loaded = hf.load(tmp_path, torch.bfloat16)
    assert loaded.lm_head.weight.dtype == theirs.lm_head.weight.dtype == torch.bfloat16
    for layer in (1, 2):
        wanted = model.layers[layer].mlp.gate.e_score_correction_bias
        for bias in (m.layers[layer].mlp.gate.e_score_correction_bias for m in (loaded, theirs.model)):
            assert bias.dtype == torch.float32 and torch.equal(bias, wanted)
    assert_same(hf.load(tmp_path), logits_of(tmp_path, tokens(2, 40)), tokens(2, 40))


def test_config_json_has_every_field_that_a_loader_needs(tmp_path: Path) -> None:
    hf.save(build(), tmp_path)
    content = read_json(tmp_path / "config.json")
    wanted = {
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "moe_layer_freq": 1,
        "rope_theta": 10000.0,
        "n_group": 1,
        "norm_topk_prob": True,
        "num_nextn_predict_layers": 0,
        "architectures": ["DeepseekV3ForCausalLM"],
        "torch_dtype": "float32",
        "q_lora_rank": None,
        "num_key_value_heads": 3,
    }
    assert {key: content[key] for key in wanted} == wanted and "quantization_config" not in content


@pytest.mark.parametrize("shape", [(128, 128), (256, 384), (1, 1), (130, 64), (127, 300), (20, 129)])
def test_block_wise_fp8_keeps_every_value_within_its_rounding(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) * torch.randn(shape[0], 1, generator=generator).exp()
    weight[: shape[0] // 2, : shape[1] // 2] *= 100.0
    stored, scale = quantise(weight)
    assert stored.dtype == torch.float8_e4m3fn and scale.dtype == torch.float32
    assert list(scale.shape) == [-(-shape[0] // 128), -(-shape[1] // 128)]
    back = dequantise(stored, scale)
    for top in range(0, shape[0], 128):
        for left in range(0, shape[1], 128):
            block = (slice(top, top + 128), slice(left, left + 128))
            of = scale[top // 128, left // 128]
            assert torch.isclose(of * 448, weight[block].abs().max())
            # e4m3: three bits after the first, so half a step is 1/16; below 2**-6 the step is 2**-9.
            bound = torch.maximum(weight[block].abs() / 16, of * 2**-10) * 1.0001
            assert ((back[block] - weight[block]).abs() <= bound).all()


def test_a_block_of_zeros_stays_zeros() -> None:
    stored, scale = quantise(torch.zeros(130, 5))
    assert torch.equal(dequantise(stored, scale), torch.zeros(130, 5)) and (scale > 0).all()


def test_the_fp8_export_quantises_what_deepseek_v3_quantises(tmp_path: Path) -> None:
    model = build(**ODD | {"q_lora_rank": 24})
    hf.save(model, tmp_path, torch.float8_e4m3fn, shard_bytes=200_000)
    content = read_json(tmp_path / "config.json")
    assert content["torch_dtype"] == "bfloat16" and content["quantization_config"] == {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }
    tensors = {name: t for file in tmp_path.glob("*.safetensors") for name, t in load_file(file).items()}
    fp8 = {name for name, tensor in tensors.items() if tensor.dtype == torch.float8_e4m3fn}
    assert {f"{name}_scale_inv" for name in fp8} == {name for name in tensors if name.endswith("_scale_inv")}
    kept = {name.removeprefix("model.") for name in set(tensors) - fp8 if not name.endswith("_scale_inv")}
    # As in the release: of layer 1 and of the MTP layer, these alone are not fp8.
    norms = ["input_layernorm", "post_attention_layernorm", "self_attn.q_a_layernorm", "self_attn.kv_a_layernorm"]
    block = {f"{norm}.weight" for norm in norms} | {"mlp.gate.weight", "mlp.gate.e_score_correction_bias"}
    mtp = {"enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head", "embed_tokens"}
    assert {name.removeprefix("layers.1.") for name in kept if name.startswith("layers.1.")} == block
    assert {name.removeprefix("layers.3.") for name in kept if name.startswith("layers.3.")} == block | {
        f"{name}.weight" for name in mtp
    }
    assert {name for name in kept if not name.startswith("layers.")} == {
        "embed_tokens.weight",
        "norm.weight",
        "lm_head.weight",
    }
    for name in kept:
        bias = name.endswith("e_score_correction_bias")
        full = name if name == "lm_head.weight" else f"model.{name}"
        assert tensors[full].dtype == (torch.float32 if bias else torch.bfloat16)

    loaded = hf.load(tmp_path)
    again = dict([*hf._named(loaded), *hf._named_mtp(loaded)])
    for name, tensor in [*hf._named(model), *hf._named_mtp(model)]:
        wanted = dequantise(*quantise(tensor.detach())) if is_quantised(name) else tensor.bfloat16().float()
        if name.endswith("e_score_correction_bias"):
            wanted = tensor
        assert torch.equal(again[name], wanted), name


def test_transformers_dequantises_the_fp8_export_to_what_we_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import DeepseekV3ForCausalLM, FineGrainedFP8Config

    # Sizes that are multiples of 128, or below it: of others transformers 5.24 guesses the block from the number of
    # scales, and refuses 576 rows (DeepSeek-V3's own kv_a_proj) or scales 144 rows by halves.
    sizes = {"hidden_size": 256, "intermediate_size": 384, "moe_intermediate_size": 128, "num_attention_heads": 8}
    heads = {"kv_lora_rank": 112, "qk_nope_head_dim": 48, "qk_rope_head_dim": 16, "v_head_dim": 16}
    model = build(**sizes, **heads, num_nextn_predict_layers=1)
    hf.save(model, tmp_path, torch.float8_e4m3fn, shard_bytes=1_000_000)
    # It asks for accelerate, which serves devices, before it looks whether it needs one.
    monkeypatch.setattr("transformers.quantizers.quantizer_finegrained_fp8.is_accelerate_available", lambda: True)
    theirs = DeepseekV3ForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=FineGrainedFP8Config(dequantize=True)
    )
    x_BL = tokens(2, 40)
    with torch.no_grad():
        logits = theirs.eval()(x_BL).logits
        assert (model.logits(model(x_BL)) - logits).abs().max() > 1e-2  # fp8 is not float32
    assert_same(hf.load(tmp_path), logits, x_BL)


def written_by_transformers(folder: Path, **changes: Any) -> torch.Tensor:
    """A random model, with a routing bias, by `save_pretrained`; gives its logits of `tokens(2, 60)`."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    numbers: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "n_routed_experts": 16,
        "num_experts_per_tok": 3,
        "kv_lora_rank": 20,
        "q_lora_rank": None,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "initializer_range": 0.15,
    }
    torch.manual_seed(5)
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**numbers | changes)).eval()
    for layer in model.model.layers[3:]:
        layer.mlp.gate.e_score_correction_bias.normal_(std=0.2)
    model.save_pretrained(folder)
    with torch.no_grad():
        return model(tokens(2, 60)).logits


@pytest.mark.parametrize("dropped", [False, True])
def test_what_transformers_saves_is_loaded(dropped: bool, tmp_path: Path) -> None:
    logits = written_by_transformers(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    if dropped:  # the class has these, with other values than Kiban's
        content = read_json(tmp_path / "config.json")
        for field in ("n_group", "topk_group", "first_k_dense_replace", "routed_scaling_factor", "rope_parameters"):
            del content[field]
        write_json(tmp_path / "config.json", content)
    model = hf.load(tmp_path)
    assert (model.config.n_group, model.config.topk_group, model.mtp) == (8, 4, None)
    assert_same(model, logits, tokens(2, 60))


@pytest.mark.parametrize("numbers", [{}, {"mscale": 0.7, "mscale_all_dim": 0.4}])
def test_yarn_is_read_as_transformers_reads_it(numbers: dict[str, float], tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0}
    logits = written_by_transformers(tmp_path, rope_parameters=yarn | numbers, max_position_embeddings=64)
    assert_same(hf.load(tmp_path), logits, tokens(2, 60))


def test_rotary_settings_as_newer_tools_write_them(tmp_path: Path) -> None:
    hf.save(build(**VARIANTS["yarn"], rope_theta=5000.0), tmp_path)
    content = read_json(tmp_path / "config.json")
    scaling = content.pop("rope_scaling")
    del scaling["type"]
    content["rope_parameters"] = scaling | {"rope_theta": content.pop("rope_theta")}
    write_json(tmp_path / "config.json", content)
    config = hf.read_config(tmp_path)
    assert config.rope_theta == 5000.0 and config.rope_scaling == VARIANTS["yarn"]["rope_scaling"]


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scoring_func": "softmax"}, "scoring_func='softmax' cannot be honoured"),
        ({"model_type": "llama"}, "only 'deepseek_v3'"),
        ({"hidden_size": 50}, r"is \[97, 48\], config.json says \[97, 50\]"),
        ({"hidden_size": None}, "hidden_size: "),
        ({"hidden_size": ...}, "hidden_size: field required"),
        ({"vocab_size": "many"}, "vocab_size: input should be a valid integer"),
        ({"kv_lora_rank": 0}, "kv_lora_rank: input should be greater than 0"),
        ({"n_group": 3}, "n_routed_experts=8 is no multiple of n_group=3"),
        ({"num_key_value_heads": 1}, "num_key_value_heads=1 cannot be honoured"),
        ({"num_hidden_layers": 2}, r"model.layers.2.input_layernorm.weight has no place"),
        ({"num_hidden_layers": 4}, "there is no tensor model.layers.3.input_layernorm.weight"),
        ({"n_shared_experts": 0}, "mlp.shared_experts.down_proj.weight has no place"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised by 'gptq' cannot be loaded"),
        ({"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}}, "block-wise fp8 of format e4m3"),
        ({"quantization_config": {"quant_method": "fp8"}}, "weight_block_size=None cannot be honoured"),
        ({"rope_scaling": "yarn"}, "rope_scaling='yarn' cannot be honoured"),
        ({"rope_scaling": YARN | {"rope_type": "linear"}}, "rope_scaling of type 'linear' cannot be honoured"),
        ({"rope_scaling": YARN | {"factor": 0.5}}, "rope_scaling.factor: input should be greater than or equal to 1"),
        ({"rope_scaling": YARN | {"mscale": 1.0}}, "give both or none"),
        ({"rope_scaling": YARN | {"attention_factor": 2.0}}, "attention_factor=2.0 cannot be honoured"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    hf.save(build(), tmp_path)
    content = {name: value for name, value in (read_json(tmp_path / "config.json") | change).items() if value != ...}
    write_json(tmp_path / "config.json", content)
    with pytest.raises(KibanError, match=says) as caught:
        hf.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def rewrite(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Changes the tensors of the first shard."""

    def apply(folder: Path) -> None:
        path = min(folder.glob("*.safetensors"))
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return apply


Q = "model.layers.0.self_attn.q_proj.weight"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (
        lambda folder: (path := min(folder.glob("*.safetensors"))).write_bytes(path.read_bytes()[:-7]),
        "no whole safetensors file.*copy it again",
    ),
    "empty": (lambda folder: min(folder.glob("*.safetensors")).write_bytes(b""), "no whole safetensors file"),
    "file gone": (lambda folder: max(folder.glob("*.safetensors")).unlink(), "missing; copy the whole folder again"),
    "no index": (lambda folder: (folder / hf.INDEX).unlink(), "model.safetensors: missing"),
    "index without a map": (lambda folder: write_json(folder / hf.INDEX, {}), "has no weight_map"),
    "index no json": (lambda folder: (folder / hf.INDEX).write_text("{"), "not JSON"),
    "config a list": (lambda folder: write_json(folder / "config.json", []), "holds no JSON object"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "there is no such file"),
    "tensor gone": (rewrite(lambda t: t.pop(Q)), f"there is no tensor {Q}"),
    "other shape": (rewrite(lambda t: t.update({Q: torch.zeros(3, 3)})), r"is \[3, 3\], config.json says"),
    "integers": (rewrite(lambda t: t.update({Q: t[Q].to(torch.int8)})), "of type I8, which cannot be read"),
    "one more": (rewrite(lambda t: t.update({"model.adapter": torch.zeros(1)})), "model.adapter has no place"),
    "scale gone": (rewrite(lambda t: t.pop(Q + "_scale_inv")), f"there is no tensor {Q}_scale_inv"),
    "other scale": (
        rewrite(lambda t: t.update({Q + "_scale_inv": torch.zeros(5, 5)})),
        r"is \[5, 5\] of type F32; blocks of \(128, 128\) need \[1, 2\]",
    ),
    "fp8 unannounced": (
        lambda folder: write_json(
            folder / "config.json",
            {k: v for k, v in read_json(folder / "config.json").items() if k != "quantization_config"},
        ),
        "is fp8, but config.json has no quantization_config",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path) -> None:
    fp8 = "scale" in damage or "fp8" in damage
    hf.save(build(hidden_size=200), tmp_path, torch.float8_e4m3fn if fp8 else torch.float32, shard_bytes=900_000)
    hf.load(tmp_path)
    apply, says = DAMAGE[damage]
    apply(tmp_path)
    with pytest.raises(KibanError, match=says) as caught:
        hf.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("there", [0, 1])
@pytest.mark.parametrize("here", [0, 1])
def test_training_goes_on_from_a_checkpoint(here: int, there: int, tmp_path: Path) -> None:
    source = build(num_nextn_predict_layers=there)
    hf.save(source, tmp_path, shard_bytes=40_000)
    model = Transformer(source.config.model_copy(update={"num_nextn_predict_layers": here, "initializer_range": 0.02}))
    model.init_weights(torch.Generator().manual_seed(9))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    said: list[str] = []
    hf.load_into(model, tmp_path, said.append)
    given = source.state_dict()
    for name, tensor in model.state_dict().items():
        taken = not name.startswith("mtp.") or there
        assert torch.equal(tensor, given[name] if taken else before[name]), name
    assert [("begins untrained" in line, "left out" in line) for line in said] == {
        (1, 0): [(True, False)],
        (0, 1): [(False, True)],
    }.get((here, there), [])
    x_BX = tokens(2, 33)
    loss, _ = model.train().loss(x_BX[:, :-1], x_BX[:, 1:])
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_mtp_layer_with_a_head_of_its_own_is_said(tmp_path: Path) -> None:
    source = build(num_nextn_predict_layers=1)
    hf.save(source, tmp_path)
    path, head = max(tmp_path.glob("*.safetensors")), "model.layers.3.shared_head.head.weight"
    save_file(load_file(path) | {head: torch.zeros(97, 48)}, path)
    said: list[str] = []
    hf.load_into(model := build(num_nextn_predict_layers=1), tmp_path, said.append)
    assert len(said) == 1 and f"{head} is not lm_head.weight" in said[0]
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)
    assert torch.equal(hf.load(tmp_path).lm_head.weight, source.lm_head.weight)


def test_an_mtp_layer_without_copies_is_loaded(tmp_path: Path) -> None:
    source = build(num_nextn_predict_layers=1)
    hf.save(source, tmp_path)
    path = max(tmp_path.glob("*.safetensors"))
    save_file({n: t for n, t in load_file(path).items() if "embed_tokens" not in n and "head.head" not in n}, path)
    again = hf.load(tmp_path).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vocab_size": 96}, "vocab_size is 97 there and 96 in this model"),
        ({"n_routed_experts": 16}, "n_routed_experts is 8 there and 16 in this model"),
        ({"rope_theta": 500.0}, "rope_theta is 10000.0 there and 500.0 in this model"),
        ({"rope_scaling": Yarn(factor=4.0, original_max_position_embeddings=32)}, "rope_scaling is None there and {"),
    ],
)
def test_a_checkpoint_of_another_model_is_not_gone_on_from(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    hf.save(build(), tmp_path)
    with pytest.raises(KibanError, match=says):
        hf.load_into(build(**change), tmp_path, lambda line: None)


def test_a_damaged_checkpoint_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    hf.save(build(), tmp_path)
    rewrite(lambda t: t.pop("lm_head.weight"))(tmp_path)
    model = build()
    torch.nn.init.ones_(model.embed_tokens.weight)
    with pytest.raises(KibanError, match="there is no tensor lm_head.weight"):
        hf.load_into(model, tmp_path, lambda line: None)
    assert (model.embed_tokens.weight == 1).all()
