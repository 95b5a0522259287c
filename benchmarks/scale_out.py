"""What parallel training costs: the parallel code at one rank, and two ranks on two cores.

    python benchmarks/scale_out.py                 # preset nano, some five minutes
    python benchmarks/scale_out.py --rounds 1 --steps 2

One thread a process throughout, each round in this order: one process with the plain step; one with the parallel
step (a pipeline of one stage, a context of one rank); two with the plain step, at the same time and independent of each
other; two ranks with the gradients of FSDP over gloo, each with as many rows as the single ones. Leaves a record in
`benchmarks/results/`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

WAYS = {"plain": 1, "parallel code": 1, "two alone": 2, "two ranks": 2}
BARS = {"overhead": 0.02, "scaling": 0.85}


def main() -> None:
    import record

    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="of each run; the first two are not timed")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    parser.add_argument("--child", nargs=3, metavar=("WAY", "RANK", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        way, rank, folder = args.child
        print(json.dumps(child(way, int(rank), Path(folder), args.preset, args.steps)))
        return

    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(args.rounds):
        for way, processes in WAYS.items():
            rates[way].append(tokens_per_s(way, processes, args.preset, args.steps))
            print(f"round {number + 1}, {way}: {rates[way][-1]:.0f} tokens/s", flush=True)
    overheads = [plain / ours - 1 for plain, ours in zip(rates["plain"], rates["parallel code"], strict=True)]
    scalings = [ours / alone for ours, alone in zip(rates["two ranks"], rates["two alone"], strict=True)]
    figures: dict[str, Any] = {
        **record.circumstances(),
        "preset": args.preset,
        "steps": args.steps,
        "tokens_per_s": rates,
        "overhead": median(overheads),
        "scaling": median(scalings),
        "bars": BARS,
    }
    rows = [[way, f"{median(r):.0f}", f"{min(r):.0f} to {max(r):.0f}"] for way, r in rates.items()]
    lines = [
        *record.head(f"Parallel training on two cores: {args.preset}", figures),
        *record.table(["way", "tokens/s, median", "of all rounds"], rows),
        f"Overhead of the parallel code at one rank: {100 * figures['overhead']:.1f} % of a step "
        f"({100 * min(overheads):.1f} to {100 * max(overheads):.1f}); bar: {100 * BARS['overhead']:.0f} %.",
        "",
        f"Two ranks: {figures['scaling']:.2f} of what two processes do alone at the same time "
        f"({min(scalings):.2f} to {max(scalings):.2f}); bar: {BARS['scaling']}.",
    ]
    print(record.write("scale_out", figures, "\n".join(lines) + "\n", args.results))


def tokens_per_s(way: str, processes: int, preset: str, steps: int) -> float:
    """The sum over the processes, which run at the same time."""
    import record

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--preset", preset, "--steps", str(steps), "--child", way]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        runs = [
            subprocess.Popen(
                [*command, str(rank), folder],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(processes)
        ]
        total = 0.0
        for run in runs:
            out, err = run.communicate()
            if run.returncode:
                raise SystemExit(record.reason(subprocess.CompletedProcess(run.args, run.returncode, out, err)))
            total += json.loads(out.splitlines()[-1])
    return total


def child(way: str, rank: int, folder: Path, preset_name: str, steps: int) -> float:
    """Trains, and gives tokens/s of this process."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from kiban.model.presets import preset
    from kiban.model.transformer import Transformer
    from kiban.training.context_parallel import Context
    from kiban.training.optimiser import optimisers
    from kiban.training.pipeline import Pipeline
    from kiban.training.settings import TrainingSettings

    torch.set_num_threads(1)
    config = preset(preset_name)
    settings = TrainingSettings(preset=preset_name).resolved(config)
    assert settings.sequence_length and settings.batch_sequences and settings.dtype
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    model.dtype = getattr(torch, settings.dtype)
    model.train()
    ranks = WAYS[way] if way == "two ranks" else 1
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
        mesh = init_device_mesh("cpu", (ranks,))
        for module in [*model.layers, model]:
            fully_shard(module, mesh=mesh, reshard_after_forward=False)
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    pipeline = Pipeline(model, Context(settings.sequence_length))
    steppers = optimisers(model, settings.optimiser, 1e-3, settings.weight_decay)
    generator = torch.Generator().manual_seed(rank)
    times = []
    for _ in range(steps):
        shape = (settings.batch_sequences, settings.sequence_length + 1)
        tokens_BX = torch.randint(16, config.vocab_size, shape, generator=generator)
        if ranks > 1:
            dist.barrier()
        began = time.perf_counter()
        if way in ("plain", "two alone"):
            loss, _ = model.loss(tokens_BX[:, :-1], tokens_BX[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        else:
            pipeline.backward(tokens_BX, len(tokens_BX), 1 / ranks, 0.0)
            pipeline.clip_grad_norm(1.0)
        for stepper in steppers:
            stepper.step()
        model.update_routing_bias()
        model.zero_grad()
        times.append(time.perf_counter() - began)
    if ranks > 1:
        dist.destroy_process_group()
    return settings.batch_sequences * settings.sequence_length / median(times[2:])


if __name__ == "__main__":
    main()
