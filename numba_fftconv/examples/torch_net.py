"""The net of net.py in torch, with a convolution of the caller's choice: FFTConv2d, or torch's own.

The modules bear the names of net.py's layers, so that one set of weights serves all.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from .net import CLASSES, FILTERS, KERNEL, MOMENTUM, Array, Weights


def network(conv: Any, weights: Weights) -> nn.Sequential:
    """Make the net.

    Parameters
    ----------
    conv : nn.Conv2d, or a class with its arguments.
    weights : of `initial_weights`, in whose dtype the net computes; they are copied.

    Returns
    -------
    nn.Sequential, from images [N, 1, 32, 32] to scores [N, 10].

    Examples
    --------
    >>> from numba_fftconv.examples.net import initial_weights
    >>> network(nn.Conv2d, initial_weights(0, "float32"))(torch.zeros(3, 1, 32, 32)).shape
    torch.Size([3, 10])
    """
    images, middle, last = FILTERS
    net = nn.Sequential(
        OrderedDict(
            conv1=conv(images, middle, KERNEL, padding="same"),
            relu1=nn.ReLU(),
            pool1=nn.AvgPool2d(2),
            conv2=conv(middle, last, KERNEL, padding="same"),
            relu2=nn.ReLU(),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            linear=nn.Linear(weights["linear.weight"].shape[1], CLASSES),
        )
    )
    given = {name: torch.from_numpy(weight) for name, weight in weights.items()}
    net.to(given["conv1.weight"].dtype).load_state_dict(given)
    return net


class TorchNet:
    """The net with torch's own gradients and descent; the methods are those of net.NumpyNet.

    Examples
    --------
    >>> import numpy as np
    >>> from numba_fftconv.examples.net import initial_weights
    >>> net = TorchNet(nn.Conv2d, initial_weights(0, "float64"))
    >>> images, labels = np.random.default_rng(0).standard_normal((4, 1, 32, 32)), np.array([3, 1, 4, 1])
    >>> losses = [net.step(images, labels, rate=0.01) for _ in range(10)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(self, conv: Any, weights: Weights) -> None:
        self.module: nn.Module = network(conv, weights)
        self.descent = torch.optim.SGD(self.module.parameters(), momentum=MOMENTUM)

    def weights(self) -> Weights:
        return {name: value.detach().numpy() for name, value in self.module.named_parameters()}

    def scores(self, images: Array) -> Array:
        with torch.no_grad():
            scores: Array = self.module(torch.from_numpy(images)).numpy()
        return scores

    def step(self, images: Array, labels: Array, rate: float) -> float:
        """Learn from one batch; its loss before."""
        self.descent.param_groups[0]["lr"] = rate
        self.descent.zero_grad()
        loss = nn.functional.cross_entropy(self.module(torch.from_numpy(images)), torch.from_numpy(labels))
        loss.backward()
        self.descent.step()
        return loss.item()
