"""How the figures are shown: lines on the terminal, and the one JSON file of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from place import Place
    from row import Row
    from yardstick import Yardstick

COLUMNS = {
    "layer": 26,
    "pass": 11,
    "T": -7,
    "ours ms": -9,
    "min": -9,
    "GFLOP/s": -7,
    "bound": -5,
    "peer, its best setting": 27,
    "peer ms": -9,
    "its min": -9,
    "ratio": -6,
    "target": -6,
    "": 4,
    "rounds": -6,
    "quiet": -5,
    "error": -7,
}
INDENT = " " * 26
BUSY_SHARE = 0.8


def verdict(met: bool | None) -> str:
    return {True: "PASS", False: "MISS", None: ""}[met]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def aligned(cells: Sequence[object]) -> str:
    """One line of the terminal's table; a negative width aligns to the right."""
    pairs = zip(cells, COLUMNS.values(), strict=True)
    return " ".join(f"{cell!s:{'<' if width > 0 else '>'}{abs(width)}}" for cell, width in pairs)


def lines(row: Row) -> list[str]:
    """A line for every peer, or one without peers, then one for the stages and one for each peer that is absent."""
    summary = row.record()["summary"]
    mine = summary["ours"]
    size = "x".join(map(str, row.fft_size))
    head = [row.layer, row.pass_name, size, milliseconds(mine["median"]), milliseconds(mine["min"])]
    head += [f"{row.gflops:.1f}", f"{row.share_of_bound:.0%}"]
    shown: list[str] = []
    for peer in row.peers:
        theirs = summary[peer]
        cells = [*head, row.settings[peer], milliseconds(theirs["median"]), milliseconds(theirs["min"])]
        cells += [f"{row.ratio(peer):.2f}"]
        cells += [f">= {row.targets[peer]:g}" if peer in row.targets else "", verdict(row.met(peer))]
        shown.append(aligned([*cells, theirs["samples"], f"{row.quiet_share:.0%}", f"{row.error:.0e}"]))
    if not row.peers:
        shown.append(aligned([*head, *[""] * 6, mine["samples"], f"{row.quiet_share:.0%}", f"{row.error:.0e}"]))
    total = sum(row.stages.values())
    parts = []
    for name, seconds in row.stages.items():
        bound = row.stage_bounds.get(name)
        of_bound = f", {bound[1] / seconds:.0%} of {bound[0]}" if bound else ""
        parts.append(f"{name} {milliseconds(seconds)} ms ({seconds / total:.0%}{of_bound})")
    shown.append(f"{INDENT} stages: {'; '.join(parts)}")
    if row.host is not None:
        peaks = ", ".join(f"{who} {nbytes / 1e6:.0f}" for who, nbytes in row.peak_bytes.items())
        shown.append(f"{INDENT} host: {row.host * 1e6:.0f} us to issue; peak memory in MB: {peaks}")
    shown += [f"{INDENT} {peer}: {reason}" for peer, reason in row.absent.items()]
    if not row.correct:
        shown.append(f"{INDENT} WRONG: relative error {row.error:.2e}, at most {row.tolerance:.2e} is allowed")
    return shown


def yardstick(limits: Yardstick) -> str:
    """What the bounds are made of, and whose they are."""
    by = {name: f" ({limits.by[name]})" if name in limits.by else "" for name in ("copy", *limits.gemm)}
    gemm = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}{by[dtype]}" for dtype, rate in limits.gemm.items())
    return f"bounds: copy {limits.copy / 1e9:.1f} GB/s{by['copy']}, matrix product {gemm}"


def summary(rows: Sequence[Row], here: Place) -> str:
    """How many promises were met and which were not, and whether the machine was quiet enough to tell."""
    promises = [(row, peer) for row in rows for peer in row.targets]
    missed = [(row, peer) for row, peer in promises if not row.met(peer)]
    said = [f"{len(promises) - len(missed)} of {len(promises)} targets met"]
    for row, peer in missed:
        said.append(f"MISS {row.layer} {row.pass_name}: {row.ratio(peer):.2f} < {row.targets[peer]:g} times {peer}")
    busy = [row for row in rows if row.quiet_share < BUSY_SHARE]
    if busy:
        said.append(f"warning: {here.disturbed.format(len(busy), len(rows))}")
    return "\n".join(said)


def peaks(record: Mapping[str, Any]) -> list[str]:
    """Peak memory of a problem: each contestant in its leanest setting, then who is absent."""
    leanest = ", ".join(f"{who} {min(by.values()) / 1e6:.1f}" for who, by in record["peak_bytes"].items())
    shown = [f"{record['layer']:26} {record['pass_name']:11} peak memory in MB: {leanest}"]
    return shown + [f"{INDENT} {peer}: {reason}" for peer, reason in record["absent"].items()]


def first_call(record: Mapping[str, Any], limits: Mapping[str, float]) -> list[str]:
    """The wait for a first call, cold and warm."""
    shown = []
    for state, limit in limits.items():
        call, imported = record[state]["call"], record[state]["import"]
        line = f"first call, {state}: {call:6.2f} s (< {limit:g}) {verdict(call < limit)}, import {imported:.2f} s"
        shown.append(f"{record['layer']:26} {record['pass_name']:11} {line}")
    return shown


def write_json(folder: Path, name: str, result: dict[str, object]) -> Path:
    """Writes the run to folder/name.json; a run of the same name is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(name)}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def slug(words: str) -> str:
    """Lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
