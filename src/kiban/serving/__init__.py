"""Floor 3: an OpenAI-compatible server over an exported model, on the owner's machine."""
