"""Floor 4: a programme as a whole.

`settings.py` is its kiban.toml, `graph.py` its stages in order, and `runner.py` makes what is missing.
"""
