"""Layers in CUDA memory: torch's tensors of any layout, the passes by a plan, and by torch in float64."""

from typing import Any

import numpy as np
import pytest
from strategies import PASSES, Arrays, Problem, call

from numba_fftconv import ConvPlan

torch = pytest.importorskip("torch")

DEVICE = "cuda:0"
NEEDED = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs torch with CUDA, and this torch has none"),
]
LAYOUTS = ("contiguous", "gaps", "transposed", "channels last")  # of those in strategies, what torch has


def tensor(array: np.ndarray, layout: str = "contiguous") -> Any:
    """The samples of an array in CUDA memory."""
    samples = torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)
    if layout == "gaps":
        held = torch.full([2 * n + 1 for n in array.shape], torch.nan, device=DEVICE)
        held = held[tuple(slice(1, None, 2) for _ in array.shape)]
    elif layout == "transposed":
        held = torch.empty(samples.mT.shape, device=DEVICE).mT
    elif layout == "channels last":
        held = torch.empty(samples.movedim(-3, -1).shape, device=DEVICE).movedim(-1, -3)
    else:
        return samples
    return held.copy_(samples)


def tensors(problem: Problem) -> Arrays:
    return Arrays(*map(tensor, problem.arrays()))


def passes(plan: ConvPlan, a: Arrays, **keywords: Any) -> dict[str, Any]:
    """The three passes by a plan."""
    return {name: call(plan, a, name, **keywords) for name in PASSES}


def assert_same(got: Any, want: Any, what: str) -> None:
    """Bit for bit, signs of zeros included."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype), f"{what}: another shape or dtype"
    differ = int((got.contiguous().view(torch.int32) != want.contiguous().view(torch.int32)).sum())
    assert not differ, f"{what}: {differ} of {want.numel()} samples differ"


def of_torch(problem: Problem, a: Arrays) -> dict[str, Any]:
    """The three passes by torch's convolution and its derivatives, in float64."""
    x, w = (b.double().requires_grad_() for b in (a.x, a.w))
    options = problem.resolved
    (top, bottom), (left, right) = options.pop("padding")
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        y = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (left, right, top, bottom)), w, **options)
        dx, dw = torch.autograd.grad(y, (x, w), a.dy.double())
    return {"forward": y.detach(), "input_grad": dx, "weight_grad": dw}
