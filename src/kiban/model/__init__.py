"""Floor 1: the architecture in plain PyTorch, its presets, and the Hugging Face layout."""
