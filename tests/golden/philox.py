"""The counter-based generator that every seeded draw comes from: Philox4x32-10 (Salmon et al. 2011, Random123).

A draw is a function of what it is for and where it belongs, never of the order in which draws are made:

    counter = (embedding component / 4, token position in the sequence, sample, record)
    key     = (seed's low 32 bits, seed's high 32 bits XOR purpose)

and component e takes word e mod 4 of the block.
"""

import numpy as np
from scipy.special import erfinv

NOISE, PATH, BASELINE = 1, 2, 3  # purposes: noise on embeddings, positions on paths, which baseline a path starts from
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)

# Random123's known answers: (counter, key, words).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox(counter, key):
    """Four 32-bit words [..., 4] for each counter [..., 4]; `key` is a pair of integers."""
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    for step in range(10):
        k0, k1 = (np.uint64((k + step * weyl) & 0xFFFFFFFF) for k, weyl in zip(key, WEYL))
        first, second = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1 = (second >> np.uint64(32)) ^ c1 ^ k0, second & LOW
        c2, c3 = (first >> np.uint64(32)) ^ c3 ^ k1, first & LOW
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def key_of(seed, purpose):
    return seed & 0xFFFFFFFF, (seed >> 32) ^ purpose


def normal(words):
    """Standard normals: the inverse distribution function at the middle of one of 2²⁴ equal steps."""
    steps = (words >> np.uint32(8)).astype(np.float64)
    return np.sqrt(2) * erfinv((2 * steps + 1 - 2**24) / 2**24)


def uniform(words):
    """The middle of one of 2²³ equal steps of [0, 1], which f32 holds exactly."""
    return ((words >> np.uint32(9)) + 0.5) / 2**23


def noise(seed, record, sample, tokens, width):
    """Standard normals [tokens, width] for one sample of one record's embeddings."""
    blocks = -(-width // 4)
    block, token = np.meshgrid(np.arange(blocks), np.arange(tokens))
    counter = np.stack([block, token, np.full_like(block, sample), np.full_like(block, record)], axis=-1)
    words = philox(counter, key_of(seed, NOISE)).reshape(tokens, 4 * blocks)
    return normal(words[:, :width])


def path_position(seed, record, sample):
    """One uniform number for one sample of one record."""
    return float(uniform(philox([0, 0, sample, record], key_of(seed, PATH))[0]))


def baseline_number(seed, record, sample, baselines):
    """Which of some baselines one sample of one record starts from."""
    return int(philox([0, 0, sample, record], key_of(seed, BASELINE))[0]) * baselines >> 32


for known_counter, known_key, known_words in KNOWN:
    assert tuple(philox(known_counter, known_key)) == known_words
