"""Our own evaluation sets that are composed: tables and what is written by hand, to the JSONL in `data/`."""
