"""Environments of their own for the peers that Kiban is measured against: `.venv-transformers`, `.venv-rensa` ...

    python benchmarks/peers.py            # makes all, or reuses them

A peer that needs PyTorch gets the very build that runs this script ("2.13.0+cpu", say), or none: pip then never fetches
a CUDA build of several GB in its place. `TORCH_INDEX_URL` names the package index that has it, as in the Makefile.
Swallow's filter is in no package: `SWALLOW_CORPUS` names a clone of its repository, or else GitHub is asked.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# BARE is installed without what it declares: of torchtitan's requirements, most serve its trainer and its data alone.
# Importing its deepseek_v3 and its losses needs these.
WHOLE = {
    "transformers": ["numpy", "safetensors", "transformers>=5,<6"],
    "torchtitan": ["numpy", "safetensors", "triton", "tyro"],
    "datasketch": ["pyarrow", "datasketch==2.0.0"],
    "rensa": ["pyarrow", "rensa==0.5.0"],
    "hojichar": ["pyarrow", "hojichar==0.18.1"],
    "datatrove": [  # its Japanese words need spacy, SudachiPy and the dictionary; importing it needs the rest
        *("pyarrow", "datatrove==0.10.1", "spacy>=3.8", "sudachipy", "sudachidict-core"),
        *("nltk", "orjson", "regex", "tldextract", "tokenizers", "xxhash<4"),
    ],
    "swallow": ["pyarrow"],
    "nanochat": ["numpy", "filelock"],  # its code comes from a checkout
    "lm-eval": ["transformers>=5,<6", "lm-eval[hf]==0.4.13"],
    "lerobot": ["accelerate", "av>=14", "datasets>=4,<5", "draccus==0.10.0", "numpy", "packaging", "pandas", "pillow"],
    "lerobot-act": [
        *("av>=14", "cachebox", "datasets>=4,<5", "deepdiff", "draccus==0.10.0", "einops", "imageio", "numpy"),
        *("packaging", "pandas", "pillow", "pyserial"),
    ],
    "lerobot-v21": ["av>=14", "datasets>=3,<4", "draccus==0.10.0", "jsonlines", "numpy", "packaging", "pillow"],
}
BARE = {
    "torchtitan": ["torchtitan==0.3.0", "spmd_types==0.2.3"],
    "lerobot": ["lerobot==0.4.4"],  # the last for Python 3.11; reads datasets of v3.0. It pins an older PyTorch
    "lerobot-act": ["lerobot==0.4.4"],  # its ACT, which asks for more than its datasets do
    "lerobot-v21": ["lerobot==0.3.3"],  # the last that reads v2.1
}
WITH_TORCH = ("transformers", "torchtitan", "nanochat", "lm-eval", "lerobot", "lerobot-act", "lerobot-v21")
CLONES = {
    "swallow": (
        "https://github.com/swallow-llm/swallow-corpus",
        "2d0350739b977703cedace6efe01eb4cbaa2ea1f",
        ["quality.py"],
    )
}


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made on first use.

    Raises:
        CalledProcessError: if a package cannot be installed.
    """
    folder = ROOT / f".venv-{peer}"
    python = folder / "bin" / "python"
    bare, torch = BARE.get(peer, []), _torch() if peer in WITH_TORCH else []
    wanted = "\n".join([*torch, *WHOLE[peer], *bare])
    installed = folder / "installed"
    if installed.is_file() and installed.read_text() == wanted:
        return python
    print(f"{folder.name}: installing {peer}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["-c", str(ROOT / "constraints.txt")]
    index = os.environ.get("TORCH_INDEX_URL")
    if torch:
        subprocess.run([*pip, *(["--index-url", index] if index else []), *torch], check=True)
    subprocess.run([*pip, *WHOLE[peer]], check=True)
    if bare:
        subprocess.run([*pip, "--no-deps", *bare], check=True)
    if peer in CLONES:
        address, commit, files = CLONES[peer]
        clone = folder / peer
        address = os.environ.get("SWALLOW_CORPUS", address)
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", address, clone], check=True)
        subprocess.run(["git", "-C", clone, "checkout", "--quiet", commit, "--", *files], check=True)
    installed.write_text(wanted)
    return python


def _torch() -> list[str]:
    import torch

    return [f"torch=={torch.__version__}"]


if __name__ == "__main__":
    for name in WHOLE:
        print(python_of(name))
