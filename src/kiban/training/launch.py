"""Batch scripts for Slurm and manifests for Kubernetes that run `torchrun -m kiban.training` on several nodes.

What they share: one torchrun a node that meets the others by c10d's rendezvous, restarts, a log for each rank, the
doctor before the run, and SIGTERM early enough that the ranks save before they are killed.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kiban.artifacts.errors import KibanError

TEMPLATE = Path(__file__).with_name("slurm.sh.jinja")
NAME = re.compile(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?")  # a DNS label, with room for the pod's number
TIME = re.compile(r"(\d+-)?\d{1,2}:\d{2}:\d{2}|\d+-\d{1,2}")  # of sbatch: [days-]hours:minutes:seconds, days-hours
NODE = re.compile(r"[A-Za-z0-9][-A-Za-z0-9.]*(\[[0-9,-]+\])?[-A-Za-z0-9.]*")
WORD = re.compile(r"[-A-Za-z0-9_./%+=:@,]+")
QUANTITY = re.compile(r"[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?")
PORT = 29400


@dataclass(frozen=True)
class Job:
    """A run on `nodes` machines of `gpus` each (0: processes on CPUs). `arguments` go to `kiban.training`.

    `grace`: seconds that a save may take once the ranks are told to stop. `spare` nodes (Slurm) replace those that the
    doctor finds ill, `exclude` are never used.
    """

    name: str
    nodes: int
    gpus: int
    processes: int
    arguments: tuple[str, ...]
    time: str = "24:00:00"
    restarts: int = 3
    grace: int = 300
    spare: int = 0
    exclude: tuple[str, ...] = ()
    partition: str | None = None
    account: str | None = None
    logs: str = "logs"
    store: str = ".kiban"
    python: str = "python"
    threads: int = 8

    @property
    def seconds(self) -> int:
        """The time limit."""
        days, _, rest = self.time.rpartition("-")
        parts = [int(part) for part in rest.split(":")] + [0, 0]
        return int(days or 0) * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]


def check(job: Job) -> None:
    """Raises KibanError for what the scheduler would refuse, or a shell would read otherwise than it is meant."""
    if not NAME.fullmatch(job.name):
        raise KibanError(f"--name {job.name}: use small letters, digits and '-', at most 52, a letter first")
    if not TIME.fullmatch(job.time):
        raise KibanError(f"--time {job.time}: write hours:minutes:seconds, or days-hours:minutes:seconds")
    if job.seconds <= 2 * job.grace:
        raise KibanError(f"--time {job.time}: leaves no time beside saving; give more than twice --grace {job.grace}")
    for node in job.exclude:
        if not NODE.fullmatch(node):
            raise KibanError(f"--exclude {node}: is no name of a node; write them like node7,node[12-14]")
    for option in ("partition", "account", "logs", "store", "python"):
        value = getattr(job, option)
        if value is not None and not WORD.fullmatch(value):
            raise KibanError(f"--{option} {value}: use letters, digits and -_./ alone")


def check_layout(path: Path, ranks: int, arguments: Sequence[str]) -> None:
    """Checks the layout against the number of ranks, and against the preset, length and batch that `arguments` name.

    Raises:
        KibanError: if it cannot be read, or something does not divide.
    """
    from kiban.model.presets import preset
    from kiban.training import layout as layouts
    from kiban.training.settings import TrainingSettings

    layout = layouts.read_layout(path, ranks)
    each = layout.tensor * layout.pipeline * layout.context
    if ranks % each:
        told = f"tensor {layout.tensor} x pipeline {layout.pipeline} x context {layout.context} = {each}"
        raise KibanError(f"{path}: {ranks} ranks are no multiple of {told}; change --nodes or the layout")
    given = {name: _value(arguments, f"--{name}") for name in ("preset", "sequence-length", "batch-sequences")}
    if given["preset"] is None:
        return  # the model is known on the nodes alone; the training checks there, before it allocates anything
    try:
        settings = TrainingSettings.model_validate(
            {name.replace("-", "_"): value for name, value in given.items() if value is not None}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise KibanError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None
    config = preset(settings.preset)
    settings = settings.resolved(config)
    assert settings.sequence_length and settings.batch_sequences
    try:
        layouts.check_layout(config, layout, settings.sequence_length, settings.batch_sequences)
    except KibanError as error:
        raise KibanError(f"{path}, with preset {settings.preset}: {error}") from None


def _value(arguments: Sequence[str], option: str) -> str | None:
    """What stands behind `option`, as `--option value` or `--option=value`."""
    for place, argument in enumerate(arguments):
        if argument == option and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None


def slurm_script(job: Job) -> str:
    """A batch script: see the template, which reads from top to bottom."""
    from jinja2 import Environment, StrictUndefined

    check(job)
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters["quoted"] = shlex.quote
    environment.filters["inner"] = lambda word: _inner(shlex.quote(word))
    environment.filters["inner_all"] = lambda words: _inner(shlex.join(words))
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(job=job)


def _inner(text: str) -> str:
    """For a place within single quotes."""
    return text.replace("'", "'\\''")


@dataclass(frozen=True)
class Cluster:
    """What Kubernetes needs beside the job. `claims`: names of PersistentVolumeClaims and where they are mounted."""

    image: str
    namespace: str = "default"
    claims: tuple[tuple[str, str], ...] = ()
    cpus: int = 8
    memory: str = "64Gi"
    shared_memory: str = "16Gi"


def _check_cluster(job: Job, cluster: Cluster) -> None:
    for node in job.exclude:
        if "[" in node:
            raise KibanError(f"--exclude {node}: Kubernetes knows no ranges; name each node")
    for name in (cluster.namespace, *(claim for claim, _ in cluster.claims)):
        if not NAME.fullmatch(name):
            raise KibanError(f"{name}: is no name for Kubernetes; use small letters, digits and '-'")
    if not QUANTITY.fullmatch(cluster.memory):
        raise KibanError(f"--memory {cluster.memory}: write it like 64Gi")


def kubernetes_manifests(job: Job, cluster: Cluster) -> list[dict[str, Any]]:
    """A headless Service, by which the pods find each other, and an indexed Job with a pod a node."""
    check(job)
    _check_cluster(job, cluster)
    pod = _pod(job, cluster, _torchrun(job, f"{job.name}-0.{job.name}:{PORT}", "$JOB_COMPLETION_INDEX"))
    pod["subdomain"] = job.name
    pod["restartPolicy"] = "Never"
    metadata = {"name": job.name, "namespace": cluster.namespace, "labels": {"app": job.name}}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # they meet before anyone is ready
            "selector": {"app": job.name},
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }
    of_job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": job.nodes,
            "parallelism": job.nodes,
            "backoffLimit": job.restarts * job.nodes,
            "podFailurePolicy": {  # drained or pre-empted is not failed: the pod starts anew and does not count
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": job.seconds,
            "template": {"metadata": {"labels": {"app": job.name}}, "spec": pod},
        },
    }
    return [service, of_job]


def kubeflow_manifest(job: Job, cluster: Cluster) -> list[dict[str, Any]]:
    """A PyTorchJob of Kubeflow's training operator, which makes the Service and sets torchrun's PET_ variables."""
    check(job)
    _check_cluster(job, cluster)
    pod = _pod(job, cluster, "exec torchrun -m kiban.training " + shlex.join(job.arguments))
    container = pod["containers"][0]
    container["name"] = "pytorch"  # the operator looks for that name
    container["ports"] = [{"name": "pytorchjob-port", "containerPort": PORT}]
    return [
        {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": job.name, "namespace": cluster.namespace, "labels": {"app": job.name}},
            "spec": {
                "nprocPerNode": str(job.processes),
                "elasticPolicy": {
                    "rdzvBackend": "c10d",
                    "minReplicas": job.nodes,
                    "maxReplicas": job.nodes,
                    "maxRestarts": job.restarts,
                },
                "runPolicy": {"activeDeadlineSeconds": job.seconds, "cleanPodPolicy": "Running"},
                "pytorchReplicaSpecs": {
                    "Worker": {
                        "replicas": job.nodes,
                        "restartPolicy": "OnFailure",
                        "template": {"metadata": {"labels": {"app": job.name}}, "spec": pod},
                    }
                },
            },
        }
    ]


def as_yaml(manifests: list[dict[str, Any]]) -> str:
    import yaml

    apart = json.loads(json.dumps(manifests))  # what stands in two places is written twice, not by reference
    return str(yaml.safe_dump_all(apart, sort_keys=False, allow_unicode=True, width=1000))


def _torchrun(job: Job, endpoint: str, index: str) -> str:
    """A line of shell. Who is index 0 holds the rendezvous, whatever it can resolve of its own name."""
    return (
        f"exec torchrun --nnodes={job.nodes} --nproc-per-node={job.processes} "
        f"--rdzv-backend=c10d --rdzv-endpoint={endpoint} --rdzv-id={job.name} "
        f'--rdzv-conf=is_host=$([ "{index}" = 0 ] && echo true || echo false) '
        f"--max-restarts={job.restarts} --log-dir={job.logs}/{job.name}/{index} --redirects=3 --tee=3 "
        f"-m kiban.training {shlex.join(job.arguments)}"
    )


def _pod(job: Job, cluster: Cluster, command: str) -> dict[str, Any]:
    limits: dict[str, Any] = {"cpu": str(cluster.cpus), "memory": cluster.memory}
    if job.gpus:
        limits["nvidia.com/gpu"] = str(job.gpus)
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    mounts += [{"name": claim, "mountPath": path} for claim, path in cluster.claims]
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shared_memory}}
    ]
    volumes += [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim, _ in cluster.claims]
    variables = {
        "OMP_NUM_THREADS": str(job.threads),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(job.grace),
    }
    container = {
        "image": cluster.image,
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": {"limits": limits, "requests": limits},
        "volumeMounts": mounts,
    }
    doctor = ["kiban", "doctor", "--store", job.store]
    apart = {
        "labelSelector": {"matchLabels": {"app": job.name}},
        "topologyKey": "kubernetes.io/hostname",
    }
    affinity: dict[str, Any] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    if job.exclude:
        terms = [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": list(job.exclude)}]
        affinity["nodeAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": terms}]}
        }
    return {
        "terminationGracePeriodSeconds": job.grace + 60,
        "affinity": affinity,
        "initContainers": [{"name": "doctor", **container, "command": doctor}],
        "containers": [{"name": "train", **container, "command": ["bash", "-c", command]}],
        "volumes": volumes,
    }
