"""A plan as text: what it decided, what each stage costs, and what it rejected.

Flops and bytes are counts. Every time is a model's figure, not a measurement.
"""

from collections.abc import Iterable
from typing import Any

from .passes import PASSES

SHOWN = 8  # rejected lengths


def seconds(value: float) -> str:
    """A time in three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def explain(plan: Any, candidates: Iterable[Any], direct: float) -> str:
    """The text of `ConvPlan.explain`; `direct` is the time of one pass as a direct sum."""
    g, T = plan.geometry, plan.fft_size
    limit = "" if plan.workspace_limit is None else f" of at most {plan.workspace_limit:,}"
    lines = [
        f"input {g.input_shape}, weight {g.weight_shape}, output {g.output_shape}, {plan.dtype} on {plan.device}",
        f"padding {g.padding}, stride {g.stride}, dilation {g.dilation}, groups {g.groups}, precision {plan.precision}",
        f"transform length T = {T}: tiles of {T} x {T}; workspace {plan.workspace_size:,} bytes{limit}",
    ]
    for name, choice in zip(PASSES, plan.choice.passes, strict=True):
        lines += ["", *_pass(plan, name, choice, direct)]
    rejected = [other for other in candidates if T != other.T]
    title = f"rejected: the fastest {SHOWN} of {len(rejected)}" if len(rejected) > SHOWN else "rejected"
    lines += ["", f"{title}, by predicted time of the three passes; T = {T} takes {seconds(plan.choice.seconds)}"]
    lines += [
        f"  T = {other.T:2}  {seconds(other.seconds):>8}  {other.workspace:,} bytes" for other in rejected[:SHOWN]
    ]
    return "\n".join(lines if rejected else [*lines, "  none: no other length holds this kernel"])


def _pass(plan: Any, name: str, choice: Any, direct: float) -> Iterable[str]:
    """A pass: its segments, a row for each stage, and the sum."""
    g, T, (down, across), stages = plan.geometry, plan.fft_size, plan.segments[name], plan.stages[name]
    plane = (g.P, g.Q) if name == "input_grad" else (g.H, g.W)
    waste = 1 - plane[0] * plane[1] / (down * across * T * T)
    yield f"{name}: {down} x {across} segments of each plane of {plane[0]} x {plane[1]}; padding waste {waste:.0%}"
    if choice.schedule is not None:
        yield f"  {choice.schedule.describe()}; {choice.workspace:,} bytes of workspace"
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
