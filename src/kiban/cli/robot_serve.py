"""`kiban robot serve` and `kiban robot ros2`: a policy for robots on the network, and the node that asks it."""

import asyncio
import ipaddress
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiban.artifacts.errors import KibanError

if TYPE_CHECKING:
    from kiban.robotics.server import PolicyServer

SHORTEST_TOKEN = 16  # characters


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(ros2)


def serve(
    policy: Annotated[Path, typer.Argument(help="A programme, or a policy's folder.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="A token a line; who shows one is let in. Needed beyond this machine.")
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(min=1.0, help="What waits longer is not computed, whatever the robot asks.")
    ] = None,
    robot: Annotated[
        str | None, typer.Option("--embodiment", help="Which robot, if the policy knows several; its first.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the policy's noise, where a request gives none.")] = 0,
) -> None:
    """Serves a policy by openpi's websocket protocol. SIGTERM ends it once what is at work is answered.

    Example: kiban robot serve recipes/demo --port 8000 --deadline-ms 100
    """
    tokens = _tokens(token_file) if token_file else ()
    if not tokens and not _is_loopback(host):
        raise KibanError(
            f"--host {host}: whoever reaches it could move the robot; make a token with `openssl rand -hex 32 > token` "
            "and give it as --token-file"
        )

    from kiban.cli.robot import policy_and_language
    from kiban.robotics import embodiment
    from kiban.robotics.agent import Agent, load_policy, reader_of
    from kiban.robotics.chunking import RealTimeAgent
    from kiban.robotics.policy import Policy
    from kiban.robotics.server import PolicyServer

    folder, language = policy_and_language(policy)
    network, description = load_policy(folder)
    agent = Agent(network, description, reader_of(folder, language), embodiment.load(robot or description.embodiment))
    continued = RealTimeAgent(agent, description.execute).chunk if isinstance(network, Policy) else None
    server = PolicyServer(agent, continued, tokens, deadline_ms, seed=seed, say=_say)
    try:
        asyncio.run(_until_told(server, host, port, f"{folder.name[:12]} for {agent.embodiment.name}"))
    except OSError as error:
        raise KibanError(f"--host {host} --port {port}: cannot listen there ({error.strerror or error})") from None


def ros2(
    embodiment: Annotated[str, typer.Argument(help="Which robot: a name, or the path of its .toml.")],
    out: Annotated[Path, typer.Option(help="Where the package goes; must not exist.")],
) -> None:
    """Writes a ROS 2 package for a robot: a node that asks the policy server, behind the safety filter.

    Example: kiban robot ros2 tabletop-arm --out kiban_tabletop_arm
    """
    from kiban.robotics.ros2 import generate

    package = generate(embodiment, out)
    print(f"{out}: package {package}; its README.md says how to build and run it")


async def _until_told(server: "PolicyServer", host: str, port: int, what: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.run(host, port, stop, lambda bound: _say(f"ws://{host}:{bound}  policy {what}"))


def _tokens(path: Path) -> tuple[str, ...]:
    try:
        tokens = tuple(line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip())
        readers = path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    except (OSError, UnicodeDecodeError) as error:
        raise KibanError(f"--token-file {path}: cannot be read ({getattr(error, 'strerror', 'not ASCII')})") from None
    if not tokens or min(map(len, tokens)) < SHORTEST_TOKEN:
        raise KibanError(f"--token-file {path}: write tokens of at least {SHORTEST_TOKEN} characters, one a line")
    if readers:
        _say(f"{path}: others on this machine can read it; `chmod 600 {path}` ends that")
    return tokens


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
