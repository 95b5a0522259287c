"""Floor 1: a byte-level BPE made for Japanese, and packed tokens with the index from token to document and back."""
