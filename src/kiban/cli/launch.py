"""`kiban launch`: what a scheduler needs to run a training on several nodes."""

from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError


def launch(
    arguments: Annotated[list[str], typer.Argument(help="After `--`: what goes to `python -m kiban.training`.")],
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")],
    layout: Annotated[
        Path | None, typer.Option(help="How the model lies over the ranks; goes to the training.")
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="A batch script for sbatch.")] = False,
    k8s: Annotated[bool, typer.Option("--k8s", help="Manifests: an indexed Job and a headless Service.")] = False,
    kubeflow: Annotated[bool, typer.Option("--kubeflow", help="A PyTorchJob of Kubeflow.")] = False,
    gpus_per_node: Annotated[int, typer.Option(min=0, help="0 trains on CPUs.")] = 8,
    processes_per_node: Annotated[int | None, typer.Option(min=1, help="Ranks on a machine; one a GPU.")] = None,
    name: Annotated[str, typer.Option(help="Of the job.")] = "kiban",
    time: Annotated[str, typer.Option(help="The limit, [days-]hours:minutes:seconds.")] = "24:00:00",
    restarts: Annotated[int, typer.Option(min=0, help="After faults.")] = 3,
    grace: Annotated[int, typer.Option(min=1, help="Seconds that a save may take once told to stop.")] = 300,
    spare: Annotated[int, typer.Option(min=0, help="Slurm: nodes more, in place of those that are ill.")] = 0,
    exclude: Annotated[str, typer.Option(help="Nodes not to use, with commas.")] = "",
    partition: Annotated[str | None, typer.Option(help="Slurm's.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm's.")] = None,
    logs: Annotated[str, typer.Option(help="A folder that all nodes see.")] = "logs",
    store: Annotated[str, typer.Option(help="The folder that the doctor looks at.")] = ".kiban",
    python: Annotated[str, typer.Option(help="Slurm: the interpreter on the nodes.")] = "python",
    threads: Annotated[int, typer.Option(min=1, help="Of each rank.")] = 8,
    image: Annotated[str | None, typer.Option(help="Kubernetes: with Kiban in it.")] = None,
    namespace: Annotated[str, typer.Option(help="Kubernetes.")] = "default",
    claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME:PATH", help="Kubernetes: a volume and where.")
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, help="Kubernetes: of a pod.")] = 8,
    memory: Annotated[str, typer.Option(help="Kubernetes: of a pod.")] = "64Gi",
    to: Annotated[Path | None, typer.Option(help="The file to write; standard output without.")] = None,
) -> None:
    """Writes what Slurm or Kubernetes needs to train on several nodes. Nothing is submitted.

    Example: kiban launch --slurm --nodes 4 --layout layout.toml -- --preset base --data packed --to run
    """
    from kiban.artifacts.files import write_atomic
    from kiban.training import launch as launching

    if slurm + k8s + kubeflow != 1:
        raise KibanError("launch: say one of --slurm, --k8s and --kubeflow")
    if (k8s or kubeflow) and not image:
        raise KibanError("--image: name the container's image, with Kiban in it")
    of_slurm = {"--partition": partition, "--account": account, "--spare": spare}
    for option, value in ({"--image": image, "--claim": claim} if slurm else of_slurm).items():
        if value:
            raise KibanError(f"{option}: has no effect with {'--slurm' if slurm else 'Kubernetes'}; leave it out")
    _check_arguments(arguments)
    processes = processes_per_node or gpus_per_node or 1
    if layout:
        launching.check_layout(layout, nodes * processes, arguments)
        arguments = ["--layout", str(layout), *arguments]
    job = launching.Job(
        name=name,
        nodes=nodes,
        gpus=gpus_per_node,
        processes=processes,
        arguments=tuple(arguments),
        time=time,
        restarts=restarts,
        grace=grace,
        spare=spare,
        exclude=_nodes(exclude),
        partition=partition,
        account=account,
        logs=logs,
        store=store,
        python=python,
        threads=threads,
    )
    if slurm:
        content = launching.slurm_script(job)
    else:
        assert image
        claims = tuple(_claim(text) for text in claim or [])
        cluster = launching.Cluster(image, namespace, claims, cpus, memory)
        make = launching.kubeflow_manifest if kubeflow else launching.kubernetes_manifests
        content = launching.as_yaml(make(job, cluster))
    if to is None:
        print(content, end="")
    else:
        write_atomic(to, content)
        print(f"{to}: `{'sbatch' if slurm else 'kubectl apply -f'} {to}` submits it")


def _check_arguments(arguments: list[str]) -> None:
    """Raises KibanError for what `kiban train` would not take: now, not after a night in the queue."""
    from typer.main import get_command

    from kiban.cli.train import train

    app = typer.Typer(add_completion=False)
    app.command()(train)
    try:
        get_command(app).make_context("kiban.training", [*arguments])
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:  # an exit, at --help
            raise
        raise KibanError(f"after `--`: {message()}") from None


def _nodes(text: str) -> tuple[str, ...]:
    """`a,b[1,3-4]` -> a, b[1,3-4]: commas within brackets belong to the name."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(part for part in parts if part)


def _claim(text: str) -> tuple[str, str]:
    name, colon, path = text.partition(":")
    if not (name and colon and path.startswith("/")):
        raise KibanError(f"--claim {text}: write it as NAME:/where/it/is/mounted")
    return name, path
