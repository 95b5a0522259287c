"""The robot's side of the policy server: it asks with ids and deadlines, and takes no answer but the one it waits for.

Needs no PyTorch (`pip install kiban[robot-client]`).
"""

import itertools
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.protocol import State
from websockets.sync.client import connect

from kiban.artifacts.errors import KibanError
from kiban.robotics import wire
from kiban.robotics.embodiment import Embodiment

CONNECT_SECONDS = 10.0
MOST_BYTES = 1 << 20  # of an answer
PATIENCE, PAUSE = 1.0, 0.02  # s


class AnswerError(KibanError):
    """The server answered without actions. `code`: refused, deadline, stopping or failed."""

    def __init__(self, code: str, line: str) -> None:
        super().__init__(f"policy server: {code}: {line}")
        self.code = code


class SilenceError(KibanError):
    """No answer came in time, or the connection is gone."""


@dataclass(frozen=True)
class Answer:
    """`actions` [K, A] in the robot's units, not filtered; how long the server computed and the whole exchange took."""

    actions: NDArray[np.float64]
    infer_ms: float
    total_ms: float


class PolicyClient:
    """One connection to a policy server. Of use to one thread.

    Raises:
        KibanError: if there is no server, it turns the token away, or serves a policy for another robot.
    """

    def __init__(self, address: str, embodiment: Embodiment | None = None, token: str | None = None) -> None:
        self._address = address if address.startswith(("ws://", "wss://")) else f"ws://{address}"
        self._embodiment = embodiment
        self._headers = {"Authorization": f"Api-Key {token}"} if token else None
        self._numbers = itertools.count(1)
        self._open = ExitStack()
        self._connect()

    def _connect(self) -> None:
        self._open.close()
        try:
            self._connection = self._open.enter_context(
                connect(
                    self._address,
                    compression=None,
                    max_size=MOST_BYTES,
                    additional_headers=self._headers,
                    open_timeout=CONNECT_SECONDS,
                )
            )
            self.metadata: dict[str, Any] = wire.unpack(self._received(CONNECT_SECONDS))
        except InvalidStatus as error:
            status = error.response.status_code
            why = "it wants a token, or another one" if status == 401 else f"it answers {status}"
            raise KibanError(f"{self._address}: the policy server does not let us in: {why}") from None
        except (OSError, InvalidHandshake, SilenceError) as error:
            raise KibanError(f"{self._address}: there is no policy server ({error})") from None
        if self._embodiment is not None:
            self._check(self._embodiment)

    def _check(self, embodiment: Embodiment) -> None:
        ours = {"state": list(embodiment.state_names), "action": list(embodiment.action.names)}
        for what, names in ours.items():
            if self.metadata.get(what) != names:
                self.close()
                raise KibanError(
                    f"{self._address}: serves a policy for '{self.metadata.get('embodiment')}', whose {what} is not "
                    f"that of '{embodiment.name}'; serve one that was trained on this robot"
                )

    def infer(
        self,
        observation: Mapping[str, Any],
        instruction: str,
        deadline_ms: float | None = None,
        seed: int | None = None,
        last: NDArray[np.float64] | None = None,
        delay: int = 0,
    ) -> Answer:
        """Asks for a chunk of actions. `observation`: an image a camera, and `state`, as the metadata say.

        `last` [n, A]: what is left of the actions being carried out, and `delay`: how many of them will have been when
        the answer is there; a server that can lets the new chunk go on from them.
        `deadline_ms`: the server computes nothing if its turn comes later, and the answer is waited for that long.

        Raises:
            AnswerError: if the server says why there are no actions.
            SilenceError: if it says nothing in time. The answer may still come; the next call passes over it. If the
                connection is gone, the next call makes a new one.
            WireError: if the answer is none.
        """
        if self._connection.state is not State.OPEN:
            try:
                self._connect()
            except KibanError as error:
                raise SilenceError(str(error)) from None
        number = next(self._numbers)
        request = {**observation, "prompt": instruction, "request_id": number}
        request |= {} if deadline_ms is None else {"deadline_ms": deadline_ms}
        request |= {} if seed is None else {"seed": seed}
        if last is not None and len(last) and self.metadata.get("real_time_chunking"):
            request |= {"last": last, "delay": delay}
        began = time.monotonic()
        until = began + (deadline_ms / 1e3 if deadline_ms else PATIENCE)
        try:
            self._connection.send(wire.pack(request))
        except ConnectionClosed as error:
            raise SilenceError(f"{self._address}: the connection is closed ({error})") from None
        while True:
            message = self._received(until - time.monotonic())
            if isinstance(message, str):
                code, _, line = message.partition(": ")
                raise AnswerError(code, line)
            answer = wire.unpack(message)
            if not isinstance(answer, dict) or answer.get("request_id") != number:
                continue  # what an earlier call gave up on
            if "error" in answer:
                raise AnswerError(str(answer.get("code")), str(answer["error"]))
            actions, timing = answer.get("actions"), answer.get("server_timing")
            if not isinstance(actions, np.ndarray) or actions.ndim != 2 or not isinstance(timing, dict):
                raise wire.WireError(f"{self._address}: the answer has no actions [K, A], or no server_timing")
            total_ms = 1e3 * (time.monotonic() - began)
            return Answer(actions.astype(np.float64), float(timing.get("infer_ms", 0.0)), total_ms)

    def _received(self, seconds: float) -> Any:
        try:
            return self._connection.recv(timeout=max(seconds, 0.0))
        except TimeoutError:
            raise SilenceError(f"{self._address}: no answer in time") from None
        except ConnectionClosed as error:
            raise SilenceError(f"{self._address}: the connection is closed ({error})") from None

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class RemotePlanner:
    """What plans for `control.ControlLoop`, on the network. `execute`: actions carried out before it plans again.

    A deadline that passed, or silence, is asked over for PATIENCE seconds, while the loop carries out what it has and
    then brakes; after that it fails, and the loop stops.
    """

    client: PolicyClient
    instruction: str
    execute: int
    deadline_ms: float | None = None

    def chunk(self, observation: dict[str, Any], last: NDArray[np.float64] | None, delay: int) -> NDArray[np.float64]:
        """Raises AnswerError or SilenceError if it comes to nothing."""
        wanted = [*self.client.metadata["cameras"], "state"]
        seen = {name: observation[name] for name in wanted}
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.client.infer(seen, self.instruction, self.deadline_ms, last=last, delay=delay).actions
            except (AnswerError, SilenceError) as error:
                again = isinstance(error, SilenceError) or error.code in ("deadline", "stopping")
                if not again or time.monotonic() > until:
                    raise
                time.sleep(PAUSE)
