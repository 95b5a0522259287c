"""The most memory that this process held at once."""

import sys
from pathlib import Path


def peak_bytes() -> int:
    """Resident, since the process began or since `reset_peak`. 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # bytes there, KiB elsewhere (getrusage(2))


def reset_peak() -> None:
    """From now on `peak_bytes` is the peak since now. Without effect outside Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (proc(5)); getrusage's maxrss stays
    except OSError:
        pass
