"""`python -m kiban`: the `kiban` command, where only the interpreter's path is known."""

from kiban.cli.main import main

main()
