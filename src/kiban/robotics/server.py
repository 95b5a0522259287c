"""The policy server: openpi's websocket protocol, so that a robot with that client can ask, and what it lacks.

As there: the server sends the metadata first; a binary frame with an observation is answered by a binary frame with
`actions` [K, A], in the robot's units; what cannot be answered gets a text frame; GET /healthz says OK. Beyond that:
tokens, bounds on sizes, request ids, deadlines, a fair queue, and an end that lets what is at work finish.

One policy works, on one thread. A connection has one request on its way, and the lock is given in the order of asking,
so that of several robots each is served in its turn.
"""

import asyncio
import hmac
import http
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import CloseCode
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.protocol import State

from kiban.artifacts.errors import KibanError
from kiban.robotics import wire
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.observation import RefusedError, Request, read_request, request_id_of
from kiban.robotics.seeds import ROLLOUTS, episode_seed

MOST_BYTES = 32 << 20  # of a request: twenty pictures of 720p's size would not fit
MOST_CLIENTS = 32
GRACE = 10.0  # s that requests at work get to finish when the server is told to stop
QUIET = logging.getLogger("kiban.robotics.server.websockets")  # port scans are no news
QUIET.setLevel(logging.CRITICAL)
FILTER = "not applied; it must stand between this answer and the motors (kiban.robotics.client)"


class ChunkPolicy(Protocol):
    """What the server needs of a policy (`agent.py`)."""

    @property
    def embodiment(self) -> Embodiment: ...

    def reset(self, instruction: str, seed: int) -> None: ...

    def chunk(self, observation: dict[str, Any]) -> NDArray[Any]: ...


# (observation, last [n, A], delay) -> actions [K, A] that go on from those being carried out (`chunking.py`)
Continuation = Callable[[dict[str, Any], NDArray[np.float64], int], NDArray[Any]]


class DeadlineError(KibanError):
    """The request's time had passed before its turn came. Nothing was computed."""


@dataclass
class _Session:
    """One connection: its number, how many requests it made, and how long the last one took in all."""

    number: int
    requests: int = 0
    previous_ms: float | None = None


class PolicyServer:
    """Serves one policy. `tokens`: whoever shows one of them is let in; nobody needs one if there are none.

    `continued` computes chunks that go on from the last one, for clients that send it; those are refused without.
    """

    def __init__(
        self,
        policy: ChunkPolicy,
        continued: Continuation | None = None,
        tokens: Sequence[str] = (),
        deadline_ms: float | None = None,
        most_bytes: int = MOST_BYTES,
        seed: int = 0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._policy, self._continued = policy, continued
        self._tokens, self._deadline_ms = tokens, deadline_ms
        self._most_bytes, self._seed, self._say = most_bytes, seed, say
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._clients = self._sessions = self._at_work = 0
        self._stopping = False

    @property
    def metadata(self) -> dict[str, Any]:
        """The first frame that a client gets."""
        robot = self._policy.embodiment
        return {
            "server": "kiban",
            "embodiment": robot.name,
            "control_period": robot.control_period,
            "cameras": {camera.name: [camera.height, camera.width, 3] for camera in robot.cameras},
            "state": list(robot.state_names),
            "action": list(robot.action.names),
            "action_units": list(robot.action.units),
            "deadline_ms": self._deadline_ms,
            "real_time_chunking": self._continued is not None,
            "safety_filter": FILTER,
        }

    async def run(
        self, host: str, port: int, stop: asyncio.Event, listening: Callable[[int], None] = lambda port: None
    ) -> None:
        """Serves until `stop` is set, and returns when what was at work is answered, or GRACE is over.

        Raises:
            OSError: if the address cannot be had.
        """
        self._turn = asyncio.Lock()
        server = await serve(
            self._handle,
            host,
            port,
            compression=None,  # pictures of a camera hardly shrink, and it costs milliseconds
            max_size=self._most_bytes,
            process_request=self._admit,
            origins=[None],  # a page in somebody's browser is no robot
            logger=QUIET,
        )
        listening(server.sockets[0].getsockname()[1])
        try:
            await stop.wait()
        finally:
            await self._finish(server)

    async def _finish(self, server: Server) -> None:
        self._stopping = True
        server.close(close_connections=False)
        until = time.monotonic() + GRACE
        while self._at_work and time.monotonic() < until:
            await asyncio.sleep(0.01)
        for connection in list(server.connections):
            await connection.close(CloseCode.GOING_AWAY, "the server stops")
        server.close()
        await server.wait_closed()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        shown = request.headers.get("Authorization", "").removeprefix("Api-Key ").removeprefix("Bearer ")
        if self._tokens and not any(
            hmac.compare_digest(shown.encode(errors="replace"), token.encode()) for token in self._tokens
        ):
            self._say(f"{_peer(connection)}: turned away, without a valid token")
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "show a token: Authorization: Api-Key TOKEN\n")
        if self._clients >= MOST_CLIENTS:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_CLIENTS} clients are connected\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        self._clients += 1
        self._sessions += 1
        session = _Session(self._sessions)
        self._say(f"{_peer(connection)}: connected")
        try:
            await connection.send(wire.pack(self.metadata))
            async for message in connection:
                began = time.monotonic()
                self._at_work += 1
                try:
                    answer, close = await self._answer(message, connection, session)
                    await connection.send(answer)
                finally:
                    self._at_work -= 1
                if close:
                    await connection.close(*close)
                    return
                session.previous_ms = 1e3 * (time.monotonic() - began)
        except ConnectionClosed:
            pass
        finally:
            self._clients -= 1
            self._say(f"{_peer(connection)}: gone after {session.requests} requests")

    async def _answer(
        self, message: str | bytes, connection: ServerConnection, session: _Session
    ) -> tuple[str | bytes, tuple[CloseCode, str] | None]:
        """The answer, and how the connection is closed after it, if it is."""
        if isinstance(message, str):
            return "refused: a text frame; send msgpack in binary ones", (CloseCode.UNSUPPORTED_DATA, "text frame")
        request_id: str | int | None = None
        try:
            content = wire.unpack(message)
            request_id = request_id_of(content)
            if self._stopping:
                return _fault("stopping", "the server is stopping; nothing was computed", request_id), None
            request = read_request(content, self._policy.embodiment)
            if request.last is not None and self._continued is None:
                raise RefusedError("last: this policy does not go on from a chunk; leave 'last' and 'delay' out")
            session.requests += 1
            return wire.pack(await self._act(request, connection, session)), None
        except wire.WireError as error:
            self._say(f"{_peer(connection)}: refused: {error}")
            return f"refused: {error}", (CloseCode.INVALID_DATA, "not the protocol")
        except DeadlineError as error:
            return _fault("deadline", str(error), request_id), None
        except KibanError as error:
            self._say(f"{_peer(connection)}: refused: {error}")
            return _fault("refused", str(error), request_id), None
        except ConnectionClosed:
            raise
        except Exception as error:  # whatever the policy does, the robot is told, and the server lives
            self._say(traceback.format_exc())
            line = f"the policy failed ({type(error).__name__}); the server's log says where"
            return _fault("failed", line, request_id), (CloseCode.INTERNAL_ERROR, "the policy failed")

    async def _act(self, request: Request, connection: ServerConnection, session: _Session) -> dict[str, Any]:
        arrived = time.monotonic()
        allowed = min(request.deadline_ms or np.inf, self._deadline_ms or np.inf)
        try:
            async with asyncio.timeout(None if np.isinf(allowed) else allowed / 1e3):
                await self._turn.acquire()
        except TimeoutError:
            raise DeadlineError(f"the deadline of {allowed:g} ms passed in the queue; nothing was computed") from None
        try:
            began = time.monotonic()
            if 1e3 * (began - arrived) >= allowed:
                raise DeadlineError(f"the deadline of {allowed:g} ms passed in the queue; nothing was computed")
            if connection.state is not State.OPEN:
                raise ConnectionClosedError(None, None)
            seed = request.seed
            if seed is None:
                seed = episode_seed(ROLLOUTS, self._seed, "serve", session.number, session.requests)
            actions = await asyncio.get_running_loop().run_in_executor(self._worker, self._compute, request, seed)
            ended = time.monotonic()
        finally:
            self._turn.release()
        timing = {"infer_ms": 1e3 * (ended - began), "queue_ms": 1e3 * (began - arrived)}
        if session.previous_ms is not None:
            timing["prev_total_ms"] = session.previous_ms
        # `actions` stays the only array: openpi's ActionChunkBroker takes row i of every array in the answer.
        answer = {"actions": actions, "policy_timing": {"infer_ms": timing["infer_ms"]}, "server_timing": timing}
        if 1e3 * (ended - arrived) > allowed:
            answer["late_ms"] = 1e3 * (ended - arrived) - allowed
        return answer | _named(request.request_id) | {"safety_filter": FILTER}

    def _compute(self, request: Request, seed: int) -> NDArray[Any]:
        self._policy.reset(request.instruction, seed)
        if request.last is None or self._continued is None:
            actions = np.asarray(self._policy.chunk(request.observation))
        else:
            actions = np.asarray(self._continued(request.observation, request.last, request.delay))
        if not np.isfinite(actions).all():
            raise ArithmeticError("the policy's actions hold a NaN or an infinity")
        return actions


def _named(request_id: str | int | None) -> dict[str, Any]:
    return {} if request_id is None else {"request_id": request_id}


def _fault(code: str, line: str, request_id: str | int | None) -> str | bytes:
    """To a client with request ids a map, to one without openpi's text frame, at which its client raises."""
    if request_id is None:
        return f"{code}: {line}"
    return wire.pack({"request_id": request_id, "error": line, "code": code})


def _peer(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "a client"
