"""The scene of the demo: a photograph, a lens that the learner never sees, and what a camera makes of the two.

Everything here is by definition, without any FFT: what the demo recovers is held against it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.float32]

LENS_SIDE = 15
RING = LENS_SIDE // 2
NOISE = 0.01


class DemoError(Exception):
    """The demo cannot run here; the message says what is missing."""


def photograph() -> Planes:
    """The portrait of Grace Hopper that matplotlib ships, as planes [3, 1, 600, 512] from 0 to 1."""
    try:
        import matplotlib
        from matplotlib.image import imread
    except ImportError as error:
        raise DemoError(f"the demo needs matplotlib ({error}): install the package with its extra [demo]") from error
    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    if not path.exists():
        raise DemoError(f"the demo needs the photograph {path.name} among matplotlib's sample data: it is not there")
    return np.ascontiguousarray(imread(path).transpose(2, 0, 1)[:, None] / np.float32(255))


def lens() -> Planes:
    """A lens with coma, [1, 1, 15, 15], sum 1: rings of light that grow as they move away from a bright head."""
    fine = 8
    at = (np.arange(LENS_SIDE * fine) + 0.5) / fine - LENS_SIDE / 2
    light = np.zeros((at.size, at.size))
    for part in np.linspace(0, 1, 40):
        row, column, radius = -5 + 6.8 * part, -4 + 6.6 * part, 0.8 + 3.4 * part
        light += (np.hypot(at[:, None] - row, at - column) < radius) / radius**2
    blurred = light.reshape(LENS_SIDE, fine, LENS_SIDE, fine).mean((1, 3))
    return (blurred / blurred.sum()).astype(np.float32)[None, None]


def photographed(photo: Planes, kernel: Planes, seed: int = 0) -> Planes:
    """What the lens makes of the photo, y[p] = sum_r x[p+r] w[r], with noise of 1 % of full scale."""
    (R, S), (H, W) = kernel.shape[-2:], photo.shape[-2:]
    P, Q = H - R + 1, W - S + 1
    x, exact = photo.astype(np.float64), np.zeros((*photo.shape[:-2], P, Q))
    for (r, s), weight in np.ndenumerate(kernel[0, 0]):
        exact += float(weight) * x[..., r : r + P, s : s + Q]
    return (exact + NOISE * np.random.default_rng(seed).standard_normal(exact.shape)).astype(np.float32)


def inside(photo: Planes) -> Planes:
    """The part of a photo that its blurred image shows."""
    return photo[..., RING:-RING, RING:-RING]


def psnr(photo: Planes, truth: Planes) -> float:
    """Peak signal-to-noise ratio in dB, of pixels from 0 to 1."""
    return float(-10 * np.log10(np.mean((np.clip(photo, 0, 1) - truth) ** 2, dtype=np.float64)))


def relative_error(kernel: Planes, truth: Planes) -> float:
    return float(np.linalg.norm(kernel - truth) / np.linalg.norm(truth))
