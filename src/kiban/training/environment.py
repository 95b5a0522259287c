"""Whether this machine is fit to train: one check a line, each with what was found and what to do about it.

Nothing here opens a connection. What lies between ranks is in `doctor.py`.
"""

import ctypes
import os
import platform
import re
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from kiban.training.flops import matmul_rate

Status = Literal["ok", "warn", "fail"]
RANKED: tuple[Status, ...] = ("ok", "warn", "fail")

OLDEST_PYTHON, OLDEST_TORCH = (3, 11), (2, 11)
DRIVERS = {12: (525, 60), 13: (580, 65)}  # the oldest driver of each CUDA (NVIDIA, CUDA compatibility, table 2)
FREE_BYTES = 20e9  # room for a few checkpoints of a small model
WRITE_RATE = 100e6  # bytes/s; below it checkpoints of any size wait
FSYNC_SECONDS = 0.05
PROBE_BYTES = 64 << 20
SHARED_BYTES = 1 << 30  # NCCL's and the loaders' buffers; a container gets 64 MiB unless it is told otherwise
OPEN_FILES = 8192
MEMORY_BYTES = 2e9  # a process, before any model
GPU_TAKEN = 0.05  # of its memory, by others
TIME_ERROR = 5  # of adjtimex(2): the clock is not synchronised


@dataclass(frozen=True)
class Check:
    """`found` says what is; `remedy` what to do, if it is not ok. `host`: where, if it is about one machine."""

    name: str
    status: Status
    found: str
    remedy: str = ""
    host: str = ""


def machine_checks(store: Path, processes: int = 1, offline: bool = False) -> list[Check]:
    """All checks of this machine, on which `processes` ranks will run and write to `store`."""
    checks: list[Callable[[], Check]] = [
        python,
        pytorch,
        cuda,
        nccl,
        lambda: threads(processes),
        lambda: memory(processes),
        shared_memory,
        open_files,
        locked_memory,
        lambda: free_space(store),
        lambda: disk_rate(store),
        clock,
        lambda: outside(offline),
    ]
    found = [check() for check in checks]
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found[4:4] = [gpu(index) for index in range(gpus)] or [processor()]
    host = socket.gethostname()
    return [Check(c.name, c.status, c.found, c.remedy, host) for c in found]


def worst(checks: list[Check]) -> Status:
    return RANKED[max((RANKED.index(check.status) for check in checks), default=0)]


def python() -> Check:
    version = platform.python_version()
    if tuple(map(int, version.split(".")[:2])) < OLDEST_PYTHON:
        return Check("python", "fail", version, "install Python 3.11 or newer")
    return Check("python", "ok", version)


def pytorch() -> Check:
    version = torch.__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TORCH:
        return Check("torch", "fail", version, f"install PyTorch {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} or newer")
    return Check("torch", "ok", version)


def cuda() -> Check:
    """Whether torch's CUDA, the driver and the cards fit each other."""
    built, driver = torch.version.cuda, _driver()
    if driver is None and not torch.cuda.is_available():
        return Check("cuda", "ok", "no GPU on this machine" + (f"; torch is built for CUDA {built}" if built else ""))
    told = ".".join(map(str, driver)) if driver else "unknown"
    if built is None:
        remedy = "install a CUDA build of the same PyTorch"
        return Check("cuda", "fail", f"there is a GPU (driver {told}), and torch is a CPU build", remedy)
    needed = DRIVERS.get(int(built.split(".")[0]))
    if driver and needed and driver[:2] < needed:
        remedy = f"update the driver to {needed[0]}.{needed[1]} or newer, or install a torch for an older CUDA"
        return Check("cuda", "fail", f"driver {told} is too old for torch's CUDA {built}", remedy)
    if not torch.cuda.is_available():
        remedy = "look at nvidia-smi and CUDA_VISIBLE_DEVICES; in a container, at --gpus"
        return Check("cuda", "fail", f"driver {told}, torch's CUDA {built}, and torch sees no GPU", remedy)
    return Check("cuda", "ok", f"driver {told}, torch's CUDA {built}, {torch.cuda.device_count()} GPUs")


def nccl() -> Check:
    if not torch.cuda.is_available():
        fine = torch.distributed.is_available() and torch.distributed.is_gloo_available()
        remedy = "install a build of torch with torch.distributed"
        return Check("nccl", "ok", "not needed; gloo is there") if fine else Check("nccl", "fail", "no gloo", remedy)
    if not torch.distributed.is_nccl_available():
        return Check("nccl", "fail", "torch was built without it", "install a build of torch with NCCL")
    return Check("nccl", "ok", ".".join(map(str, torch.cuda.nccl.version())))


def gpu(index: int) -> Check:
    """One card: whether torch has code for it, who else uses it, and whether it computes what it should."""
    properties = torch.cuda.get_device_properties(index)
    name, what = f"gpu {index}", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    code = f"sm_{properties.major}{properties.minor}"
    known = torch.cuda.get_arch_list()
    if not any(re.match(rf"(sm|compute)_{properties.major}\d", architecture) for architecture in known):
        return Check(name, "fail", f"{what}: torch has no code for {code}", f"install a torch that has it, not {known}")
    device = torch.device("cuda", index)
    try:
        free = torch.cuda.mem_get_info(index)[0]
        a = torch.randn(2048, 2048, device=device, generator=torch.Generator(device).manual_seed(0))
        first = a @ a
        same = all(torch.equal(a @ a, first) for _ in range(20))
        error = ((first.double() - a.double() @ a.double()).abs().max() / first.abs().max()).item()
        rate = matmul_rate(device, torch.bfloat16, seconds=0.3)
    except RuntimeError as failed:
        return Check(name, "fail", f"{what}: {str(failed).splitlines()[0]}", "look at dmesg for Xid errors; replace it")
    what += f", {rate / 1e12:.0f} TFLOP/s in bfloat16"
    if not same or error > 1e-2:  # TF32 errs by 1e-3
        return Check(name, "fail", f"{what}: products of matrices are wrong, or change", "take it out of service")
    taken = 1 - free / properties.total_memory
    if taken > GPU_TAKEN:
        return Check(name, "warn", f"{what}: {taken:.0%} of its memory is taken", "end what else runs (nvidia-smi)")
    return Check(name, "ok", what)


def processor() -> Check:
    rate = matmul_rate(torch.device("cpu"), torch.float32, seconds=0.3)
    return Check("cpu", "ok", f"{rate / 1e9:.0f} GFLOP/s in float32 on {torch.get_num_threads()} threads")


def threads(processes: int) -> Check:
    cores = usable_cores()
    each = int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())
    found = f"{cores:g} cores for {processes} processes of {each} threads"
    if processes * each > cores:
        best = max(1, int(cores // processes))
        more = "" if processes <= cores else f", and run at most {int(cores)} processes here"
        return Check("threads", "warn", found, f"set OMP_NUM_THREADS={best}{more}: more threads than cores wait")
    return Check("threads", "ok", found)


def usable_cores() -> float:
    """That this process may use: by its affinity, and by the quota of its container (cgroup v2)."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    return min(cores, int(quota[0]) / int(quota[1])) if len(quota) == 2 and quota[0] != "max" else cores


def memory(processes: int) -> Check:
    found = re.search(r"MemAvailable:\s*(\d+)", _read("/proc/meminfo"))
    if not found:
        return Check("memory", "warn", "unknown on this system", "make sure of it yourself")
    free, where = int(found[1]) * 1024, "free"
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        left = int(limit) - int(_read("/sys/fs/cgroup/memory.current").strip() or 0)
        free, where = (left, "left of the container's") if left < free else (free, where)
    told = f"{free / 1e9:.1f} GB {where}, for {processes} processes"
    if free < MEMORY_BYTES * processes:
        return Check("memory", "warn", told, f"leave {MEMORY_BYTES / 1e9:.0f} GB a process, before any model")
    return Check("memory", "ok", told)


def shared_memory() -> Check:
    try:
        size = shutil.disk_usage("/dev/shm").total
    except OSError:
        return Check("shared memory", "warn", "there is no /dev/shm", "mount a tmpfs there")
    found = f"/dev/shm has {size / 1e9:.2f} GB"
    if size < SHARED_BYTES:
        remedy = "docker: --shm-size=16g; Kubernetes: an emptyDir with medium: Memory at /dev/shm"
        return Check("shared memory", "warn", found, remedy)
    return Check("shared memory", "ok", found)


def open_files() -> Check:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        can = "" if hard == resource.RLIM_INFINITY or hard >= 65536 else " (as root: its hard limit is lower)"
        return Check(
            "open files", "warn", f"at most {soft}", f"ulimit -n 65536{can}; each rank holds one to many others"
        )
    return Check("open files", "ok", f"at most {'any number' if soft == resource.RLIM_INFINITY else soft}")


def locked_memory() -> Check:
    """RDMA registers memory, which has to stay where it is."""
    import resource

    cards = sorted(path.name for path in Path("/sys/class/infiniband").glob("*"))
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if not cards:
        return Check("locked memory", "ok", "not needed: no InfiniBand or RoCE card")
    if soft != resource.RLIM_INFINITY:
        remedy = "ulimit -l unlimited (in Slurm: PropagateResourceLimitsExcept=MEMLOCK; docker: --ulimit memlock=-1)"
        return Check("locked memory", "fail", f"{', '.join(cards)}, and at most {soft} bytes may be locked", remedy)
    return Check("locked memory", "ok", f"unlimited, for {', '.join(cards)}")


def free_space(store: Path) -> Check:
    try:
        free = shutil.disk_usage(_existing(store)).free
    except OSError as error:
        return Check("disk space", "fail", f"{store}: {error.strerror}", "name a folder that can be read")
    found = f"{free / 1e9:.0f} GB free for {store}"
    if free < FREE_BYTES:
        remedy = "make room; checkpoints with their optimiser take 16 bytes a parameter, each"
        return Check("disk space", "fail" if free < FREE_BYTES / 20 else "warn", found, remedy)
    return Check("disk space", "ok", found)


def disk_rate(store: Path) -> Check:
    """Writes, syncs and reads a file of PROBE_BYTES beside the store, and syncs small ones as manifests are."""
    try:
        with tempfile.TemporaryDirectory(dir=_existing(store), prefix=".kiban-doctor.") as folder:
            write, read = _rates(Path(folder) / "large")
            fsync = _fsync_seconds(Path(folder) / "small")
        in_memory = _is_tmpfs(_existing(store))
    except OSError as error:
        return Check(
            "disk", "fail", f"{store}: cannot be written ({error.strerror})", "mend that, or name another --store"
        )
    found = f"writes {write / 1e6:.0f} MB/s, reads {read / 1e6:.0f} MB/s, fsync in {1e3 * fsync:.1f} ms"
    if in_memory:
        return Check("disk", "warn", f"{found}; it is a tmpfs", "what is written there is gone with the machine")
    if write < WRITE_RATE or fsync > FSYNC_SECONDS:
        return Check("disk", "warn", found, "checkpoints will wait for this disk: use a local one, or save less often")
    return Check("disk", "ok", found)


def _rates(file: Path) -> tuple[float, float]:
    block = os.urandom(1 << 20)
    began = time.perf_counter()
    with file.open("wb", buffering=0) as out:
        for _ in range(PROBE_BYTES // len(block)):
            out.write(block)
        os.fsync(out.fileno())
    write = PROBE_BYTES / (time.perf_counter() - began)
    with file.open("rb", buffering=0) as inp:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(inp.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, not from the page cache
        began = time.perf_counter()
        while inp.read(1 << 20):
            pass
    return write, PROBE_BYTES / (time.perf_counter() - began)


def _fsync_seconds(file: Path) -> float:
    taken = []
    for _ in range(9):
        with file.open("wb") as out:
            out.write(b"x" * 4096)
            out.flush()
            began = time.perf_counter()
            os.fsync(out.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def clock() -> Check:
    """Whether the kernel's clock follows a time server: adjtimex(2) tells, and asks nobody."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(256))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return Check("clock", "ok", "this system does not tell whether it is synchronised")
    if state == TIME_ERROR:
        remedy = "start chronyd or systemd-timesyncd: logs of several machines are else out of order"
        return Check("clock", "warn", "not synchronised with a time server", remedy)
    return Check("clock", "ok", "synchronised")


def outside(wanted_offline: bool) -> Check:
    """Whether a way leads out of this machine, by its routes; nothing is sent to find out."""
    routes = [line.split() for line in _read("/proc/net/route").splitlines()[1:]]
    out = sorted({fields[0] for fields in routes if len(fields) > 7 and fields[1] == fields[7] == "00000000"})
    proxies = sorted(name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy"))
    if not out and not proxies:
        return Check("outside", "ok", "no default route and no proxy: nothing can reach the outside")
    found = " and ".join([f"a default route ({', '.join(out)})"] * bool(out) + [f"a proxy ({proxies})"] * bool(proxies))
    if wanted_offline:
        return Check(
            "outside", "fail", f"there is {found}", "take it away (docker: --network none), or leave out --offline"
        )
    return Check("outside", "ok", f"there is {found}; Kiban opens no connection of its own (--offline wants none)")


def _driver() -> tuple[int, ...] | None:
    found = re.search(r"(?:Kernel Module|Module for \S+)\s+(\d+(?:\.\d+)+)", _read("/proc/driver/nvidia/version"))
    return tuple(map(int, found[1].split("."))) if found else None


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _is_tmpfs(folder: Path) -> bool:
    mounts = [line.split() for line in _read("/proc/self/mounts").splitlines()]
    inside = [fields for fields in mounts if len(fields) > 2 and folder.is_relative_to(fields[1])]
    return bool(inside) and max(inside, key=lambda fields: len(fields[1]))[2] == "tmpfs"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
