"""The order of training sequences as a pure function of (seed, position).

There is no state to save: any rank, a resumed run and a trace ask the same function. Each epoch is a permutation of
the sequences, made by a Feistel network on the next power of four, walked until it lands inside (cycle walking: Black
and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). It can be inverted, so a trace is as cheap.
"""

import hashlib

ROUNDS = 6


def sequence_at(seed: int, position: int, num_sequences: int) -> int:
    """The sequence that is read at `position` (0, 1, 2 ...; past num_sequences the next epoch begins)."""
    assert num_sequences > 0 and position >= 0
    epoch, index = divmod(position, num_sequences)
    keys, half = _keys(seed, epoch), _half_bits(num_sequences)
    while True:
        index = _encrypt(index, keys, half)
        if index < num_sequences:
            return index


def position_of(seed: int, sequence: int, epoch: int, num_sequences: int) -> int:
    """The position at which `sequence` is read in `epoch`: the inverse of `sequence_at`."""
    assert 0 <= sequence < num_sequences and epoch >= 0
    keys, half = _keys(seed, epoch), _half_bits(num_sequences)
    index = sequence
    while True:
        index = _decrypt(index, keys, half)
        if index < num_sequences:
            return epoch * num_sequences + index


def _half_bits(num_sequences: int) -> int:
    return max(1, ((num_sequences - 1).bit_length() + 1) // 2)


def _keys(seed: int, epoch: int) -> list[int]:
    digest = hashlib.sha256(f"kiban order {seed} {epoch}".encode()).digest()
    return [int.from_bytes(digest[4 * r : 4 * r + 4], "big") for r in range(ROUNDS)]


def _mix(value: int, key: int) -> int:
    """A 32-bit finaliser (the constants of MurmurHash3's fmix32) over value xor key."""
    h = (value ^ key) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


def _encrypt(index: int, keys: list[int], half: int) -> int:
    mask = (1 << half) - 1
    left, right = index >> half, index & mask
    for key in keys:
        left, right = right, left ^ (_mix(right, key) & mask)
    return (left << half) | right


def _decrypt(index: int, keys: list[int], half: int) -> int:
    mask = (1 << half) - 1
    left, right = index >> half, index & mask
    for key in reversed(keys):
        left, right = right ^ (_mix(left, key) & mask), left
    return (left << half) | right
