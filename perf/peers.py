"""What numba_fftconv is held against, each peer in every setting worth trying.

On a CPU: torch's convolutions (oneDNN), the same composed of torch.fft, and scipy.signal.oaconvolve. On a GPU torch's
are cuDNN's; gpu.py adds them with TF32 and cuDNN's own FFT.

A setting is a call without arguments, its operands prepared beforehand in the layout that suits it: the peer pays for
no conversion, padding or flip. The best setting of a peer is the one that it is timed with. A peer that is not
installed is absent, with the reason, a setting that cannot run too, and the others go on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import libraries
import numpy as np
from layers import Layer

Arrays = dict[str, Any]  # x, w and dy, of NumPy or of torch
Settings = dict[str, Callable[[], object]]

CPU = {
    "torch": "torch_peers.convolutions",
    "torch.fft": "torch_peers.fourier",
    "scipy": "scipy_peers.overlap_add",
}


@dataclass
class Offers:
    """The settings of every peer that can compute a layer, and why other peers are absent."""

    settings: dict[str, Settings] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def operands(layer: Layer, seed: int = 0) -> Arrays:
    """Normal random arrays x, w and dy."""
    rng = np.random.default_rng(seed)
    shapes = {"x": layer.input_shape, "w": layer.weight_shape, "dy": layer.output_shape}
    return {name: rng.standard_normal(shape).astype(layer.dtype) for name, shape in shapes.items()}


def offers(sources: Mapping[str, str], layer: Layer, pass_name: str, arrays: Arrays, threads: int) -> Offers:
    """What the functions `module.function` of each peer offer; one that offers nothing cannot compute the layer."""
    found = Offers()
    for peer, source in sources.items():
        module, function = source.split(".")
        try:
            settings = getattr(importlib.import_module(module), function)(layer, pass_name, arrays, threads)
        except ImportError as error:
            found.absent[peer] = libraries.lacking(error)
            continue
        if settings:
            found.settings[peer] = settings
    return found


@contextmanager
def or_absent(absent: dict[str, str], who: str) -> Iterator[None]:
    """What a call of a peer raises is why it is absent: no memory, or a layer that it refuses."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        absent[who] = (str(error) or type(error).__name__).splitlines()[0]
