"""Made-up data, for tests and for machines without the real thing. Served under names of their own only."""

import numpy as np

from metaopt.data._common import SEED, Splits, split


def synthetic_images() -> Splits:
    """2000 made-up images, uint8 [n, 32, 32, 3], 10 classes: the shape of CIFAR-10, not a substitute for it.

    Each class is a smooth random pattern (8x8 random colours, enlarged), at half its contrast under noise of about the
    same size, so that a classifier has something to learn that single pixels do not tell.
    """
    rng = np.random.default_rng(SEED)
    patterns = rng.uniform(-1, 1, (10, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    y = np.arange(2000) % 10
    x = 128 + 32 * patterns[y] + 32 * rng.standard_normal((2000, 32, 32, 3))
    return split(x.clip(0, 255).astype(np.uint8), y)
