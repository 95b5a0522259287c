"""What `kiban launch` writes: read by a checker of sbatch's grammar and by bash, run by stand-ins of Slurm's commands,
and validated by Kubernetes' published schemas. Neither Slurm nor Kubernetes is here; where sbatch is, it is asked.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from kiban.artifacts.errors import KibanError
from kiban.training.launch import Cluster, Job, check, check_layout, kubernetes_manifests, slurm_script
from tests.commands import error_of, kiban

ARGUMENTS = ("--preset", "tiny", "--data", "it's packed", "--to", "run")
JOB = Job(name="first", nodes=2, gpus=8, processes=8, arguments=ARGUMENTS, spare=1, exclude=("n7", "rack[1-3,9]"))

# sbatch(1), version 24.05: the options that are used here, and what may stand behind them.
SBATCH = {
    "job-name": r"\S+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"([\w-]+:)?\d+",
    "exclusive": r"|user|mcs|topo",
    "time": r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d(:\d\d)?)?",
    "partition": r"[\w.,-]+",
    "account": r"[\w.-]+",
    "exclude": r"[\w.\[\],-]+",
    "output": r"[\w./%-]+",
    "open-mode": r"append|truncate",
    "requeue": r"",
    "signal": r"([RB]:)?(\d+|[A-Z0-9]+)(@\d+)?",
}


def directives(script: str) -> dict[str, str]:
    """The #SBATCH lines, as sbatch reads them: only before the first command. Asserts that it would take each."""
    assert script.startswith("#!/bin/bash\n")
    found: dict[str, str] = {}
    lines = script.splitlines()
    body = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[body:])
    for line in lines[:body]:
        if line.startswith("#SBATCH"):
            option = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line)
            assert option, line
            name, value = option[1], option[2] or ""
            assert name not in found and re.fullmatch(SBATCH[name], value), line
            found[name] = value
    return found


@pytest.mark.parametrize(
    "job",
    [
        JOB,
        Job(name="cpu", nodes=1, gpus=0, processes=2, arguments=("a b",), time="2-12", partition="gpu", account="a1"),
    ],
    ids=["gpus", "cpus"],
)
def test_the_script_is_one_for_sbatch_and_bash(job: Job, tmp_path: Path) -> None:
    script = slurm_script(job)
    options = directives(script)
    assert options["nodes"] == str(job.nodes + job.spare) and options["signal"] == "B:USR1@360"
    assert ("gpus-per-node" in options) == bool(job.gpus) and options.get("partition") == job.partition
    file = tmp_path / "job.sh"
    file.write_text(script)
    subprocess.run(["bash", "-n", file], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--severity=error", file], check=True)
    if shutil.which("sbatch"):
        done = subprocess.run(["sbatch", "--test-only", file], capture_output=True, text=True)
        assert "unrecognized option" not in done.stderr and "Invalid" not in done.stderr, done.stderr


STAND_INS = {
    # Runs the step once a node, side by side, as srun does; passes SIGTERM on.
    "srun": """#!/bin/bash
nodes="n1 n2 n3"
for option in "$@"; do case "$option" in --nodelist=*) nodes=$(echo "${option#--nodelist=}" | tr , ' ');; esac; done
while [ "$1" != bash ]; do shift; done
for node in $nodes; do SLURMD_NODENAME=$node "$@" & pids="$pids $!"; done
trap 'kill -TERM $pids; ended=143' TERM
ended=0
for pid in $pids; do wait $pid || ended=$?; while kill -0 $pid 2>/dev/null; do wait $pid; done; done
exit $ended
""",
    "scontrol": """#!/bin/bash
case "$2" in hostnames) printf 'n1\\nn2\\nn3\\n';;
job) echo "JobId=$4 JobState=${STATE:-RUNNING} Command=$SCRIPT WorkDir=/x";; esac
""",
    "sbatch": """#!/bin/bash
printf '%s\\n' "$@" > submitted
""",
    # The interpreter on a node: the doctor fails on n2; the training says what it was given, and saves at SIGTERM.
    "python": """#!/bin/bash
case "$*" in
*"kiban doctor"*) echo "looked at $SLURMD_NODENAME"; [ "$SLURMD_NODENAME" != n2 ];;
*)  printf '%s\\n' "$@" > "arguments-$SLURMD_NODENAME"
    [ -z "$FAULT" ] || exit 3
    trap 'touch "saved-$SLURMD_NODENAME"; exit 1' TERM  # as torchrun does, though its ranks exit with 0
    touch "running-$SLURMD_NODENAME"
    for i in $(seq 300); do sleep 0.1; done;;
esac
""",
}


def submitted(folder: Path, job: Job, **variables: str) -> "subprocess.Popen[str]":
    """The script at work on three nodes, as `sbatch` would start it."""
    commands = folder / "bin"
    commands.mkdir()
    for name, content in STAND_INS.items():
        (commands / name).write_text(content)
        (commands / name).chmod(0o755)
    script = folder / "job.sh"
    script.write_text(slurm_script(job))
    of_slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[1-3]", "SCRIPT": str(script)}
    environment = {**os.environ, **of_slurm, **variables, "PATH": f"{commands}:{os.environ['PATH']}"}
    return subprocess.Popen(["bash", script], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def until(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline, file
        time.sleep(0.02)


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM], ids=["time limit", "scancel"])
def test_the_bad_node_is_left_out_and_a_signal_saves(signum: signal.Signals, tmp_path: Path) -> None:
    batch = submitted(tmp_path, JOB)
    for node in ("n1", "n3"):
        until(tmp_path / f"running-{node}")
    assert not (tmp_path / "arguments-n2").exists()
    assert (tmp_path / "logs" / "first.bad-nodes").read_text() == "n2\n"
    assert (tmp_path / "logs" / "4711" / "doctor-n2.txt").read_text() == "looked at n2\n"
    given = (tmp_path / "arguments-n3").read_text().splitlines()
    assert given[given.index("kiban.training") + 1 :] == list(ARGUMENTS)
    assert {"--nnodes=2", "--nproc-per-node=8", "--rdzv-endpoint=n1:24711", "--max-restarts=3"} <= set(given)
    assert "--log-dir=logs/4711/n3" in given
    batch.send_signal(signum)
    batch.wait(30)
    assert (tmp_path / "saved-n1").exists() and (tmp_path / "saved-n3").exists()
    if signum == signal.SIGTERM:
        assert not (tmp_path / "submitted").exists()  # who cancels a job does not want it back
    else:
        anew = (tmp_path / "submitted").read_text().splitlines()
        assert "--exclude=n7,rack[1-3,9],n2" in anew and anew[-1] == str(tmp_path / "job.sh")
        assert "--export=ALL,KIBAN_FAULTS=0" in anew


def test_a_fault_is_gone_over_so_many_times(tmp_path: Path) -> None:
    batch = submitted(tmp_path, JOB, FAULT="1", KIBAN_FAULTS="2")
    assert batch.wait(30) == 3
    assert "--export=ALL,KIBAN_FAULTS=3" in (tmp_path / "submitted").read_text().splitlines()
    (tmp_path / "last").mkdir()
    batch = submitted(tmp_path / "last", JOB, FAULT="1", KIBAN_FAULTS="3")
    assert batch.wait(30) == 3 and not (tmp_path / "last" / "submitted").exists()


def test_a_cancelled_job_is_not_submitted_anew_whatever_its_steps_say(tmp_path: Path) -> None:
    assert submitted(tmp_path, JOB, FAULT="1", STATE="CANCELLED").wait(30) == 3
    assert not (tmp_path / "submitted").exists()


def test_too_few_healthy_nodes_end_the_job_before_it_trains(tmp_path: Path) -> None:
    batch = submitted(tmp_path, Job(name="first", nodes=3, gpus=8, processes=8, arguments=ARGUMENTS))
    assert batch.wait(30) == 1 and batch.stderr
    assert "fewer than 3 healthy nodes; bad: n2" in batch.stderr.read()
    assert "--exclude=n2" in (tmp_path / "submitted").read_text().splitlines()
    assert not list(tmp_path.glob("arguments-*"))


# Kubernetes

CLUSTER = Cluster("registry.example.jp/kiban:0.1", "training", (("corpus", "/data"),))
ON_KUBERNETES = Job(name="first", nodes=4, gpus=8, processes=8, arguments=ARGUMENTS, exclude=("node-7",))


def validated(manifests: list[dict[str, Any]]) -> None:
    validation = pytest.importorskip(
        "kubernetes_validate", reason="NOT VALIDATED: kubernetes-validate is not installed"
    )
    for manifest in manifests:
        for version in ("1.31", validation.latest_version()):
            validation.validate(manifest, version, strict=True)


def test_the_manifests_are_valid_by_kubernetes_schemas() -> None:
    manifests = json.loads(json.dumps(kubernetes_manifests(ON_KUBERNETES, CLUSTER)))
    validated(manifests)
    with pytest.raises(Exception, match="backoffLimits|Additional properties"):  # the schema does bite
        broken = json.loads(json.dumps(manifests))
        broken[1]["spec"]["backoffLimits"] = 3
        validated(broken)
    service, job = manifests
    pod = job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == job["spec"]["template"]["metadata"]["labels"]
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    assert pod["terminationGracePeriodSeconds"] > ON_KUBERNETES.grace
    assert {volume["name"] for volume in pod["volumes"]} == {
        mount["name"] for mount in pod["containers"][0]["volumeMounts"]
    }
    assert "node-7" in json.dumps(pod["affinity"]["nodeAffinity"])


@pytest.mark.parametrize("index", ["0", "3"])
def test_the_pods_command_is_torchruns(index: str, tmp_path: Path) -> None:
    """Its own shell line, run with a torchrun that prints what it is given."""
    (tmp_path / "torchrun").write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "torchrun").chmod(0o755)
    command = kubernetes_manifests(ON_KUBERNETES, CLUSTER)[1]["spec"]["template"]["spec"]["containers"][0]["command"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": index}
    given = subprocess.check_output(command, env=environment, text=True).splitlines()
    assert f"--rdzv-conf=is_host={'true' if index == '0' else 'false'}" in given
    assert "--rdzv-endpoint=first-0.first:29400" in given and f"--log-dir=logs/first/{index}" in given
    assert given[given.index("kiban.training") + 1 :] == list(ARGUMENTS)
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(given)
    assert parsed.nnodes == "4" and parsed.nproc_per_node == "8" and parsed.max_restarts == 3 and parsed.module


KUBEFLOW = """
import json, sys
from kubeflow.training import models

def check(value, kind, where):
    if kind.startswith(("list[", "dict(")):
        inner = kind[5:-1] if kind[0] == "l" else kind[5:-1].split(", ")[1]
        for item in value if kind[0] == "l" else value.values():
            check(item, inner, where)
    elif kind[:1] == "K":
        model = getattr(models, kind)
        keys = {alias: name for name, alias in model.attribute_map.items()}
        assert not set(value) - set(keys), f"{where}: {set(value) - set(keys)}"
        for key, item in value.items():
            check(item, model.openapi_types[keys[key]], f"{where}.{key}")
    elif kind in ("str", "int"):
        assert type(value).__name__ == kind, f"{where}: {value!r} is no {kind}"

check(json.load(sys.stdin), "KubeflowOrgV1PyTorchJob", "job")
print("valid")
"""


@pytest.mark.slow
def test_the_pytorchjob_is_valid_by_kubeflows_models(tmp_path: Path) -> None:
    """By the Python models that Kubeflow generates from its schema, and its pods by Kubernetes' own."""
    written = kiban("launch", "--kubeflow", "--nodes", "4", "--image", CLUSTER.image, "--", *ARGUMENTS).stdout
    (job,) = yaml.safe_load_all(written)
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    validated([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": template["spec"]}])
    python = tmp_path / "kubeflow" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "kubeflow"], check=True)
    got = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "kubeflow-training"], capture_output=True, text=True
    )
    if got.returncode:
        pytest.skip(f"NOT VALIDATED by Kubeflow's models: they cannot be installed ({got.stderr.splitlines()[-1]})")
    done = subprocess.run([python, "-c", KUBEFLOW], input=json.dumps(job), capture_output=True, text=True)
    assert done.stdout.strip() == "valid", done.stderr[-2000:]


# What is refused


def test_layouts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "layout.toml"
    file.write_text("tensor = 2\npipeline = 3\n")
    check_layout(file, 24, ())
    with pytest.raises(KibanError, match="16 ranks are no multiple of tensor 2 x pipeline 3 x context 1 = 6"):
        check_layout(file, 16, ())
    file.write_text("tensor = 8\n")
    with pytest.raises(KibanError, match="with preset nano: .* tensor = 8 does not divide the 4 heads"):
        check_layout(file, 16, ("--preset=nano", "--data", "packed"))
    file.write_text("[layout]\ntensor = 2\nexpert = 2\n")
    check_layout(file, 4, ("--preset", "nano", "--batch-sequences", "16"))
    with pytest.raises(KibanError, match="a batch of 15 sequences"):
        check_layout(file, 4, ("--preset", "nano", "--batch-sequences", "15"))
    file.write_text("tensors = 2\n")
    with pytest.raises(KibanError, match="there is no tensors"):
        check_layout(file, 16, ())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "First Run"}, "--name"),
        ({"time": "1 day"}, "--time"),
        ({"time": "00:05:00"}, "leaves no time"),
        ({"exclude": ("n1; rm -rf /",)}, "--exclude"),
        ({"partition": "a b"}, "--partition"),
        ({"store": "$(reboot)"}, "--store"),
    ],
)
def test_what_the_scheduler_or_a_shell_would_misread_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(KibanError, match=said):
        check(Job(**{**JOB.__dict__, **changed}))


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "layout.toml").write_text("tensor = 2\n")
    arguments = ["--nodes", "2", "--layout", "layout.toml", "--to", "job.sh", "--", "--data", "packed"]
    assert "`sbatch job.sh`" in kiban("launch", "--slurm", *arguments, cwd=tmp_path).stdout
    assert "-m kiban.training --layout layout.toml --data packed" in (tmp_path / "job.sh").read_text()
    assert "say one of" in error_of("launch", *arguments, cwd=tmp_path)
    assert "--image" in error_of("launch", "--k8s", *arguments, cwd=tmp_path)
    assert "No such option: --presets" in error_of("launch", "--slurm", "--nodes", "1", "--", "--presets", "tiny")
    assert "--data" in error_of("launch", "--slurm", "--nodes", "1", "--", "--preset", "tiny")
