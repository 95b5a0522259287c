"""Fixtures that every room uses."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kiban_data() -> Path:
    """The folder with real text and evaluation sets, from KIBAN_DATA."""
    location = os.environ.get("KIBAN_DATA")
    if not location:
        pytest.skip("KIBAN_DATA is not set: not run on real data")
    folder = Path(location)
    assert folder.is_absolute() and folder.is_dir(), f"KIBAN_DATA={location} must be an absolute folder"
    return folder
