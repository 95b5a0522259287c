"""`torchrun -m kiban.training OPTIONS`: what `kiban train OPTIONS` is, on several ranks."""

import sys
from importlib.metadata import entry_points

if __name__ == "__main__":
    [command] = entry_points(group="console_scripts", name="kiban")
    sys.argv[1:1] = ["train"]
    sys.exit(command.load()())
