"""What torchrun starts in tests: a tiny model on each rank. With KILL=rank:step a rank kills itself before that step,
on the first attempt; with HANG it sleeps."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.model.layout import Layout
from kiban.tokenizer.packing import TokenStore
from kiban.training.distributed import process_group, rank_of_torchrun
from kiban.training.layout import layout_of_ranks
from kiban.training.loop import train
from kiban.training.parallelize import Parallel
from kiban.training.settings import TrainingSettings
from tests.training import tiny


def wound() -> None:
    """Lets what the environment asks for happen."""
    backward = Parallel.backward
    steps = 0

    def wounded(self: Parallel, tokens_BX: torch.Tensor, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        for what in ("KILL", "HANG"):
            now = os.environ.get(what) == f"{rank_of_torchrun()}:{steps}"
            if now and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                if what == "KILL":
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(1000)
        return backward(self, tokens_BX, *arguments)

    Parallel.backward = wounded  # type: ignore[method-assign]


if __name__ == "__main__":
    folder, sizes, chosen = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    settings = TrainingSettings(**(tiny.SETTINGS | {"save_every_seconds": 0.01} | chosen))
    wound()
    try:
        with process_group(settings.rank_timeout_seconds):
            layout = Layout(torch.distributed.get_world_size(), **sizes) if sizes else layout_of_ranks(None)
            run = train(
                tiny.config(), TokenStore.open(folder / "tokens"), settings, folder / "log.jsonl",
                folder / "checkpoints", Progress(quiet=True), layout=layout,
            )  # fmt: skip
        if rank_of_torchrun() == 0:
            print("whole", sum(p.numel() for p in run.model.parameters()))
    except KibanError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(2)
