"""Training speed on one GPU: a dense model of 1B, and an MoE of 8B of which 1B are active (preset `base`), in bfloat16.

    python benchmarks/training_gpu.py                          # at most nine minutes; leaves a record in any case
    python benchmarks/training_gpu.py --device cpu --small     # seconds: whether the script works

Every case is a process of its own with a share of the time, so that one that runs out of memory or time takes nothing
else with it; the record is written anew after each. Weights, gradients and the optimiser's state are in bfloat16: in
float32 the 8B would not fit. torchtitan runs at the same shape where this Python can import it (`titan_model.py`).
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import record  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from kiban.model.config import ModelConfig  # noqa: E402
from kiban.model.presets import preset  # noqa: E402
from kiban.model.transformer import Transformer  # noqa: E402
from kiban.training.flops import flops_per_token, matmul_rate  # noqa: E402
from kiban.training.optimiser import optimisers as optimisers_of  # noqa: E402

LossOf = Callable[[Tensor, Tensor], Tensor]

BUDGET = 500.0  # seconds for all
CASE = 70.0  # seconds for a case at most
WARMUP, STEPS = 3, 10
MFU_TARGETS = {"dense": 0.55, "moe": 0.40}
TITAN_TARGET = 1.1
CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

# In the order in which the time is spent: what is most likely to be best comes first, the peer before our variations.
CASES: list[dict[str, Any]] = [
    {"who": "kiban", "shape": "dense", "sequences": 4, "compile": True, "attention": "default"},
    {"who": "kiban", "shape": "moe", "sequences": 2, "compile": True, "attention": "default"},
    {"who": "torchtitan", "shape": "dense", "sequences": 4, "compile": True, "attention": "default"},
    {"who": "torchtitan", "shape": "moe", "sequences": 2, "compile": True, "attention": "default"},
    {"who": "kiban", "shape": "moe", "sequences": 2, "compile": False, "attention": "default"},
    {"who": "kiban", "shape": "dense", "sequences": 4, "compile": False, "attention": "default"},
    {"who": "kiban", "shape": "moe", "sequences": 2, "compile": True, "attention": "cudnn"},
    {"who": "kiban", "shape": "dense", "sequences": 4, "compile": True, "attention": "cudnn"},
    {"who": "torchtitan", "shape": "moe", "sequences": 2, "compile": False, "attention": "default"},
    {"who": "torchtitan", "shape": "dense", "sequences": 4, "compile": False, "attention": "default"},
    {"who": "kiban", "shape": "moe", "sequences": 4, "compile": True, "attention": "default"},
    {"who": "kiban", "shape": "dense", "sequences": 8, "compile": True, "attention": "default"},
    {"who": "torchtitan", "shape": "moe", "sequences": 4, "compile": True, "attention": "default"},
    {"who": "torchtitan", "shape": "dense", "sequences": 8, "compile": True, "attention": "default"},
]


def main() -> None:
    args = arguments()
    if args.case:
        Path(args.out).write_text(json.dumps(measure(json.loads(args.case), torch.device(args.device), args.small)))
        return
    ends = time.monotonic() + args.budget
    figures: dict[str, Any] = {**record.circumstances(), "device": args.device, "small": args.small, "cases": []}
    configs = {shape: config_of(shape, args.small) for shape in MFU_TARGETS}
    figures["shapes"] = {
        shape: {"parameters": c.parameters().total, "active": c.parameters().active} for shape, c in configs.items()
    }
    figures["matmul_rates"] = matmul_rates(torch.device(args.device), args.small)
    path = record.write("training_gpu", figures, markdown(figures), args.results)
    has_titan = importlib.util.find_spec("torchtitan") is not None
    for case in CASES:
        if args.small and (case["compile"] or case["attention"] != "default"):
            continue
        left = ends - time.monotonic()
        if case["who"] == "torchtitan" and not has_titan:
            result = {"error": "torchtitan cannot be imported by this Python"}
        elif left < 15:
            result = {"error": "no time was left"}
        else:
            result = run(case, args, min(left - 5, CASE))
        figures["cases"].append(case | result)
        print(*row(case | result, figures), sep="  ", flush=True)
        path = record.write("training_gpu", figures, markdown(figures), args.results)
    print(f"\n{path.read_text()}\n{path}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="tiny shapes, no compilation: to try the script out")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all cases together")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)  # what a process of its own measures
    parser.add_argument("--out", help=argparse.SUPPRESS)
    return parser.parse_args()


def config_of(shape: str, small: bool) -> ModelConfig:
    """`base`, and the same with a dense layer, which costs a token what an MoE layer costs it, in every place."""
    config = preset("nano", vocab_size=512) if small else preset("base")
    return config.model_copy(update={"first_k_dense_replace": config.num_hidden_layers}) if shape == "dense" else config


def matmul_rates(device: torch.device, small: bool) -> list[float]:
    return [matmul_rate(device, torch.bfloat16, 0.05 if small else 0.5) for _ in range(5)]


def run(case: dict[str, Any], args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, __file__, "--device", args.device, "--case", json.dumps(case), "--out", str(out)]
        command += ["--small"] if args.small else []
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {seconds:.0f} s"}
        if done.returncode:
            return {"error": record.reason(done)}
        result: dict[str, Any] = json.loads(out.read_text())
        return result


def measure(case: dict[str, Any], device: torch.device, small: bool) -> dict[str, Any]:
    """One case: seconds of each step after the warm-up, losses, peak memory."""
    config = config_of(case["shape"], small)
    sequences, length = (2, 64) if small else (case["sequences"], config.max_position_embeddings)
    generator = torch.Generator(device).manual_seed(0)
    cudnn = case["attention"] == "cudnn"
    builder = kiban if case["who"] == "kiban" else torchtitan
    model, loss_of = builder(config, device, length)
    with torch.no_grad():
        for parameter in model.parameters():  # not the buffers: the routing bias stays in float32
            parameter.data = parameter.data.to(torch.bfloat16)
            if parameter.dim() > 1:
                parameter.normal_(std=0.006, generator=generator)
            else:
                parameter.fill_(1.0)
    for block in blocks(model) if case["compile"] else ():
        block.compile()
    # As our loop has it; the names differ, so torchtitan's input embedding decays too, which costs no time.
    (optimiser,) = optimisers_of(model, "adamw", 1e-4, 0.1)
    tokens_BX = torch.randint(16, config.vocab_size, (sequences, length + 1), generator=generator, device=device)
    seconds, losses = [], []
    for step in range(WARMUP + (2 if small else STEPS)):
        began = time.perf_counter()
        with sdpa_kernel(CUDNN_FIRST, set_priority=True) if cudnn else nullcontext():
            loss = loss_of(tokens_BX[:, :-1].contiguous(), tokens_BX[:, 1:].contiguous())
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if isinstance(model, Transformer) and case["shape"] == "moe":
            model.update_routing_bias(1e-3)  # torchtitan's is not installed
        losses.append(loss.item())  # waits for the device
        if step >= WARMUP:
            seconds.append(time.perf_counter() - began)
    return {
        "seconds": seconds,
        "losses": losses,
        "batch_tokens": sequences * length,
        "flops_per_token": flops_per_token(config, length),
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def blocks(model: nn.Module) -> list[nn.Module]:
    layers = model.layers
    return list(layers if isinstance(layers, nn.ModuleList) else layers.values())


def kiban(config: ModelConfig, device: torch.device, length: int) -> tuple[nn.Module, LossOf]:
    with device:
        model = Transformer(config)
    model.dtype = torch.bfloat16
    return model, lambda tokens_BL, targets_BL: model.loss(tokens_BL, targets_BL)[0]


def torchtitan(config: ModelConfig, device: torch.device, length: int) -> tuple[nn.Module, LossOf]:
    """With its chunked loss, which its own configurations have, its grouped experts, and its SDPA module."""
    import titan_model
    from torchtitan.components.loss import ChunkedLossWrapper

    with device:
        model = titan_model.build(config.model_dump(), length)
    loss = ChunkedLossWrapper.Config().build()
    loss.set_lm_head(model.lm_head)
    model._skip_lm_head = True

    def loss_of(tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
        count = torch.tensor(targets_BL.numel(), device=device)
        mean: Tensor = loss(model(tokens_BL), targets_BL, count)[0]
        return mean

    return model, loss_of


def figures_of(case: dict[str, Any], figures: dict[str, Any]) -> dict[str, float]:
    """Tokens/s and MFU by the median step."""
    tokens_per_s = case["batch_tokens"] / statistics.median(case["seconds"])
    mfu = tokens_per_s * case["flops_per_token"] / statistics.median(figures["matmul_rates"])
    return {"tokens_per_s": tokens_per_s, "mfu": mfu}


def row(case: dict[str, Any], figures: dict[str, Any]) -> list[str]:
    how = f"{case['sequences']} sequences, " + ("compiled" if case["compile"] else "not compiled")
    start = [case["shape"], case["who"], how, case["attention"]]
    if "error" in case:
        return [*start, case["error"].replace("|", "/"), "", "", ""]
    found = figures_of(case, figures)
    slowest, fastest = (case["batch_tokens"] / f(case["seconds"]) for f in (max, min))
    memory = f"{case['peak_bytes'] / 1e9:.0f} GB" if case["peak_bytes"] else ""
    speed = f"{found['tokens_per_s']:.0f} ({slowest:.0f} to {fastest:.0f})"
    return [*start, speed, f"{found['mfu']:.1%}", memory, f"{case['losses'][0]:.3f}, {case['losses'][-1]:.3f}"]


def markdown(figures: dict[str, Any]) -> str:
    lines = record.head("Training on one GPU", figures)
    rates = [rate * 1e-12 for rate in figures["matmul_rates"]]
    lines += [
        f"- torch: {figures['torch']}, Python {figures['python']}",
        f"- matrix product in bfloat16: {statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f}) TFLOP/s",
    ]
    for shape, sizes in figures["shapes"].items():
        lines += [f"- {shape}: {sizes['parameters'] / 1e9:.2f}B parameters, {sizes['active'] / 1e9:.2f}B active"]
    if figures["small"]:
        lines += ["- **a trial of the script with tiny shapes: the figures mean nothing**"]
    lines += ["", "Tokens/s: the median step, and the slowest to the fastest, of those after the warm-up.", ""]
    for shape, target in MFU_TARGETS.items():
        best = {
            who: max((figures_of(case, figures)["tokens_per_s"] for case in done(figures, who, shape)), default=None)
            for who in ("kiban", "torchtitan")
        }
        mfu = max((figures_of(case, figures)["mfu"] for case in done(figures, "kiban", shape)), default=None)
        if mfu is not None:
            lines += [f"- {shape}: MFU {mfu:.1%} at best, asked {target:.0%}: {verdict(mfu >= target)}"]
        if best["kiban"] and best["torchtitan"]:
            ratio = best["kiban"] / best["torchtitan"]
            met = verdict(ratio >= TITAN_TARGET)
            lines += [f"- {shape}: {ratio:.2f} times torchtitan, each at its best, asked {TITAN_TARGET}: {met}"]
        else:
            lines += [f"- {shape}: no ratio to torchtitan"]
    columns = ["shape", "who", "how", "attention", "tokens/s", "MFU", "peak memory", "first and last loss"]
    return "\n".join([*lines, "", *record.table(columns, [row(case, figures) for case in figures["cases"]])])


def done(figures: dict[str, Any], who: str, shape: str) -> list[dict[str, Any]]:
    return [c for c in figures["cases"] if c["who"] == who and c["shape"] == shape and "error" not in c]


def verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"


if __name__ == "__main__":
    main()
