"""Kiban (基盤): one stack from rights-cleared Japanese data to a verified milestone.

`docs/design.md` says how the rooms hang together. Importing this package is cheap on purpose: every heavy library is
imported where it is used.
"""

__version__ = "0.1.0"
