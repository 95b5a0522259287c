"""Environments of their own for the peers that Kiban is measured against: `.venv-transformers` and the like.

    python benchmarks/peers.py            # makes all, or reuses them

A peer gets the very build of PyTorch that runs this script ("2.13.0+cpu", say), or none: pip then never fetches a CUDA
build of several GB in its place. `TORCH_INDEX_URL` names the package index that has it, as in the Makefile.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]

# BARE is installed without what it declares: of torchtitan's requirements, most serve its trainer and its data alone.
# Importing its deepseek_v3 and its losses needs these.
WHOLE = {
    "transformers": ["transformers>=5,<6"],
    "torchtitan": ["triton", "tyro"],
    "lm-eval": ["transformers>=5,<6", "lm-eval[hf]==0.4.13"],
}
BARE = {
    "transformers": [],
    "torchtitan": ["torchtitan==0.3.0", "spmd_types==0.2.3"],
    "lm-eval": [],
}


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made on first use.

    Raises:
        CalledProcessError: if a package cannot be installed.
    """
    folder = ROOT / f".venv-{peer}"
    python = folder / "bin" / "python"
    wanted = "\n".join([torch.__version__, *WHOLE[peer], *BARE[peer]])
    installed = folder / "installed"
    if installed.is_file() and installed.read_text() == wanted:
        return python
    print(f"{folder.name}: installing {peer}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["-c", str(ROOT / "constraints.txt")]
    index = os.environ.get("TORCH_INDEX_URL")
    subprocess.run([*pip, *(["--index-url", index] if index else []), f"torch=={torch.__version__}"], check=True)
    subprocess.run([*pip, "numpy", "safetensors", *WHOLE[peer]], check=True)
    if BARE[peer]:
        subprocess.run([*pip, "--no-deps", *BARE[peer]], check=True)
    installed.write_text(wanted)
    return python


if __name__ == "__main__":
    for name in WHOLE:
        print(python_of(name))
