"""Training by torch: nets of the layers that FFT is for, each save policy on each layer, and the cost of the door.

nets    a step, forward, backward and SGD, of nets of 9x9 layers with 64 channels on 32x32 images: FFTConv2d in place of
        nn.Conv2d
steps   forward and both gradients of a layer by numba_fftconv.torch.conv2d for each policy of keeping spectra, and by
        torch's own; for each the bytes that wait for backward, and on a GPU the most that a step takes
door    microseconds of the smallest layer by the operator, recorded for backward or not, above those of its plan

Contestants of a row are timed in turns (measure.py). Gradients are compared before anything is timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import launch
import measure
import ours
import peers
from layers import Layer
from libraries import installed
from machine import Gate
from row import summarise

if TYPE_CHECKING:
    from measure import Effort
    from place import Call, Place

POLICIES = ("none", "input", "weight", "all")
CHANNELS, SIDE, KERNEL, BATCH = 64, 32, 9, 32
FEW = 4  # channels and images of a quick run
PROMISE = 3.0  # a step of the plain net with nn.Conv2d takes so many times as long, on two threads of one CPU
CLOSE = 1e-3  # relative difference of gradients
OURS = "FFTConv2d"

Figures = dict[str, Any]


def measured(place: Place, layers: list[Layer], effort: Effort, quick: bool) -> Iterator[tuple[str, Figures]]:
    """Every row as soon as it is there, with the name of its list; nothing without torch."""
    if installed("torch") is None:
        return
    for name in ("plain",) if quick else ("plain", "residual"):
        yield "nets", net(name, place, *((FEW, FEW) if quick else (CHANNELS, BATCH)), effort)
    for layer in layers[:1] if quick else layers:
        if layer.dtype == "float32" and layer.passes == layer.__class__.passes:
            yield "steps", steps(layer, place, effort)
    yield "door", door(place)


def lines(kind: str, figures: Figures) -> list[str]:
    """A row on the terminal."""
    if kind == "door":
        said = ", ".join(f"{who} {seconds * 1e6:.1f} us" for who, seconds in figures["seconds"].items())
        return [f"{'door':26} {said}"]
    shown = []
    for who, each in figures["contestants"].items():
        waits = f", {each['waiting'] / 1e6:.1f} MB wait for backward" if "waiting" in each else ""
        peak = f", {each['peak'] / 1e6:.1f} MB at most" if "peak" in each else ""
        kept = f", kept {' and '.join(each['kept']) or 'nothing'}" if "kept" in each else ""
        ratio = f"{each['ratio']:.2f} times {figures['base']}"
        shown.append(f"{figures['name']:26} {who:28} {each['median'] * 1e3:9.3f} ms, {ratio}{waits}{peak}{kept}")
    if "promise" in figures:
        least = min(each["ratio"] for who, each in figures["contestants"].items() if who != OURS)
        verdict = "PASS" if least >= figures["promise"] else "MISS"
        said = f"torch takes {least:.2f} times as long at least, promised {PROMISE:g}"
        shown.append(f"{figures['name']:26} {said}: {verdict}")
    return shown


# ---- nets ------------------------------------------------------------------------------------------------------------


def plain(conv: Callable[..., Any], channels: int) -> Any:
    """Three layers with rectifiers between."""
    from torch import nn

    layers = [conv(channels, channels, KERNEL, padding=KERNEL // 2) for _ in range(3)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def residual(conv: Callable[..., Any], channels: int) -> Any:
    """A block of a residual net with large kernels: two layers with batch norms, and the way past them."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first, second = (conv(channels, channels, KERNEL, padding=KERNEL // 2, bias=False) for _ in range(2))
            norms = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
            self.body = nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1])

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(x + self.body(x))

    return Block()


NETS = {"plain": plain, "residual": residual}


def net(name: str, place: Place, channels: int, batch: int, effort: Effort) -> Figures:
    """A training step with FFTConv2d, and with nn.Conv2d in both memory formats."""
    import torch
    from torch import nn

    from numba_fftconv.torch import FFTConv2d

    device = place.name
    x = torch.randn(batch, channels, SIDE, SIDE, device=device)

    def contestant(conv: Callable[..., Any], memory_format: torch.memory_format) -> tuple[Any, Call]:
        torch.manual_seed(0)
        made = NETS[name](conv, channels).to(device, memory_format=memory_format)
        images = x.contiguous(memory_format=memory_format)
        descent = torch.optim.SGD(made.parameters(), lr=1e-3)

        def step() -> None:
            descent.zero_grad(set_to_none=True)
            made(images).square().mean().backward()
            descent.step()

        return made, step

    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    made = {OURS: contestant(FFTConv2d, torch.contiguous_format)}
    made |= {f"nn.Conv2d {word}": contestant(nn.Conv2d, layout) for word, layout in formats.items()}
    for _, step in made.values():
        step()
    reference, *others = ([p.grad for p in module.parameters()] for module, _ in made.values())
    _require_close(name, reference, others)
    calls = {who: step for who, (_, step) in made.items()}
    problem = f"{batch}x{channels}x{SIDE}x{SIDE}, {KERNEL}x{KERNEL}"
    figures: Figures = {"name": f"net/{name}", "problem": problem, **_in_turns(calls, OURS, effort, place)}
    return figures | ({"promise": PROMISE} if (name, place.name, batch) == ("plain", "cpu", BATCH) else {})


# ---- one layer -------------------------------------------------------------------------------------------------------


def steps(layer: Layer, place: Place, effort: Effort) -> Figures:
    """Forward and both gradients by each policy, and by torch."""
    import torch

    from numba_fftconv.torch import conv2d

    arrays = {name: torch.as_tensor(place.put(array)) for name, array in peers.operands(layer).items()}
    x, w = (arrays[name].requires_grad_() for name in ("x", "w"))
    plan = ours.plan(layer, place.name)

    def step(convolve: Callable[..., Any], **keep: Any) -> Any:
        return torch.autograd.grad(convolve(x, w, **layer.options, **keep), (x, w), arrays["dy"])

    calls: dict[str, Call] = {
        f'save="{policy}"': lambda policy=policy: step(conv2d, save=policy) for policy in POLICIES
    }
    calls["torch"] = lambda: step(torch.nn.functional.conv2d)
    if place.name == "cuda":
        calls["torch tf32"] = lambda: _with_tf32(calls["torch"])
    base, results = next(iter(calls)), [call() for call in calls.values()]
    _require_close(layer.name, results[0], results[1:])
    del results
    figures: Figures = {"name": layer.name, "problem": layer.problem, **_in_turns(calls, base, effort, place)}
    for policy in POLICIES:
        mine = figures["contestants"][f'save="{policy}"']
        with _waiting() as held:
            y = conv2d(x, w, **layer.options, save=policy)
        mine |= {"kept": plan.kept(policy), "waiting": sum(held.values())}
        del y
    if place.name == "cuda":
        for who, call in calls.items():
            figures["contestants"][who]["peak"] = place.peak(call)
    return figures


@contextmanager
def _waiting() -> Iterator[dict[int, int]]:
    """Bytes that the forward pass keeps for backward, by the address of the storage; operands are among them."""
    import torch

    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield held


def _with_tf32(call: Call) -> Any:
    from torch_peers import allowing_tf32

    return allowing_tf32(call)


# ---- the door --------------------------------------------------------------------------------------------------------


def door(place: Place) -> Figures:
    """The smallest layer: seconds until a call returns by the plan, and above them by torch's operator."""
    import torch

    from numba_fftconv.torch import conv2d

    layer = launch.SMALLEST
    arrays = {name: torch.as_tensor(place.put(array)) for name, array in peers.operands(layer).items()}
    plan, x, w = ours.plan(layer, place.name), arrays["x"], arrays["w"]
    learnt = w.clone().requires_grad_()
    calls: dict[str, Call] = {
        "plan.forward": lambda: plan.forward(x, w),
        "conv2d": lambda: conv2d(x, w),
        "conv2d, recorded": lambda: conv2d(x, learnt),
        "torch, recorded": lambda: torch.nn.functional.conv2d(x, learnt),
    }
    for call in calls.values():
        for _ in range(launch.WARM):
            call()
    seconds: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(launch.ROUNDS):
        for who, call in calls.items():
            seconds[who].append(place.issue(call))
    return {"problem": layer.problem, "seconds": {who: statistics.median(times) for who, times in seconds.items()}}


# ---- what rows share -------------------------------------------------------------------------------------------------


def _in_turns(calls: dict[str, Call], base: str, effort: Effort, place: Place) -> Figures:
    """The samples of each, and its ratio to `base`: above 1 it takes longer."""
    seconds = [place.clock(call) for call in calls.values()]
    samples = measure.in_turns(calls, seconds, effort, Gate(effort.patience), place)
    found = {who: {**summarise(times), "seconds": times} for who, times in samples.items()}
    for each in found.values():
        each["ratio"] = each["median"] / found[base]["median"]
    return {"base": base, "contestants": found}


def _require_close(name: str, reference: Any, others: Any) -> None:
    """Raise where gradients differ by more than the rounding of a few layers."""
    from check import WrongResultError

    for gradients in others:
        for a, b in zip(reference, gradients, strict=True):
            error = float((a - b).norm() / b.norm().clamp_min(1e-30))
            if not error <= CLOSE:
                raise WrongResultError(f"{name}: gradients differ by {error:.1e}, at most {CLOSE:g} is allowed")
