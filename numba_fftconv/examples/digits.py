"""The handwritten digits that scikit-learn ships, as images [N, 1, 32, 32] to train on and to test with.

The digits have 8 x 8 pixels; a kernel of 9 x 9 needs larger planes. Pixel i of n covers the place (i + 1/2) / n of a
side, and between the centres of two old pixels a new one is interpolated linearly, along rows and along columns: one
matrix product a side. So digits of 28 x 28 are made, in the middle of a border of two pixels, within which each batch
that is trained on moves at random. Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .extras import require

Array = NDArray[Any]

SIDE, BORDER = 32, 2
TESTED = 360  # of 1797 digits


@dataclass(frozen=True)
class Digits:
    """Images [N, 1, SIDE, SIDE] around zero and labels [N] from 0 to 9, and the same of those kept for the test."""

    images: Array
    labels: Array
    test_images: Array
    test_labels: Array


def enlarged(images: Array, side: int) -> Array:
    """Resample square images [..., n, n] bilinearly to [..., side, side].

    Examples
    --------
    >>> enlarged(np.array([[0.0, 4.0], [0.0, 4.0]]), 4).tolist()[0]
    [0.0, 1.0, 3.0, 4.0]
    """
    n = images.shape[-1]
    centres = (np.arange(side) + 0.5) * n / side - 0.5
    matrix = np.stack([np.interp(centres, np.arange(n), unit) for unit in np.eye(n)], axis=1)
    return matrix @ images @ matrix.T


def load(dtype: str, seed: int = 0) -> Digits:
    """Load the digits, enlarge them, and split them at random, each digit in the same proportion.

    Parameters
    ----------
    dtype : of the images.
    seed : of the split.

    Returns
    -------
    Digits

    Raises
    ------
    MissingExtraError
    """
    require("sklearn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    border = [(0, 0)] * 2 + [(BORDER, BORDER)] * 2
    images = np.pad(enlarged(digits.images / 16, SIDE - 2 * BORDER)[:, np.newaxis], border)
    images = (images - images.mean()).astype(dtype)
    train, test, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=TESTED, random_state=seed, stratify=digits.target
    )
    return Digits(train, train_labels, test, test_labels)


def batches(digits: Digits, size: int, epochs: int, seed: int = 0) -> Iterator[tuple[Array, Array]]:
    """Yield images and labels of each batch; an epoch is a new order of all digits, less what fills no batch.

    Examples
    --------
    >>> few = Digits(np.zeros((10, 1, SIDE, SIDE)), np.arange(10), np.zeros((0, 1, SIDE, SIDE)), np.zeros(0))
    >>> [images.shape[0] for images, labels in batches(few, 4, epochs=2)]
    [4, 4, 4, 4]
    """
    draw, count = np.random.default_rng(seed), len(digits.labels)
    for _ in range(epochs):
        order = draw.permutation(count)
        for begin in range(0, count - size + 1, size):
            batch, move = order[begin : begin + size], draw.integers(-BORDER, BORDER + 1, 2)
            yield np.roll(digits.images[batch], move, axis=(2, 3)), digits.labels[batch]
