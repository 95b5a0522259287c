"""The policy's speed: training beside lerobot's ACT in one run, where a step's time goes, and a chunk in time.

    python benchmarks/policy.py            # a record in benchmarks/results; --rough: shorter, no record

A frame is what a policy learns from at once: a picture of each camera (64x64 and 32x32), the state, the sentence, and
the chunk of 8 actions. A training step is forward, backward, clipping and AdamW on 64 of them, in float32, on two
threads. Ours reads its batches from a dataset as in training; lerobot's gets tensors that are there already.

lerobot's ACT has its own code, at two sizes: with the parameters of our policy (a narrow ResNet and transformer), and
its default ones. Its ResNet's layers are ours (see run_lerobot_act.py). Its SmolVLA is not run: it needs transformers
and the 450M pretrained weights of its language model, which are nowhere in a package.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import peers
import record
import torch

from kiban.artifacts.progress import Progress
from kiban.model import hf
from kiban.model.config import ModelConfig
from kiban.model.transformer import Transformer
from kiban.robotics.agent import Network, build
from kiban.robotics.demonstrations import collect
from kiban.robotics.embodiment import load
from kiban.robotics.examples import Batch, Examples, Frames, Instructions, Recorded, robots_of
from kiban.robotics.language import Reader
from kiban.robotics.policy_config import PolicyConfig, PolicyKind
from kiban.robotics.stage import INSTRUCTIONS
from kiban.robotics.train_policy import batch_loss
from kiban.tokenizer.bpe import Tokenizer

BATCH, CHUNK, THREADS = 64, 8, 2
EPISODES = 12  # of each task, which the frames are taken from
SAME = {"resnet_width": 16, "dim_model": 96, "n_heads": 4, "dim_feedforward": 360, "chunk": CHUNK}
DEFAULT = {"resnet_width": 64, "dim_model": 512, "n_heads": 8, "dim_feedforward": 3200, "chunk": CHUNK}
PERIOD_MS = 50.0


def language(folder: Path) -> Reader:
    """A language model of the nano preset's width with random weights: what it has learned takes no time."""
    tokenizer = Tokenizer.train([INSTRUCTIONS.read_text(encoding="utf-8")] * 4, vocabulary=600, may_be_smaller=True)
    tokenizer.save(folder)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=192,
        num_hidden_layers=4,
        intermediate_size=384,
        num_attention_heads=4,
        kv_lora_rank=32,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        max_position_embeddings=256,
    )
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    hf.save(model, folder)
    return Reader.load(folder)


class Ours:
    """A network of ours at work on frames of the tabletop."""

    def __init__(self, kind: PolicyKind, examples: Examples, config: PolicyConfig) -> None:
        self.examples, self.network = examples, build(config.model_copy(update={"kind": kind}))
        self.parameters = sum(p.numel() for p in self.network.parameters())
        self._optimiser = torch.optim.AdamW(self.network.parameters(), 1e-4)
        self._step = 0
        self.spent: dict[str, float] = {}

    def run(self, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            self._train()
        return time.perf_counter() - begin

    def _train(self) -> None:
        marks = [time.perf_counter()]
        generator = torch.Generator().manual_seed(self._step)
        self._step += 1
        batches = self.examples.batches(torch.randint(len(self.examples), (BATCH,), generator=generator))
        marks.append(time.perf_counter())
        loss = batch_loss(self.network, batches, generator, brightness=0.1)
        marks.append(time.perf_counter())
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimiser.step()
        marks.append(time.perf_counter())
        for name, begin, end in zip(("data", "forward", "backward", "optimiser"), marks, marks[1:], strict=False):
            self.spent[name] = self.spent.get(name, 0.0) + end - begin


class Lerobot:
    """lerobot's ACT in its own environment and process."""

    def __init__(self, sizes: dict[str, int], cameras: dict[str, list[int]], state: int, action: int) -> None:
        request = {"sizes": sizes, "cameras": cameras, "state": state, "action": action}
        runner = Path(__file__).with_name("run_lerobot_act.py")
        self._process = subprocess.Popen(
            [peers.python_of("lerobot-act"), runner, json.dumps(request | {"batch": BATCH, "threads": THREADS})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.parameters = int(self._answer()["parameters"])

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"lerobot's ACT ended with {self._process.wait()}; its errors stand above")
        return json.loads(line)

    def run(self, steps: int) -> float:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def inference_ms(network: Network, batch: Batch, times: int) -> dict[str, list[float]]:
    """How long a chunk of actions takes from pictures on, by the number of steps from noise, in ms."""
    images = {name: pixels[:1] for name, pixels in batch.images.items()}
    rest = batch.state_BS[:1], batch.text_BTF[:1], batch.present_BT[:1]
    noise = torch.randn(1, CHUNK, batch.actions_BKA.shape[-1])
    found: dict[str, list[float]] = {}
    with torch.inference_mode():
        for _ in range(times):
            for steps in (1, 2, 5, 10):
                begin = time.perf_counter()
                network.sample(network.condition(batch.robot, images, *rest), noise, steps)
                found.setdefault(str(steps), []).append(1e3 * (time.perf_counter() - begin))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rough", action="store_true", help="a few steps, and no record")
    parser.add_argument("--no-peer", action="store_true", help="without lerobot")
    arguments = parser.parse_args()
    rounds, steps, times = (3, 3, 50) if arguments.rough else (7, 20, 1000)
    torch.set_num_threads(THREADS)
    robot = load("tabletop-arm")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        collect(robot, ("reach", "push"), EPISODES, 0, folder / "data", folder / "episodes", Progress())
        (folder / "language").mkdir()
        reader = language(folder / "language")
        recorded = Recorded.read(folder / "data", folder / "frames")
        robots, normalisers = robots_of([recorded])
        frames = Frames(recorded, normalisers[robot.name], CHUNK, held_out=0.0, seed=0)
        examples = Examples([frames], Instructions(reader, recorded.sentences, learning=False))
        config = PolicyConfig(robots=robots, language=reader.num_features, chunk=CHUNK)
        kinds: tuple[PolicyKind, ...] = ("kiban", "act", "diffusion")
        runners: dict[str, Ours | Lerobot] = {f"Kiban: {kind}": Ours(kind, examples, config) for kind in kinds}
        if not arguments.no_peer:
            cameras = {camera.name: [camera.height, camera.width] for camera in robot.cameras}
            sizes = (robots[0].state, robots[0].action)
            runners["lerobot: ACT, as many parameters"] = Lerobot(dict(SAME), cameras, *sizes)
            runners["lerobot: ACT, its default"] = Lerobot(dict(DEFAULT), cameras, *sizes)
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for runner in runners.values():
            runner.run(2)
        for _ in range(rounds):
            for name, runner in runners.items():
                seconds[name].append(runner.run(steps))
        ours = runners["Kiban: kiban"]
        assert isinstance(ours, Ours)
        [batch] = examples.batches(torch.arange(1))
        chunk_ms = inference_ms(ours.network.eval(), batch, times)
        for runner in runners.values():
            if isinstance(runner, Lerobot):
                runner.close()
    rates = {name: BATCH * steps / record.median(values) for name, values in seconds.items()}
    rows = [
        [name, f"{runner.parameters:,}", f"{rates[name]:.0f}", f"{rates['Kiban: kiban'] / rates[name]:.2f}"]
        for name, runner in runners.items()
    ]
    total = sum(ours.spent.values())
    shares = [[name, f"{spent / total:.0%}"] for name, spent in ours.spent.items()]
    times_ms = [
        [steps_, f"{np.quantile(values, 0.5):.1f}", f"{np.quantile(values, 0.99):.1f}"]
        for steps_, values in chunk_ms.items()
    ]
    found = record.circumstances()
    lines = record.head("Training and inference of the policy", found)
    lines += record.table(["network", "parameters", "frames/s", "Kiban's policy is so many times as fast"], rows)
    lines += record.table(["part of a training step of Kiban's policy", "share"], shares)
    lines += record.table(["steps from noise", f"a chunk, p50 ms (period {PERIOD_MS:.0f})", "p99 ms"], times_ms)
    markdown = "\n".join(lines)
    print(markdown)
    if not arguments.rough:
        figures = {**found, "frames_per_s": rates, "seconds": seconds, "spent": ours.spent, "chunk_ms": chunk_ms}
        print(record.write("policy", figures, markdown, record.RESULTS))


if __name__ == "__main__":
    main()
