"""`kiban plan`: what a run will take before it starts."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiban.artifacts.errors import KibanError
from kiban.cli.show import duration, print_json

if TYPE_CHECKING:
    from kiban.planning.quote import Asked, Bounds, Quote

app = typer.Typer(help="What a run will take, before it starts.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Rows in the form of published_runs.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The cost model against measured runs: predicted, measured, error. What the model was fitted on is predicted by
    constants fitted without it.

    Example: kiban plan check published_runs.json --json
    """
    from kiban.planning.check import check as compare
    from kiban.planning.published import read_rows

    found = compare(read_rows(file))
    if as_json:
        print_json(
            {
                "rows": [
                    {
                        "id": row.id,
                        "figure": row.figure,
                        "predicted": row.predicted,
                        "measured": row.measured,
                        "relative_error": row.relative_error,
                        "held_out": row.held_out,
                        "chosen": list(row.chosen),
                    }
                    for row in found.rows
                ],
                "unmodelled": [{"id": id, "reason": reason} for id, reason in found.unmodelled],
                "median_abs_error": found.median_abs_error,
                "p90_abs_error": found.p90_abs_error,
            }
        )
        return
    for row in found.rows:
        values = f"{row.predicted:12.4g} predicted {row.measured:12.4g} measured {100 * row.relative_error:+7.1f} %"
        print(f"{row.id!s:>5} {row.figure:24} {values}  {row.name}")
    for id, reason in found.unmodelled:
        print(f"{id!s:>5} not modelled: {reason}")
    if found.errors:
        assert found.median_abs_error is not None and found.p90_abs_error is not None
        print(
            f"{len(found.errors)} figures: median error {100 * found.median_abs_error:.1f} %, 90th percentile "
            f"{100 * found.p90_abs_error:.1f} %, worst {100 * found.errors[-1]:.1f} %"
        )
    print(f"{sum(row.held_out for row in found.rows)} of them by constants fitted without their source and model")


@app.command()
def search(
    preset: Annotated[str, typer.Argument(help="A preset, a width, or a folder or file with config.json.")],
    gpu: Annotated[str, typer.Option(help="h100, h200, b200, gb200, gb300, a100, ...")],
    tokens: Annotated[str, typer.Option(help="To train on: 300B, 15T.")],
    gpus: Annotated[int | None, typer.Option(help="How many; the cheapest number that keeps to the bounds.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens; the preset's context.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences a step; by the model's width.")] = None,
    precision: Annotated[str | None, typer.Option(help="bf16, fp8, mxfp8 or nvfp4; the best that the GPU has.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Layouts to show.")] = 5,
    explain: Annotated[bool, typer.Option(help="Say why the runner-up lost.")] = False,
    pareto: Annotated[bool, typer.Option(help="Time against money, on fewer and on more GPUs.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Write time against money as SVG.")] = None,
    budget_jpy: Annotated[float | None, typer.Option(help="At most so many yen.")] = None,
    deadline: Annotated[float | None, typer.Option(help="At most so many days.")] = None,
    power_mw: Annotated[float | None, typer.Option(help="At most so many megawatts.")] = None,
    site: Annotated[int, typer.Option(min=1, help="Sites that the GPUs stand at, in equal parts.")] = 1,
    site_link: Annotated[float, typer.Option(help="GB/s between a site and the others.")] = 50.0,
    storage: Annotated[float, typer.Option(help="GB/s that checkpoints are written with.")] = 100.0,
    jpy_per_gpu_hour: Annotated[float | None, typer.Option(help="Rent; by prices.toml.")] = None,
    hardware: Annotated[Path | None, typer.Option(help="A TOML file with other GPUs.")] = None,
    price_file: Annotated[Path | None, typer.Option("--prices", help="A TOML file with other prices.")] = None,
    write: Annotated[Path | None, typer.Option(help="Write the best layout as TOML, for kiban train --plan.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The best layouts of a model on given GPUs: memory, time, money, failures. Without --gpus, the number of them that
    keeps to the bounds for the least money.

    Example: kiban plan search trillion --gpu h100 --gpus 4096 --tokens 15T --explain
    """
    from kiban.planning import quote as quoting
    from kiban.planning.plan_file import Plan, Predicted, write_plan
    from kiban.planning.search import too_large_message

    for name, value in (("--gpus", gpus), ("--batch", batch), ("--sequence-length", sequence_length)):
        if value is not None and value < 1:
            raise KibanError(f"{name} {value}: must be at least 1")
    for name, rate in (
        ("--site-link", site_link), ("--storage", storage), ("--budget-jpy", budget_jpy), ("--deadline", deadline),
        ("--power-mw", power_mw), ("--jpy-per-gpu-hour", jpy_per_gpu_hour),
    ):  # fmt: skip
        if rate is not None and rate <= 0:
            raise KibanError(f"{name} {rate}: must be more than 0")
    asked = asked_for(preset, None, gpu, tokens_of(tokens), hardware, price_file, jpy_per_gpu_hour, precision)
    asked = dataclasses.replace(
        asked,
        length=sequence_length or asked.length,
        batch=batch,
        sites=site,
        site_link=site_link * 1e9,
        storage=storage * 1e9,
    )
    bounds = quoting.Bounds(budget_jpy, deadline, power_mw)
    quotes = list[Any]()
    if gpus is None:
        if not bounds:
            raise KibanError("--gpus: say how many, or give --deadline, --budget-jpy or --power-mw to find it by")
        quotes = quoting.by_count(asked)
        cheapest = quoting.cheapest(quotes, bounds)
        if cheapest is None:
            raise quoting.why_none(asked, quotes, bounds)
        gpus = cheapest.gpus
    elif gpus % site:
        raise KibanError(f"--site {site}: does not divide {gpus} GPUs into equal parts")
    found, sequences = quoting.find(asked, gpus), asked.sequences(gpus)
    if not found.candidates:
        raise KibanError(too_large_message(asked.shape, asked.card, gpus, found, asked.length))
    best = quoting.quote(asked, gpus, found.candidates[0])
    if bounds.over(best):
        raise _not_kept(asked, best, bounds)
    if pareto or picture:
        quotes = quotes or quoting.by_count(asked)
        quotes = sorted([*(one for one in quotes if one.gpus != gpus), best], key=lambda one: one.gpus)
    else:
        quotes = []

    plans: list[dict[str, Any]] = []
    for candidate in found.candidates[: max(top, 2)]:
        one = quoting.quote(asked, gpus, candidate)
        plans.append(
            {
                "layout": dataclasses.asdict(candidate.layout) | {"data": candidate.layout.data},
                "text": str(candidate.layout),
                "memory_bytes": candidate.memory,
                "step_seconds": candidate.parts | {"load": 0.0, "total": candidate.seconds},
                "tokens_per_s_per_gpu": one.tokens_per_s_per_gpu,
                "mfu": one.mfu,
                **dataclasses.asdict(one.running),
            }
        )
    if write:
        chosen = Plan(
            preset=None if Path(preset).exists() else preset,
            tokens=asked.tokens,
            sequence_length=asked.length,
            predicted=Predicted(
                tokens_per_s_per_gpu=best.tokens_per_s_per_gpu,
                mfu=best.mfu,
                prices_of=str(asked.costs.date),
                running=best.running,
                step_seconds=plans[0]["step_seconds"],
                memory_bytes=plans[0]["memory_bytes"],
            ),
            layout=best.candidate.layout,
            gpu=asked.card,
            model=config_of(preset),
        )
        write_plan(write, chosen)
    front = {one.gpus for one in quoting.pareto(quotes)}
    points = [
        {
            "gpus": one.gpus,
            "days": one.running.days,
            "jpy": one.running.jpy,
            "megawatts": one.running.megawatts,
            "text": str(one.candidate.layout),
            "best": one.gpus in front,
            "within": not bounds.over(one),
        }
        for one in quotes
    ]
    if picture:
        from kiban.artifacts.files import write_atomic
        from kiban.console.pareto import time_against_money

        title = f"{preset}: {tokens} tokens on {asked.card.name}, by number of GPUs"
        write_atomic(picture, time_against_money(title, points, budget_jpy, deadline))
    if as_json:
        words = {"gpu": asked.card.name, "gpus": gpus, "batch": sequences, "sequence_length": asked.length}
        counted = {"tokens": asked.tokens, "considered": found.considered, "too_large": found.too_large}
        print_json(words | counted | {"plans": plans[:top], "pareto": points})
        return
    shape = asked.shape
    print(f"{preset} on {gpus} x {asked.card.name}: {shape.total / 1e9:.1f}B parameters, {asked.tokens:.3g} tokens, "
          f"{sequences} sequences of {asked.length} a step")  # fmt: skip
    print(f"{found.considered} layouts, {found.too_large} of them too large; the fastest:")
    for number, plan in enumerate(plans[:top], 1):
        _show(number, plan, asked.costs.date)
    for point in points:
        mark = "" if point["best"] else "  (another number is both faster and cheaper)"
        print(f"{point['gpus']:>8} GPUs {duration(point['days']):>11} {point['jpy']:10.3g} yen  {point['text']}{mark}")
    if explain and len(plans) > 1:
        print(_explained(plans[0], plans[1]))
    if picture:
        print(f"\n{picture}: time against money")
    if write:
        print(f"\n{write}: the first of these; kiban train --plan {write} keeps to it")


def _show(number: int, plan: dict[str, Any], prices_of: object) -> None:
    seconds, memory = plan["step_seconds"], plan["memory_bytes"]
    parts = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items() if name != "total" and value >= 0.005)
    kinds = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in memory.items() if name != "total")
    print(f"\n{number}. {plan['text']}")
    print(f"   {plan['tokens_per_s_per_gpu']:.0f} tokens/s/GPU, MFU {100 * plan['mfu']:.1f} % of bf16's peak")
    print(f"   step {seconds['total']:.2f} s: {parts}")
    print(f"   memory {memory['total'] / 1e9:.1f} GB on the fullest stage: {kinds}")
    print(f"   {duration(plan['days'])}, {plan['gpu_hours']:.3g} GPU-hours, {plan['megawatt_hours']:.0f} MWh at most "
          f"({plan['megawatts']:.1f} MW), {plan['jpy']:.3g} yen (prices of {prices_of})")  # fmt: skip
    minutes = plan["checkpoint_interval_s"] / 60
    print(f"   {plan['failures']:.0f} failures expected; a checkpoint every {minutes:.0f} min "
          f"({plan['checkpoint_seconds']:.1f} s each); goodput {100 * plan['goodput']:.1f} %")  # fmt: skip


def _explained(best: dict[str, Any], other: dict[str, Any]) -> str:
    one, two = best["step_seconds"], other["step_seconds"]
    changes = sorted(((two[name] - one[name], name) for name in one if name != "total"), key=lambda x: -abs(x[0]))
    said = ", ".join(f"{name} {change:+.3f} s" for change, name in changes if abs(change) > 5e-4) or "nothing to see"
    return f"\nThe runner-up ({other['text']}) takes {two['total'] - one['total']:.3f} s a step longer: {said}."


def _not_kept(asked: "Asked", given: "Quote", bounds: "Bounds") -> KibanError:
    """That the number of GPUs given does not keep to the bounds, and which would."""
    from kiban.planning import quote as quoting

    quotes = quoting.by_count(asked)
    other = quoting.cheapest(quotes, bounds)
    if other is None:
        return quoting.why_none(asked, quotes, bounds)
    name = bounds.over(given)[0]
    option, unit = quoting.UNITS[name]
    takes, would = getattr(given.running, name), getattr(other.running, name)
    return KibanError(
        f"{option} {getattr(bounds, name):g}: {given.gpus} GPUs take {takes:.4g} {unit}; --gpus {other.gpus} would "
        f"take {would:.4g} {unit} and {other.running.jpy:.3g} yen"
    )


def asked_for(
    preset: str,
    vocabulary: int | None,
    gpu: str,
    tokens: int,
    hardware: Path | None,
    price_file: Path | None,
    jpy_per_gpu_hour: float | None = None,
    precision: str | None = None,
) -> "Asked":
    """Raises KibanError for a GPU, a precision or a preset that is not known, or a GPU without a price."""
    from kiban.planning.hardware import PEAK
    from kiban.planning.hardware import gpu as gpu_of
    from kiban.planning.quote import Asked
    from kiban.planning.running import prices
    from kiban.planning.shape import shape_of

    config, card, costs = config_of(preset, vocabulary), gpu_of(gpu, hardware), prices(price_file)
    if precision is not None and (precision not in PEAK or card.peak(precision) is None):
        raise KibanError(f"--precision {precision}: {card.name} has none; it has {', '.join(_has(card))}")
    price = jpy_per_gpu_hour or costs.jpy_per_gpu_hour.get(gpu.lower())
    if price is None:
        raise KibanError(f"--gpu {gpu}: has no price; give --jpy-per-gpu-hour, or --prices with one")
    return Asked(
        preset, shape_of(config), card, tokens, config.max_position_embeddings, price, costs, precision=precision
    )


def tokens_of(text: str) -> int:
    from kiban.training.settings import parse_tokens

    try:
        return parse_tokens(text)
    except ValueError as error:
        raise KibanError(f"--tokens {text}: {error}") from None


def config_of(preset: str, vocabulary: int | None = None) -> Any:
    from kiban.model.hf_config import read_config
    from kiban.model.presets import preset as of_preset

    path = Path(preset)
    if path.is_file():
        path = path.parent
    return read_config(path) if path.is_dir() else of_preset(preset, vocabulary)


def _has(card: Any) -> list[str]:
    from kiban.planning.hardware import PEAK

    return [name for name in PEAK if card.peak(name) is not None]
