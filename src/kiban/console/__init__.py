"""Floor 5: what people look at. `report.py` writes report.html, `terminal.py` the screens of the command line.

Both are views of manifests and of the files beside them: they show figures, they compute none.
"""
