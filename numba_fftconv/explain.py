"""A plan as text: what it decided, what each stage costs, and what it rejected.

Flops and bytes are counts. Every time is a model's figure, not a measurement.
"""

from collections.abc import Iterable
from typing import Any

from . import tuning
from .cuda import tensor_tiles
from .cuda.kernels import MODELS
from .integers import area
from .passes import PASSES

SHOWN = 8  # rejected sizes


def seconds(value: float) -> str:
    """A time in three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def explain(plan: Any) -> str:
    """The text of `ConvPlan.explain`."""
    g, (rows, columns) = plan.geometry, plan.fft_size
    made_for = g, plan.dtype, plan.target
    limit = "" if plan.workspace_limit is None else f" of at most {plan.workspace_limit:,}"
    gpu = f" (figures of {tuning.GPUS[plan.target].name})" if plan.target in tuning.GPUS else ""
    lines = [
        f"input {g.input_shape}, weight {g.weight_shape}, output {g.output_shape}, {plan.dtype} on {plan.device}{gpu}",
        f"padding {g.padding}, stride {g.stride}, dilation {g.dilation}, groups {g.groups}, {precision(plan)}",
        f"transforms of {rows} x {columns}; workspace {plan.workspace_size:,} bytes{limit}",
    ]
    if plan.kernels != MODELS:
        lines.append(f"tuned: {plan.kernels}")
    direct = tuning.direct_seconds(*made_for, plan.threads)
    for name in PASSES:
        lines += ["", *_pass(plan, name, direct)]
    lines += ["", _shared(plan)]
    others = tuning.candidates(*made_for, plan.workspace_limit, plan.threads, plan.precision)
    rejected = sorted((other for other in others if other.size != plan.fft_size), key=lambda other: other.seconds)
    title = f"rejected: the fastest {SHOWN} of {len(rejected)}" if len(rejected) > SHOWN else "rejected"
    taken = f"{rows} x {columns} takes {seconds(plan.choice.seconds)}"
    lines += ["", f"{title}, by predicted time of the three passes; {taken}"]
    for other in rejected[:SHOWN]:
        tall, wide = other.size
        lines.append(f"  {tall:3} x {wide:<3}  {seconds(other.seconds):>8}  {other.workspace:,} bytes")
    return "\n".join(lines if rejected else [*lines, "  none: no other size holds this kernel"])


def _shared(plan: Any) -> str:
    """Which transforms the passes spare each other."""
    times = "once" if plan.shares_dy else "twice"
    kept = " and ".join(f"{name} ({plan.spectrum_size[name]:,} bytes)" for name in plan.kept("all"))
    return f"backward: dy is transformed {times}; spectra of the forward pass worth keeping for it: {kept or 'none'}"


PRODUCTS = {
    "tf32x3": "three products of tf32 on tensor cores, as accurate as float32",
    "bf16x3": "three products of bf16 on tensor cores, errors of about 5e-6",
    "tf32": "one product of tf32 on tensor cores, errors of about 3e-4",
}


def precision(plan: Any) -> str:
    """What the multiply stage computes in, and where that is not what was asked for, why."""
    if plan.precision not in PRODUCTS:
        return f"precision {plan.precision}"
    if plan.target == "cpu":
        return f"precision {plan.precision}, which runs as fp32 on a CPU"
    g, said = plan.geometry, f"precision {plan.precision}: {PRODUCTS[plan.precision]}"
    if g.groups == g.C:
        return f"precision {plan.precision}, which runs as fp32 where a group has one channel"
    gpu = tuning.GPUS[plan.target]
    if plan.precision == "tf32x3" and tensor_tiles.flops(plan.precision, gpu) < gpu.flops:
        return f"{said}; fp32 is faster on {gpu.name}"
    return said


def _pass(plan: Any, name: str, direct: float) -> Iterable[str]:
    """A pass: its equation and segments, a row for each stage, and the sum; `direct` is the time of a direct sum."""
    row, choice, stages = PASSES[name], plan.choice.by_pass[name], plan.stages[name]
    (down, across), (height, width) = plan.segments[name], plan.geometry.shapes[row.operands[0]][-2:]
    waste = 1 - height * width / (down * across * area(plan.fft_size))
    yield f"{name}: {row.equation}"
    yield f"  {down} x {across} segments of each plane of {height} x {width}; padding waste {waste:.0%}"
    if choice.schedule is not None:
        yield f"  {choice.schedule.describe(choice.work)}; {choice.workspace:,} bytes of workspace"
    columns = "  {:14} {:58} {:>18} {:>18} {:>10}  {}"
    yield columns.format("stage", "works on", "flop", "byte", "predicted", "bound")
    for stage, cost in zip(stages, choice.costs, strict=True):
        yield columns.format(
            stage.name, stage.shape, f"{stage.flops:,}", f"{stage.bytes:,}", seconds(cost.seconds), cost.bound
        )
    bound = max(choice.costs, key=lambda cost: cost.seconds).bound
    yield columns.format("sum", "", f"{plan.flops[name]:,}", f"{plan.bytes[name]:,}", seconds(choice.seconds), bound)
    if direct < choice.seconds:
        yield f"  a direct sum would be cheaper: {seconds(direct)} at the rate of the multiply stage"
