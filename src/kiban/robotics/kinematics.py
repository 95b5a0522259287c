"""Forward and inverse kinematics of an arm, from its embodiment's file alone."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.kernel import kernel
from kiban.robotics.embodiment import Arm

Array = NDArray[np.float64]

DAMPING = 0.02  # of the least squares: bounds the joints' step near a singularity
ITERATIONS = 12
TOLERANCE = 1e-4  # m and rad
# The tool points down and the fingers open along the world's y axis: columns are the hand's x, y and z axes.
UPRIGHT = np.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])


class Chain(NamedTuple):
    """An arm's numbers for the kernels, n joints: see `embodiment.Arm`; `turn` is the base's rotation."""

    base: Array  # [3]
    turn: Array  # [3, 3]
    origins: Array  # [n, 3]
    axes: Array  # [n, 3]
    tool: Array  # [3]
    lower: Array  # [n]
    upper: Array  # [n]


def chain_of(arm: Arm) -> Chain:
    c, s = np.cos(arm.yaw), np.sin(arm.yaw)
    bounds = np.array([joint.position for joint in arm.joints]).reshape(-1, 2)
    return Chain(
        np.array(arm.base),
        np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]),
        np.array([joint.origin for joint in arm.joints]).reshape(-1, 3),
        np.array([joint.axis for joint in arm.joints]).reshape(-1, 3),
        np.array(arm.tool),
        bounds[:, 0].copy(),
        bounds[:, 1].copy(),
    )


class Kinematics:
    """Where an arm's tool is as a function of its joints, and back."""

    def __init__(self, arm: Arm) -> None:
        self.chain = chain_of(arm)

    def frames(self, joints: Array) -> tuple[Array, Array]:
        """Origins [n + 1, 3] and rotations [n + 1, 3, 3] of the base and the links, world, with the arm at `joints`."""
        origins, rotations = np.empty((len(joints) + 1, 3)), np.empty((len(joints) + 1, 3, 3))
        forward(np.asarray(joints, np.float64), self.chain, origins, rotations)
        return origins, rotations

    def tool(self, joints: Array) -> Array:
        """Where the tool is, world, m, with the arm at `joints` (rad)."""
        origins, rotations = self.frames(joints)
        return origins[-1] + rotations[-1] @ self.chain.tool

    def solve(self, position: Array, start: Array) -> Array:
        """Joints within their limits that bring the tool upright to `position`, or as near as can be.

        Damped least squares from `start`: dq = J' (J J' + damping^2)^-1 e (Wampler 1986; Nakamura and Hanafusa 1986),
        `e` being the errors in position (m) and orientation (rad).
        """
        return solve(np.asarray(position, np.float64), np.asarray(start, np.float64), self.chain)[0]


@kernel
def forward(joints: Array, chain: Chain, origins: Array, rotations: Array) -> None:
    """Fills `origins` [n + 1, 3] and `rotations` [n + 1, 3, 3] of the base and the links.

    A link turns by Rodrigues' formula about its axis, which is the same in its own frame and in the one before it.
    """
    for row in range(3):
        origins[0, row] = chain.base[row]
        for column in range(3):
            rotations[0, row, column] = chain.turn[row, column]
    for i in range(len(joints)):
        x, y, z = chain.axes[i]
        c, s = np.cos(joints[i]), np.sin(joints[i])
        v = 1.0 - c
        t00, t01, t02 = c + x * x * v, x * y * v - z * s, x * z * v + y * s
        t10, t11, t12 = y * x * v + z * s, c + y * y * v, y * z * v - x * s
        t20, t21, t22 = z * x * v - y * s, z * y * v + x * s, c + z * z * v
        for row in range(3):
            a, b, d = rotations[i, row, 0], rotations[i, row, 1], rotations[i, row, 2]
            origins[i + 1, row] = (
                origins[i, row] + a * chain.origins[i, 0] + b * chain.origins[i, 1] + d * chain.origins[i, 2]
            )
            rotations[i + 1, row, 0] = a * t00 + b * t10 + d * t20
            rotations[i + 1, row, 1] = a * t01 + b * t11 + d * t21
            rotations[i + 1, row, 2] = a * t02 + b * t12 + d * t22


@kernel
def place(origin: Array, rotation: Array, point: Array, out: Array) -> None:
    """`point` of a link's frame in the world, into `out` [3]."""
    for row in range(3):
        out[row] = origin[row] + rotation[row, 0] * point[0] + rotation[row, 1] * point[1] + rotation[row, 2] * point[2]


@kernel
def solve(position: Array, start: Array, chain: Chain) -> tuple[Array, float, float]:
    """See `Kinematics.solve`; also the errors that are left, m and rad."""
    n = len(start)
    joints = np.empty(n)
    for i in range(n):
        joints[i] = min(max(start[i], chain.lower[i]), chain.upper[i])
    origins, rotations = np.empty((n + 1, 3)), np.empty((n + 1, 3, 3))
    tool, error, jacobian = np.empty(3), np.empty(6), np.empty((6, n))
    damped, weights = np.empty((6, 6)), np.empty(6)
    off = turned = 0.0
    for iteration in range(ITERATIONS + 1):
        forward(joints, chain, origins, rotations)
        hand = rotations[n]
        place(origins[n], hand, chain.tool, tool)
        off = turned = 0.0
        for row in range(3):
            error[row] = position[row] - tool[row]
            # The rotation still needed, small angles: half the sum of the axes' cross products.
            r, q = (row + 1) % 3, (row + 2) % 3
            error[3 + row] = 0.0
            for axis in range(3):
                error[3 + row] += 0.5 * (hand[r, axis] * UPRIGHT[q, axis] - hand[q, axis] * UPRIGHT[r, axis])
            off, turned = max(off, abs(error[row])), max(turned, abs(error[3 + row]))
        if max(off, turned) < TOLERANCE or iteration == ITERATIONS:
            break
        for i in range(n):
            for row in range(3):
                jacobian[3 + row, i] = (
                    rotations[i + 1, row, 0] * chain.axes[i, 0]
                    + rotations[i + 1, row, 1] * chain.axes[i, 1]
                    + rotations[i + 1, row, 2] * chain.axes[i, 2]
                )
            for row in range(3):
                r, q = (row + 1) % 3, (row + 2) % 3
                jacobian[row, i] = jacobian[3 + r, i] * (tool[q] - origins[i + 1, q]) - jacobian[3 + q, i] * (
                    tool[r] - origins[i + 1, r]
                )
        for row in range(6):
            for column in range(row + 1):
                total = DAMPING**2 if row == column else 0.0
                for i in range(n):
                    total += jacobian[row, i] * jacobian[column, i]
                damped[row, column] = total
        _solve_positive(damped, error, weights)
        for i in range(n):
            step = 0.0
            for row in range(6):
                step += jacobian[row, i] * weights[row]
            joints[i] = min(max(joints[i] + step, chain.lower[i]), chain.upper[i])
    return joints, off, turned


@kernel
def _solve_positive(matrix: Array, right: Array, out: Array) -> None:
    """Solves `matrix` x = `right` by Cholesky's factors, made in the lower half of the positive definite `matrix`."""
    n = len(right)
    for row in range(n):
        for column in range(row + 1):
            total = matrix[row, column]
            for k in range(column):
                total -= matrix[row, k] * matrix[column, k]
            matrix[row, column] = np.sqrt(total) if row == column else total / matrix[column, column]
    for row in range(n):
        total = right[row]
        for k in range(row):
            total -= matrix[row, k] * out[k]
        out[row] = total / matrix[row, row]
    for row in range(n - 1, -1, -1):
        total = out[row]
        for k in range(row + 1, n):
            total -= matrix[k, row] * out[k]
        out[row] = total / matrix[row, row]
