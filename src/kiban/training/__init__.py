"""Floor 2: training. The loop is `loop.py`; the `model` stage and its settings are `stage.py`."""
