"""What a call costs that has nothing to compute: microseconds from call to return for a layer of one small plane.

On a CPU the call is done by then, on a GPU it is queued. Every contestant is asked in turn, several times over; the
figure is the median of the rounds' medians.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import ours
import peers
from layers import Layer
from place import Call, Place

SMALLEST = Layer("launch/smallest", "numba_fftconv, the least work", 1, 1, 8, 8, 1, 3, 3)
OURS, BOUND = "conv2d", "plan.forward, out and workspace given"
ROUNDS, FEW = 15, 3
WARM = 20


def measure(place: Place, threads: int, quick: bool) -> dict[str, Any]:
    """Seconds of a forward call, by contestant and setting."""
    host = peers.operands(SMALLEST)
    arrays = {name: place.put(array) for name, array in host.items()}
    offers = place.offers(SMALLEST, "forward", arrays, threads)
    calls: dict[tuple[str, str], Call] = {("ours", name): call for name, call in our_calls(place, arrays).items()}
    for peer, settings in offers.settings.items():
        for name, call in settings.items():
            with peers.or_absent(offers.absent, f"{peer}, {name}"):
                call()
                calls[peer, name] = call
    seconds: dict[tuple[str, str], list[float]] = {who: [] for who in calls}
    for call in calls.values():
        for _ in range(WARM):
            call()
    for _ in range(FEW if quick else ROUNDS):
        for who, call in calls.items():
            seconds[who].append(place.issue(call))
    found: dict[str, dict[str, float]] = {}
    for (peer, name), times in seconds.items():
        found.setdefault(peer, {})[name] = statistics.median(times)
    return {"problem": SMALLEST.problem, "pass_name": "forward", "seconds": found, "absent": offers.absent}


def our_calls(place: Place, arrays: peers.Arrays) -> dict[str, Call]:
    """By the function, and by a plan that allocates nothing."""
    plan = ours.plan(SMALLEST, place.name)
    x, w = arrays["x"], arrays["w"]
    out, workspace = plan.forward(x, w), place.put(np.empty(plan.workspace_size, np.uint8))
    return {
        OURS: lambda: ours.call(SMALLEST, "forward", **arrays),
        BOUND: lambda: plan.forward(x, w, out=out, workspace=workspace),
    }


def lines(record: dict[str, Any]) -> list[str]:
    """A line for every setting."""
    shown = [f"{'smallest call':26} {record['pass_name']:11} {record['problem']}"]
    for who, settings in record["seconds"].items():
        shown += [f"{'':26} {who:11} {name:40} {seconds * 1e6:8.1f} us" for name, seconds in settings.items()]
    return shown + [f"{'':26} {peer:11} {reason}" for peer, reason in record["absent"].items()]
