"""What the policy server adds to the policy: the round trip on loopback, two pictures of 224x224, less the policy.

    python benchmarks/policy_server.py
    python benchmarks/policy_server.py --requests 200 --rounds 1     # a glance

The policy is a few numbers, so that what is left is the protocol: packing, the socket, checking, the queue, the hop to
the policy's thread and back. Rounds alternate with openpi's own server loop written as its protocol is described, which
checks nothing: so one sees what tokens, checks and turns cost.
"""

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, circumstances, head, table, write
from websockets.asyncio.server import ServerConnection, serve
from websockets.sync.client import connect

from kiban.robotics import wire
from kiban.robotics.embodiment import Camera, Embodiment, load
from kiban.robotics.server import PolicyServer

PIXELS, CHUNK, TARGET_MS = 224, 16, 2.0
SENTENCE = "赤い箱を奥へ押してください。"


class Constant:
    """The same actions always."""

    def __init__(self, embodiment: Embodiment) -> None:
        self.embodiment = embodiment
        self._actions = np.zeros((CHUNK, len(embodiment.action.names)))

    def reset(self, instruction: str, seed: int) -> None:
        pass

    def chunk(self, observation: dict[str, Any]) -> np.ndarray[Any, Any]:
        return self._actions


def robot() -> Embodiment:
    """The tabletop arm with two cameras of openpi's size."""
    arm = load("tabletop-arm")
    cameras = tuple(
        Camera.model_validate({**camera.model_dump(), "width": PIXELS, "height": PIXELS}) for camera in arm.cameras[:2]
    )
    return arm.model_copy(update={"cameras": cameras})


@contextmanager
def ours(policy: Constant) -> Iterator[int]:
    server = PolicyServer(policy, tokens=("benchmark-token-1",), deadline_ms=1000)
    yield from _running(lambda stop, ready: server.run("127.0.0.1", 0, stop, ready))


@contextmanager
def bare(policy: Constant) -> Iterator[int]:
    """The least that speaks the protocol: no checks, no queue, no thread."""

    async def handle(connection: ServerConnection) -> None:
        await connection.send(wire.pack({}))
        async for message in connection:
            await connection.send(wire.pack({"actions": policy.chunk(wire.unpack(message))}))

    async def run(stop: asyncio.Event, ready: Any) -> None:
        async with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
            ready(next(iter(server.sockets)).getsockname()[1])
            await stop.wait()

    yield from _running(run)


def _running(run: Any) -> Iterator[int]:
    held: dict[str, Any] = {}
    listening = threading.Event()

    async def main() -> None:
        held["loop"], held["stop"] = asyncio.get_running_loop(), asyncio.Event()

        def ready(port: int) -> None:
            held["port"] = port
            listening.set()

        await run(held["stop"], ready)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    listening.wait()
    yield held["port"]
    held["loop"].call_soon_threadsafe(held["stop"].set)
    thread.join()


def round_trips(port: int, request: dict[str, Any], number: int) -> list[float]:
    """Milliseconds of each exchange, packing and unpacking included, less what the policy took (where it is told)."""
    headers = {"Authorization": "Api-Key benchmark-token-1"}
    taken = []
    with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None, additional_headers=headers) as connection:
        connection.recv()
        for _ in range(number + 20):
            began = time.perf_counter()
            connection.send(wire.pack(request))
            answer = wire.unpack(connection.recv())  # type: ignore[arg-type]
            took = 1e3 * (time.perf_counter() - began)
            taken.append(took - answer.get("policy_timing", {}).get("infer_ms", 0.0))
    return taken[20:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000, help="of each contestant in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    embodiment = robot()
    policy = Constant(embodiment)
    rng = np.random.default_rng(0)
    request: dict[str, Any] = {
        **{c.name: rng.integers(0, 256, (PIXELS, PIXELS, 3), np.uint8) for c in embodiment.cameras},
        "state": np.zeros(len(embodiment.state_names), np.float32),
        "prompt": SENTENCE,
    }
    contestants = {"kiban": ours, "bare": bare}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, contestant in contestants.items():
            with contestant(policy) as port:
                taken = sorted(round_trips(port, request, arguments.requests))
            p99 = taken[min(len(taken) - 1, round(0.99 * len(taken)))]
            rounds[name].append({"median_ms": statistics.median(taken), "p99_ms": p99})
            print(f"{name}: median {rounds[name][-1]['median_ms']:.2f} ms, p99 {p99:.2f} ms", flush=True)
    found = circumstances() | {
        "task": "policy_server",
        "request_bytes": len(wire.pack(request)),
        "target_ms": TARGET_MS,
        "rounds": rounds,
    }
    middle = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        for name, turns in rounds.items()
    }
    found["median_of_rounds"] = middle
    lines = head("The policy server's round trip", circumstances())
    lines += table(
        ["server", "median, ms", "p99, ms"],
        [[name, f"{row['median_ms']:.2f}", f"{row['p99_ms']:.2f}"] for name, row in middle.items()],
    )
    lines += [
        f"{arguments.requests} requests in each of {arguments.rounds} rounds, {found['request_bytes']:,} bytes a "
        f"request (two pictures of {PIXELS}x{PIXELS}); the policy's own time is taken off. Bound: {TARGET_MS:g} ms.",
        "",
        "`bare` speaks the protocol and does nothing else: no token, no check, no queue, the policy on the event loop.",
        "",
    ]
    print(write("policy_server", found, "\n".join(lines), arguments.results))


if __name__ == "__main__":
    main()
