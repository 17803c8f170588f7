"""The handwritten digits that scikit-learn ships, as images [N, 1, 32, 32] to train on and to test with.

The digits have 8 x 8 pixels; a kernel of 9 x 9 needs larger planes. Pixel i of n covers the place (i + 1/2) / n of a
side, and between the centres of two old pixels a new one is interpolated linearly, along rows and along columns: one
matrix product a side. Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .extras import require

Array = NDArray[Any]

SIDE = 32
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
    images = enlarged(digits.images / 16, SIDE)[:, np.newaxis]
    images = (images - images.mean()).astype(dtype)
    train, test, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=TESTED, random_state=seed, stratify=digits.target
    )
    return Digits(train, train_labels, test, test_labels)


def batches(images: int, size: int, epochs: int, seed: int = 0) -> Iterator[Array]:
    """Yield the indices [size] of each batch; an epoch is a new order of all images, less what fills no batch.

    Examples
    --------
    >>> [len(batch) for batch in batches(10, 4, epochs=2)]
    [4, 4, 4, 4]
    """
    order = np.random.default_rng(seed)
    for _ in range(epochs):
        shuffled = order.permutation(images)
        yield from (shuffled[begin : begin + size] for begin in range(0, images - size + 1, size))
