"""stand-in plan (the lead replaces this file soon; the public surface is final)"""
from __future__ import annotations
from dataclasses import dataclass
from functools import lru_cache
import numpy as np
from . import arrays
from .cpu import engine
from .errors import InvalidOptionError, PlanMismatchError, UnsupportedError
from .geometry import FFT_SIZES, ConvGeometry
from .passes import FORWARD, INPUT_GRAD, PASSES, WEIGHT_GRAD


@dataclass(frozen=True, eq=False)
class SpectralWeight:
    plan: ConvPlan
    array: np.ndarray

    @property
    def weight_shape(self): return self.plan.geometry.weight_shape
    @property
    def fft_size(self): return self.plan.fft_size
    @property
    def dtype(self): return self.plan.dtype


@dataclass(frozen=True)
class ConvPlan:
    geometry: ConvGeometry
    dtype: str
    device: str
    precision: str
    fft_size: int
    workspace_limit: int | None

    @staticmethod
    def build(geometry, dtype="float32", precision=None, fft_size=None, workspace_limit=None, device=None):
        return _build(geometry, str(np.dtype(dtype)), precision, fft_size, workspace_limit, device)

    @property
    def segments(self):
        g = self.geometry
        return {p: (g.rows.segments(self.fft_size, p), g.cols.segments(self.fft_size, p)) for p in PASSES}
    @property
    def flops(self): return {p: 2 * self.geometry.N * self.geometry.C * self.geometry.K * self.fft_size**2 for p in PASSES}
    bytes = flops
    @property
    def workspace_size(self): return 1 << 20
    def explain(self): return f"T = {self.fft_size}, stand-in"

    def _operand(self, value, name, shape):
        a = arrays.host(value, name)
        dtype = arrays.dtype_name(a, name)
        if dtype != self.dtype:
            raise PlanMismatchError(f"{name} has dtype {dtype}, the plan was made for {self.dtype}: make a plan with dtype={dtype!r} or convert the array")
        if a.shape != shape:
            raise PlanMismatchError(f"{name} has shape {a.shape}, the plan was made for {shape}: make a plan for this shape")
        return a

    def _run(self, row, a, b, shape, bias, out, stream, workspace):
        g = self.geometry
        if self.device != "cpu":
            raise UnsupportedError(f"this plan is for {self.device}; this version runs plans of device='cpu' only")
        if stream is not None:
            raise InvalidOptionError(f"stream={stream!r}: the CPU engine has no streams; leave it None")
        shapes = {"input": g.input_shape, "weight": g.weight_shape, "grad_output": g.output_shape}
        ops = {}
        for name, value in zip(row.operands, (a, b)):
            ops[name] = self._operand(value.array if isinstance(value, SpectralWeight) else value, name, shapes[name])
        if bias is not None:
            bias = arrays.operand(bias, "bias", (g.K,), self.dtype)
            ops["bias"] = bias
        y = arrays.output(out, shape, self.dtype, ops)
        if workspace is not None:
            arrays.scratch(workspace, self.workspace_size)
        four = lambda v: v if v.ndim == 4 else v[None]
        engine.run(row, g, self.fft_size, four(ops[row.operands[0]]), four(ops[row.operands[1]]), bias, four(y))
        return out if out is not None else arrays.like(y, a)

    def forward(self, x, w, bias=None, *, out=None, stream=None, workspace=None):
        return self._run(FORWARD, x, w, self.geometry.output_shape, bias, out, stream, workspace)
    def input_grad(self, dy, w, *, out=None, stream=None, workspace=None):
        return self._run(INPUT_GRAD, dy, w, self.geometry.input_shape, None, out, stream, workspace)
    def weight_grad(self, x, dy, *, out=None, stream=None, workspace=None):
        return self._run(WEIGHT_GRAD, x, dy, self.geometry.weight_shape, None, out, stream, workspace)
    def backward(self, dy, x, w, *, output_mask=(True, True, True), stream=None, workspace=None):
        kw = dict(stream=stream, workspace=workspace)
        db = arrays.like(arrays.host(dy, "grad_output").sum(axis=(-1, -2) if not self.geometry.batched else (0, 2, 3)), dy)
        return (self.input_grad(dy, w, **kw) if output_mask[0] else None, self.weight_grad(x, dy, **kw) if output_mask[1] else None,
                db if output_mask[2] else None)
    def transform_weight(self, w):
        return SpectralWeight(self, self._operand(w, "weight", self.geometry.weight_shape).copy())


@lru_cache(1024)
def _build(geometry, dtype, precision, fft_size, workspace_limit, device):
    least = geometry.smallest_fft()
    if fft_size is None:
        fft_size = next((t for t in FFT_SIZES if t > least and geometry.rows.whole(t) and geometry.cols.whole(t)), 64)
    if fft_size not in FFT_SIZES or fft_size < least:
        raise InvalidOptionError(f"fft_size={fft_size}: the sizes for this kernel are even products of 2, 3, 5, 7 from {least} to 64")
    return ConvPlan(geometry, dtype, device or "cpu", precision or "fp32", fft_size, workspace_limit)


def clear_cache():
    _build.cache_clear()
