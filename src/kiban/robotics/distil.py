"""Distillation: the action expert learns to do in a few Euler steps what it did in many.

A copy of the expert is the student. From the same noise, the teacher takes many small steps; at the start of each of
the student's large ones, the student is asked for the estimate whose single step ends where the teacher's small ones
did (progressive distillation, Salimans and Ho 2022, in one round and for flow matching). The prefix stays as it is: it
is computed once a batch, without gradients.
"""

import torch
from torch import Tensor

from kiban.robotics.action_expert import Prefix
from kiban.robotics.policy import Policy

TEACHER_STEPS = 10  # Euler steps of the teacher, at least


def expert_parameters(policy: Policy) -> list[tuple[str, torch.nn.Parameter]]:
    """What is trained: all that `estimate` reads and `condition` does not."""
    own = ("place", "time.", "layers.")
    return [
        (name, parameter)
        for name, parameter in policy.named_parameters()
        if name.startswith(own) or ".action_in." in name or ".action_out." in name
    ]


def distillation_loss(
    student: Policy, teacher: Policy, prefix: Prefix, steps: int, noise_BKA: Tensor, valid_BK: Tensor
) -> Tensor:
    """Mean squared error of the student's estimates along the teacher's way from the noise [B, K, A].

    At t the student's step of length 1 / steps from x_t must end at the teacher's x: its estimate must be
    x_t + (x - x_t) (1 - t) steps.
    """
    substeps = -(-TEACHER_STEPS // steps)
    x_BKA, total = noise_BKA, torch.zeros(())
    for index in range(steps):
        with torch.no_grad():
            after = x_BKA
            for small in range(substeps):
                after = teacher.step(after, index * substeps + small, steps * substeps, prefix)
            t = index / steps
            target = x_BKA + (after - x_BKA) * (1 - t) * steps
        estimate = student.estimate(x_BKA, torch.full((len(x_BKA),), t), prefix)
        errors_BK = (estimate - target).square().mean(dim=-1)
        total = total + (errors_BK * valid_BK).sum() / valid_BK.sum() / steps
        x_BKA = after
    return total
