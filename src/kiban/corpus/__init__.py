"""Floor 1: from partners' archives to clean text, with nothing lost.

Read in this order: `stage.py` (settings), `build.py` (the two passes), `curate.py` (a piece of a source), and then
what those call: `archives.py`, `readers/`, `normalise.py`, `statistics.py` and `quality.py`, `masks.py`,
`decontamination.py`, `minhash.py` and `duplicates.py`, `hold_back.py`."""
