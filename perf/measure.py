"""One layer, one pass: check the result, warm up, time in turns with the peers.

A round gives every contestant one turn, within one process, so that whatever disturbs the machine disturbs all; a ratio
is one of medians over the same rounds. A turn begins with calls that are not timed: threads that slept while another
library ran need tens of milliseconds until the system gives each a core of its own again, and a network does not
change its library from layer to layer. What a turn is on a CPU and on a GPU stands in place.py and gpu.py.
"""

import gc
import statistics
from dataclasses import dataclass
from typing import Any

import ours
import peers
from check import require_agreement, sampled_error, tolerance
from layers import Layer
from machine import Gate, load_average
from place import SETTLE_SECONDS, TURN, Call, Place
from row import Row
from yardstick import Yardstick

from numba_fftconv import ConvPlan
from numba_fftconv.passes import PASSES

PROFILE_RUNS = 5
LOOSE = 1e-3
LOOSEST = 10  # times the error that a row may have: of one element, where ours computes less precisely
LEAST_ROUNDS = 3  # of slow calls too: fewer have no median
LONG = 0.5  # seconds of a call that is probed once


@dataclass(frozen=True)
class Effort:
    """How long a row may take: rounds, seconds over all rounds, seconds spent on waiting for a quiet machine."""

    rounds: int = 30
    seconds: float = 4.0
    patience: float = 5.0


def stage_times(plan: ConvPlan, pass_name: str, operands: tuple[Any, ...]) -> dict[str, float]:
    """Median seconds per stage as the plan's own profile reports them."""
    runs = [plan.profile(pass_name, *operands) for _ in range(PROFILE_RUNS)]
    return {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}


def probe(row: Row, peer: str, calls: peers.Settings, result: Any, gate: Gate, place: Place) -> None:
    """The best call in one turn of each setting of a peer, into the row; each result must be ours.

    A setting that cannot run is absent, and so is a peer without a setting left.
    """
    best: dict[str, float] = {}
    loose = place.loose.get(peer, LOOSE)
    for name, call in calls.items():
        with peers.or_absent(row.absent, f"{peer}, {name}"):
            require_agreement(name, result, place.comparable(call()), max(loose, LOOSEST * row.tolerance))
            seconds = place.clock(call)
            best[name] = seconds if seconds > LONG else min(place.turn(call, gate))
    if best:
        row.probes[peer] = best
        row.settings[peer] = min(best, key=best.__getitem__)


def in_turns(
    contestants: dict[str, Call], seconds: list[float], effort: Effort, gate: Gate, place: Place
) -> dict[str, list[float]]:
    """Samples of each contestant, in as many rounds as the effort allows when one call each takes these seconds."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    round_seconds = sum(SETTLE_SECONDS + max(SETTLE_SECONDS, TURN * once) for once in seconds)
    gc.collect()
    gc.disable()
    for _ in range(min(effort.rounds, max(LEAST_ROUNDS, int(effort.seconds / round_seconds)))):
        for name, contestant in contestants.items():
            samples[name] += place.turn(contestant, gate)
    gc.enable()
    return samples


def measure(layer: Layer, pass_name: str, effort: Effort, threads: int, yardstick: Yardstick, place: Place) -> Row:
    """One row of the table."""
    layer, plan, gate = place.promised(layer), ours.plan(layer, place.name), Gate(effort.patience)
    host_arrays = peers.operands(layer)
    arrays = {name: place.put(array) for name, array in host_arrays.items()}
    named = {"input": arrays["x"], "weight": arrays["w"], "grad_output": arrays["dy"]}
    operands = tuple(named[name] for name in PASSES[pass_name].operands)

    def call() -> Any:
        return ours.call(layer, pass_name, **arrays)

    result = call()
    row = Row(
        layer=layer.name,
        problem=layer.problem,
        pass_name=pass_name,
        fft_size=plan.fft_size,
        flops=plan.flops[pass_name],
        bytes=plan.bytes[pass_name],
        bound=yardstick.bound(plan.flops[pass_name], plan.bytes[pass_name], layer.dtype),
        error=sampled_error(layer, pass_name, host_arrays, place.numpy(result), place),
        tolerance=tolerance(layer, plan, pass_name),
    )

    offers = place.offers(layer, pass_name, arrays, threads)
    row.absent.update(offers.absent)
    for peer, calls in offers.settings.items():
        probe(row, peer, calls, result, gate, place)
    row.targets = {peer: ratio for peer in row.settings if (ratio := layer.target(pass_name, peer)) is not None}
    del result

    contestants: dict[str, Call] = {"ours": call}
    contestants |= {peer: offers.settings[peer][setting] for peer, setting in row.settings.items()}
    best = [place.clock(call), *(min(times.values()) for times in row.probes.values())]
    samples = in_turns(contestants, best, effort, gate, place)
    row.ours = samples.pop("ours")
    row.peers = samples
    row.stages = stage_times(plan, pass_name, operands)
    place.complete(row, plan, yardstick, operands, contestants)
    row.quiet_share, row.load_average = round(gate.quiet_share, 3), load_average()
    return row
