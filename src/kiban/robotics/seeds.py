"""Seeds of episodes. Those of demonstrations are even, those of rollouts odd: none is ever in both."""

import hashlib

DEMONSTRATIONS, ROLLOUTS = 0, 1


def episode_seed(purpose: int, seed: int, task: str, number: int, attempt: int = 0) -> int:
    """The seed of episode `number` of `task` in a programme with `seed`; below 2^63."""
    digest = hashlib.sha256(f"kiban episode {purpose} {seed} {task} {number} {attempt}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 2) * 2 + purpose
