"""Peak memory of a call: what it takes beyond its operands at most, its result among it.

On a CPU each contestant has a process of its own, which imports nothing else. The system keeps the highest resident
size of a process and resets it on request (Linux, /proc/self/clear_refs): what it rises by during one call is the
figure, good to about half a megabyte. An earlier call has loaded and compiled everything by then, and what libraries
and the allocator keep between calls was given back. On a GPU torch's allocator counts (gpu.py).

As a program this file is such a process: it reads problems and prints the bytes of every setting of its contestant.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peers
from layers import Layer, named

if TYPE_CHECKING:
    from place import Place

Problem = tuple[Layer, str]
Peak = Callable[[Callable[[], object]], int]
OURS = "ours"
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # bytes from which an array has pages of its own, freed with it


def in_processes(problems: list[Problem], threads: int) -> list[dict[str, Any]]:
    """The peaks of each problem on a CPU."""
    asked = json.dumps([(layer.name, layer.N, pass_name) for layer, pass_name in problems])
    records = [heading(*problem) for problem in problems]
    for contestant in (OURS, *peers.CPU):
        command = [sys.executable, __file__, contestant, str(threads)]
        done = subprocess.run(command, input=asked, env={**os.environ, **GIVE_BACK}, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            answers: list[dict[str, Any]] = [{"absent": {contestant: said}, "peak_bytes": {}}] * len(problems)
        else:
            answers = json.loads(done.stdout)
        for record, answer in zip(records, answers, strict=True):
            record["peak_bytes"] |= answer["peak_bytes"]
            record["absent"] |= answer["absent"]
    return records


def in_process(problems: list[Problem], threads: int, place: Place, peak: Peak) -> list[dict[str, Any]]:
    """The peaks of each problem as `peak` counts them in a second call, all contestants in this process."""

    def of_second(call: Callable[[], object]) -> int:
        call()
        return peak(call)

    records = []
    for layer, pass_name in problems:
        record = heading(layer, pass_name)
        arrays = {name: place.put(array) for name, array in peers.operands(layer).items()}
        add_ours(record, layer, pass_name, arrays, of_second)
        add_peers(record, place.offers(layer, pass_name, arrays, threads), of_second)
        records.append(record)
    return records


def heading(layer: Layer, pass_name: str) -> dict[str, Any]:
    about = {"layer": layer.name, "problem": layer.problem, "pass_name": pass_name}
    return {**about, "peak_bytes": {}, "absent": {}}


def add_ours(record: dict[str, Any], layer: Layer, pass_name: str, arrays: peers.Arrays, peak: Peak) -> None:
    """The peak of our own call, or why there is none."""
    import ours

    with peers.or_absent(record["absent"], OURS):
        record["peak_bytes"][OURS] = {OURS: peak(lambda: ours.call(layer, pass_name, **arrays))}


def add_peers(record: dict[str, Any], offers: peers.Offers, peak: Peak) -> None:
    """The peak of every setting on offer, those of peers that are absent apart."""
    record["absent"] |= offers.absent
    for peer, calls in offers.settings.items():
        for name, call in calls.items():
            with peers.or_absent(record["absent"], f"{peer}, {name}"):
                record["peak_bytes"].setdefault(peer, {})[name] = peak(call)


def child(contestant: str, threads: int, asked: list[tuple[str, int, str]]) -> list[dict[str, Any]]:
    """The peaks of one contestant, in this process, which has imported nothing for the others."""
    records = []
    for name, images, pass_name in asked:
        layer = named(name, images)
        arrays = peers.operands(layer)
        record = heading(layer, pass_name)
        if contestant == OURS:
            add_ours(record, layer, pass_name, arrays, rise)
        else:
            source = {contestant: peers.CPU[contestant]}
            add_peers(record, peers.offers(source, layer, pass_name, arrays, threads), rise)
        records.append(record)
    return records


def rise(call: Callable[[], object]) -> int:
    """Bytes by which the resident size of this process rises at most in a call."""
    call()
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = highest()
    result = call()
    after = highest()
    del result
    return after - before


def highest() -> int:
    """The highest resident size of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def give_back() -> None:
    """Frees what is kept from call to call."""
    if package := sys.modules.get("numba_fftconv"):
        package.clear_cache()
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], int(sys.argv[2]), json.load(sys.stdin))))
