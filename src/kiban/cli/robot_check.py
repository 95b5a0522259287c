"""`kiban robot check`: what a robot's file says, and whether the robot can be started from it."""

from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(
    robot: Annotated[str, typer.Argument(metavar="ROBOT", help="An embodiment's name, or the path of a .toml.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Reads a robot's file, puts it into its postures, drives it at random, and says how it stops.

    Example: kiban robot check tabletop-arm
    """
    import numpy as np

    from kiban.cli.show import print_json
    from kiban.robotics.embodiment import load
    from kiban.robotics.safety import SafetyFilter

    embodiment = load(robot)
    filtered = SafetyFilter(embodiment)
    filtered.reset(*embodiment.postures)
    rng, period = np.random.default_rng(0), embodiment.control_period
    lower, upper = np.array(embodiment.action.lower), np.array(embodiment.action.upper)
    for action in np.repeat(rng.uniform(lower, upper, (100, len(lower))), 10, axis=0):
        filtered.command(action)
    moving = [part for arm in embodiment.arms for part in (arm.joints or [arm.hand]) if part is not None]
    found: dict[str, Any] = {
        "name": embodiment.name,
        "arms": {arm.name: len(arm.joints) for arm in embodiment.arms},
        "action": {"kind": embodiment.action.kind, "names": embodiment.action.names},
        "state": embodiment.state_names,
        "cameras": {camera.name: [camera.width, camera.height] for camera in embodiment.cameras},
        "control_period_s": period,
        "stale_after_s": embodiment.stale_after,
        "longest_stop_s": max(period * np.ceil(part.velocity / part.acceleration / period) for part in moving),
        "capsules": sum(len(arm.capsules) for arm in embodiment.arms),
        "keep_out": [volume.name for volume in embodiment.keep_out],
        "interventions": dict(filtered.interventions),
    }
    if as_json:
        print_json(found)
        return
    arms = ", ".join(f"{name} ({joints} joints)" if joints else name for name, joints in found["arms"].items())
    cameras = ", ".join(f"{name} {width}x{height}" for name, (width, height) in found["cameras"].items())
    counted = ", ".join(f"{reason} {times}" for reason, times in sorted(filtered.interventions.items())) or "none"
    print(f"{embodiment.name}: {arms}; {1 / period:g} Hz; cameras {cameras or 'none'}")
    print(f"action  ({embodiment.action.kind}): {', '.join(embodiment.action.names)}")
    print(f"state   {', '.join(embodiment.state_names)}")
    print(
        f"stops   within {found['longest_stop_s']:g} s of a command; by itself {embodiment.stale_after:g} s after one"
    )
    print(f"apart   {found['capsules']} capsules; keep-out: {', '.join(found['keep_out']) or 'none'}")
    print(f"1000 random actions were made safe: {counted}")
