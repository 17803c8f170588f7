"""A small convolutional net in NumPy, forward and backward, whose convolutions are those of numba_fftconv.

    images [N, 1, 32, 32]
      conv 9x9, ReLU, mean of 2x2      [N,  8, 16, 16]
      conv 9x9, ReLU, mean of 2x2      [N, 16,  8,  8]
      flatten, linear                  [N, 10] scores

A layer y = f(x; w) has two methods. `forward` takes x and keeps what it will need. `backward` takes dy, the gradient of
the loss with respect to y, keeps that of its parameters, and returns dx: the chain rule, one layer at a time. For a
convolution dx and dw are conv2d's two gradients. Source: LeCun, Bottou, Bengio, Haffner, Proc. IEEE 86 (1998).
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import conv2d, conv2d_backward

Array = NDArray[Any]
Weights = dict[str, Array]  # "conv1.weight": the names of torch's state_dict

FILTERS = (1, 8, 16)  # channels of the images, and after each convolution
KERNEL = 9
CLASSES = 10
MOMENTUM = 0.9


def initial_weights(seed: int, dtype: str, side: int = 32) -> Weights:
    """Draw weights and biases uniformly within 1 / sqrt(inputs of a sum), as torch does.

    No bias begins at zero. Where an image is even, all that a convolution adds up is its bias, and at exactly zero
    rounding would decide whether ReLU lets a gradient through.

    Examples
    --------
    >>> {name: weight.shape for name, weight in initial_weights(0, "float32").items() if name.endswith("weight")}
    {'conv1.weight': (8, 1, 9, 9), 'conv2.weight': (16, 8, 9, 9), 'linear.weight': (10, 1024)}
    """
    pairs = enumerate(pairwise(FILTERS), 1)
    shapes: dict[str, tuple[int, ...]] = {f"conv{i}": (after, before, KERNEL, KERNEL) for i, (before, after) in pairs}
    shapes["linear"] = (CLASSES, FILTERS[-1] * (side // 4) ** 2)
    draw, weights = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        bound = np.prod(shape[1:]) ** -0.5
        weights[f"{name}.weight"] = draw.uniform(-bound, bound, shape).astype(dtype)
        weights[f"{name}.bias"] = draw.uniform(-bound, bound, shape[0]).astype(dtype)
    return weights


# The layers -----------------------------------------------------------------------------------------------------------


class Layer(Protocol):
    """What can stand in a net."""

    def forward(self, x: Array) -> Array: ...

    def backward(self, dy: Array) -> Any: ...


@dataclass
class Parameters:
    """What a layer learns, and the gradient of the loss with respect to it."""

    weight: Array
    bias: Array
    gradients: dict[str, Array] = field(default_factory=dict)


@dataclass
class Conv(Parameters):
    """y_k = sum_c x_c * w_kc + b_k, as large as x. The first layer of a net needs no dx."""

    first: bool = False

    def forward(self, x: Array) -> Array:
        self.x = x
        return conv2d(x, self.weight, self.bias, padding="same")

    def backward(self, dy: Array) -> Array | None:
        wanted = (not self.first, True, True)
        dx, dw, db = conv2d_backward(dy, self.x, self.weight, padding="same", output_mask=wanted)
        self.gradients = {"weight": dw, "bias": db}
        return dx


@dataclass
class Linear(Parameters):
    """y = x w^T + b."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return x @ self.weight.T + self.bias

    def backward(self, dy: Array) -> Array:
        self.gradients = {"weight": dy.T @ self.x, "bias": dy.sum(axis=0)}
        return dy @ self.weight


class ReLU:
    """y = max(x, 0)."""

    def forward(self, x: Array) -> Array:
        self.positive = x > 0
        return x * self.positive

    def backward(self, dy: Array) -> Array:
        return dy * self.positive


class MeanPool:
    """The mean of each 2 x 2 pixels, which share the gradient."""

    def forward(self, x: Array) -> Array:
        N, C, H, W = x.shape
        return x.reshape(N, C, H // 2, 2, W // 2, 2).mean(axis=(3, 5))

    def backward(self, dy: Array) -> Array:
        return (dy / 4).repeat(2, axis=2).repeat(2, axis=3)


class Flatten:
    """All that is known of an image, in one row."""

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: Array) -> Array:
        return dy.reshape(self.shape)


def cross_entropy(scores: Array, labels: Array) -> tuple[float, Array]:
    """The mean over images of -log p(label), where p = softmax(scores), and its gradient: (p - one at label) / N.

    Examples
    --------
    >>> loss, gradient = cross_entropy(np.zeros((1, 2)), np.array([1]))
    >>> round(loss, 4), gradient.tolist()
    (0.6931, [[0.5, -0.5]])
    """
    rows = np.arange(len(labels))
    above = scores - scores.max(axis=1, keepdims=True)
    log_p = above - np.log(np.exp(above).sum(axis=1, keepdims=True))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return -float(log_p[rows, labels].mean()), gradient / len(labels)


# The net --------------------------------------------------------------------------------------------------------------


class NumpyNet:
    """The net, and how it learns: stochastic gradient descent with momentum, v <- 0.9 v + dw, w <- w - rate v.

    Parameters
    ----------
    weights : of `initial_weights`; the net trains a copy.

    Examples
    --------
    >>> net = NumpyNet(initial_weights(0, "float32"))
    >>> images, labels = np.random.default_rng(0).standard_normal((4, 1, 32, 32), "float32"), np.array([3, 1, 4, 1])
    >>> losses = [net.step(images, labels, rate=0.01) for _ in range(10)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(self, weights: Weights) -> None:
        def of(name: str) -> tuple[Array, Array]:
            return weights[f"{name}.weight"].copy(), weights[f"{name}.bias"].copy()

        conv1, conv2, linear = Conv(*of("conv1"), first=True), Conv(*of("conv2")), Linear(*of("linear"))
        self.layers: list[Layer] = [conv1, ReLU(), MeanPool(), conv2, ReLU(), MeanPool(), Flatten(), linear]
        self.learning: dict[str, Parameters] = {"conv1": conv1, "conv2": conv2, "linear": linear}
        self.velocities = {name: np.zeros_like(weight) for name, weight in self.weights().items()}

    def weights(self) -> Weights:
        """The parameters by name, themselves and not copies."""
        return {
            f"{name}.{part}": getattr(layer, part)
            for name, layer in self.learning.items()
            for part in ("weight", "bias")
        }

    def scores(self, images: Array) -> Array:
        for layer in self.layers:
            images = layer.forward(images)
        return images

    def gradients(self, images: Array, labels: Array) -> tuple[float, Weights]:
        """The loss of a batch, and its gradient with respect to every parameter, by name."""
        loss, slope = cross_entropy(self.scores(images), labels)
        for layer in reversed(self.layers):
            slope = layer.backward(slope)
        return loss, {f"{n}.{part}": g for n, layer in self.learning.items() for part, g in layer.gradients.items()}

    def step(self, images: Array, labels: Array, rate: float) -> float:
        """Learn from one batch; its loss before."""
        loss, gradients = self.gradients(images, labels)
        for name, weight in self.weights().items():
            velocity = self.velocities[name]
            velocity *= MOMENTUM
            velocity += gradients[name]
            weight -= rate * velocity
        return loss
