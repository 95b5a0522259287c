"""Whether a model fits, before anything is allocated; and how much was needed, when it has run."""

from pathlib import Path

import torch

from kiban.artifacts.errors import KibanError
from kiban.artifacts.memory import peak_bytes as peak_of_process
from kiban.model.config import ModelConfig

BYTES_PER_PARAMETER = 16  # float32: the weight, its gradient, and AdamW's two moments


def check_memory(config: ModelConfig, device: torch.device, workers: int, low_precision: bool, ranks: int = 1) -> None:
    """Activations are not counted: what passes may still be tight. Workers have gradients of their own (workers.py),
    and in lower precision a cast of the weights. Of several `ranks` each has its part; how large, the layout says
    (`kiban dryrun` counts it), and at least this.

    Raises:
        KibanError: if the parameters with their optimiser state exceed the device's free memory, saying by how much.
    """
    free = _free_bytes(device)
    of_workers = 2 + 2 * workers if low_precision else 4 * workers if workers > 1 else 0
    needed = (BYTES_PER_PARAMETER + of_workers) * config.parameters().total / ranks
    if free is not None and needed > free:
        raise KibanError(
            f"[model]: {config.parameters().total / 1e6:.0f}M parameters need {needed / 1e9:.1f} GB for training, "
            f"{(needed - free) / 1e9:.1f} GB more than are free here; take a smaller preset, or a larger machine"
        )


def peak_bytes(device: torch.device) -> int:
    """The most that this process held of the device, or of the machine's memory where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)  # with what the allocator keeps: that much has to be free
    return peak_of_process()


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
