"""Which addresses a source may be fetched from."""

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit


def is_url(path: str) -> bool:
    return "://" in path


def check_url(url: str) -> None:
    """Raises ValueError unless `url` is https (or http on this machine itself) and holds no password."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError("a password in an address would be written into every manifest; take it out")
    if parts.scheme != "https" and not (parts.scheme == "http" and _loopback(parts.hostname or "")):
        raise ValueError(
            f"'{parts.scheme}://' is not fetched from; use https://, or bring the data here by other means"
        )
    if not parts.hostname or not Path(parts.path).name:
        raise ValueError("the address names no file")


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
