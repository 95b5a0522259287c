"""`kiban robot train`: a policy from LeRobot datasets."""

from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.artifacts.store import WORK
from kiban.robotics.policy_config import PolicyKind
from kiban.robotics.stage import PolicySettings


def train(
    dataset: Annotated[list[Path], typer.Argument(help="LeRobot datasets, of one robot or of several.")],
    language: Annotated[Path, typer.Option(help="The exported language model that reads the sentences.")],
    out: Annotated[Path, typer.Option(help="Where the policy goes. A run that was killed goes on there.")],
    steps: Annotated[int, typer.Option(min=1, help="Of training.")] = 1200,
    batch: Annotated[int, typer.Option(min=1, help="Frames a step.")] = 64,
    policy: Annotated[str, typer.Option(help="kiban, or a baseline: act, diffusion.")] = "kiban",
    chunk: Annotated[int, typer.Option(min=1, help="Actions that are foreseen; half of them are executed.")] = 8,
    pixels: Annotated[int, typer.Option(min=16, help="Larger pictures are shrunk to no more than this.")] = 128,
    vision_blocks: Annotated[int, typer.Option(min=1, help="Convolutions of a vision tower after the first.")] = 1,
    width: Annotated[int, typer.Option(min=16, help="Numbers of a token.")] = 96,
    layers: Annotated[int, typer.Option(min=1, help="Of the two streams with shared attention.")] = 3,
    held_out: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of episodes measured, not trained on.")
    ] = 0.05,
    train_language: Annotated[bool, typer.Option("--train-language", help="The language model learns on too.")] = False,
    euler_steps: Annotated[int, typer.Option(min=1, help="From noise to actions.")] = 5,
    distil: Annotated[bool, typer.Option("--distil", help="Teach these steps what ten or more do.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Cores to use.")] = 2,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Other weights, another order.")] = 0,
) -> None:
    """Trains one policy on all the datasets given.

    Example: kiban robot train pushes --language recipes/demo/.kiban/artifacts/export/... --out pusher --steps 1200
    """
    if policy not in get_args(PolicyKind):
        raise KibanError(f"--policy {policy}: there is none of that name; use {', '.join(get_args(PolicyKind))}")
    try:
        settings = PolicySettings(
            steps=steps,
            batch=batch,
            threads=threads,
            seed=seed,
            network=cast(PolicyKind, policy),
            held_out=held_out,
            train_language=train_language,
            euler_steps=euler_steps,
            distil=distil,
        )
    except ValidationError as error:
        raise KibanError("--" + error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    from kiban.robotics.agent import DESCRIPTION
    from kiban.robotics.dataset_terms import require
    from kiban.robotics.inspection import check
    from kiban.robotics.train_policy import Sizes, keep_language, train_from

    if (out / DESCRIPTION).exists():
        raise KibanError(f"{out}: holds a trained policy already; name another folder")
    sizes = Sizes(chunk=chunk, pixels=pixels, vision_blocks=vision_blocks, width=width, layers=layers)
    progress = Progress()
    for folder in dataset:
        require(folder, "pretrain")
        check(folder, progress)
    trained = train_from(settings, dataset, (), language, _address_of(language), out, out / WORK, progress, sizes)
    keep_language(language, out)
    measured = "" if trained.held_out_loss is None else f", held-out loss {trained.held_out_loss:.4f}"
    print(
        f"{out}: {trained.parameters:,} parameters, loss {trained.loss:.4f}{measured}, "
        f"{trained.frames_per_s:.0f} frames/s"
    )


def _address_of(language: Path) -> str:
    """The artifact's address, or the digest of the weights' bytes where the folder is no artifact."""
    import hashlib

    from kiban.artifacts.manifest import MANIFEST
    from kiban.artifacts.store import read_artifact

    if (language / MANIFEST).exists():
        return read_artifact(language).address
    weights = sorted(language.glob("*.safetensors"))
    if not weights:
        raise KibanError(f"{language}: is no exported language model; name one (`kiban run . --to export` makes it)")
    digest = hashlib.sha256()
    for path in weights:
        digest.update(path.read_bytes())
    return f"sha256:{digest.hexdigest()}"
