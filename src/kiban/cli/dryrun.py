"""`kiban dryrun`: one step of one rank, on fake tensors."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.cli.show import in_bytes, print_json


def dryrun(
    preset: Annotated[
        str | None, typer.Argument(help="A preset, a width, or a folder or file with config.json.")
    ] = None,
    world: Annotated[int, typer.Option(help="Ranks.")] = 1,
    rank: Annotated[int, typer.Option(help="Which of them to be.")] = 0,
    tensor: Annotated[int, typer.Option(help="Ranks that share each product.")] = 1,
    pipeline: Annotated[int, typer.Option(help="Stages.")] = 1,
    virtual: Annotated[int, typer.Option(help="Chunks of layers a stage.")] = 1,
    context: Annotated[int, typer.Option(help="Ranks that share each sequence.")] = 1,
    expert: Annotated[int, typer.Option(help="Ranks that share the experts.")] = 1,
    micro_batch: Annotated[int, typer.Option(help="Sequences.")] = 1,
    batch: Annotated[int | None, typer.Option(help="Sequences a step; two micro-batches a rank.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens; the preset's context.")] = None,
    shard: Annotated[int, typer.Option(help="ZeRO's stage: 0 nothing, 1 optimiser, 2 gradients, 3 weights.")] = 3,
    shard_ranks: Annotated[int | None, typer.Option(help="Of how many ranks a shard's group is; all.")] = None,
    recompute: Annotated[str, typer.Option(help="none, selective or full.")] = "none",
    mtp: Annotated[bool, typer.Option(help="Train with an MTP layer.")] = False,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="What kiban plan search --write wrote: model and layout.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Builds the model and its layout with the code that trains it, on fake tensors, and takes a step as one rank of
    many: what memory it needs, what it sends, how much it computes. No GPU and next to no memory.

    Example: kiban dryrun small --sequence-length 1024 --json
    """
    from kiban.cli.plan import config_of
    from kiban.model.layout import RECOMPUTE, Layout
    from kiban.planning.dryrun import dryrun as run
    from kiban.planning.plan_file import read_plan

    for name, value in (("--world", world), ("--micro-batch", micro_batch), ("--batch", batch)):
        if value is not None and value < 1:
            raise KibanError(f"{name} {value}: must be at least 1")
    if sequence_length is not None and sequence_length < 2:
        raise KibanError(f"--sequence-length {sequence_length}: must be at least 2")
    if recompute not in RECOMPUTE:
        raise KibanError(f"--recompute {recompute}: there is no such policy; use one of {', '.join(RECOMPUTE)}")
    if (preset is None) == (plan_file is None):
        raise KibanError("give a preset, or a --plan with its model and layout")
    if plan_file is not None:
        plan = read_plan(plan_file)
        config, layout, length = plan.model, plan.layout, plan.sequence_length
        if layout.precision != "bf16":
            Progress().say(f"{plan_file}: precision {layout.precision}: training computes in bf16, and so does this")
    else:
        config = config_of(str(preset))
        if mtp:
            config = config.model_copy(update={"num_nextn_predict_layers": 1})
        length = sequence_length or config.max_position_embeddings
        block = tensor * pipeline * context
        data = max(1, world // max(1, block))
        layout = Layout(
            gpus=world,
            tensor=tensor,
            pipeline=pipeline,
            virtual=virtual,
            context=context,
            expert=expert,
            micro_batch=micro_batch,
            global_batch=batch or 2 * pipeline * micro_batch * data,
            shard=shard,
            shard_ranks=shard_ranks,
            recompute=recompute,
        )
    found = run(config, layout, rank, length)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    print(f"{preset or plan_file}, rank {rank} of {layout.gpus}: {found.parameters / 1e9:.3g}B parameters, "
          f"{found.active_parameters / 1e9:.3g}B active")  # fmt: skip
    kinds = ", ".join(f"{kind} {in_bytes(size)}" for kind, size in found.memory_bytes.items() if kind != "total")
    print(f"memory {in_bytes(found.memory_bytes['total'])}: {kinds}")
    for one in found.collectives:
        print(f"{one.op} over {one.axis} ({one.ranks} ranks): {one.count} times, {in_bytes(one.bytes)} sent")
    print(f"{found.flops / 1e12:.4g} TFLOP a step; the dry run took {found.seconds:.0f} s")
