"""What a run writes into README between its markers: a table of layers, how it was measured, and the other parts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layers import ALL_PASSES, Layer

if TYPE_CHECKING:
    from row import Row

TF32 = "tf32"  # in the name of a peer that computes less precisely


def cell(row: Row | None) -> str:
    """Ours in milliseconds and the ratio to the fastest peer, to peers in TF32, to peers with a target: is it met?"""
    if row is None:
        return ""
    ratios = []
    fastest = min((peer for peer in row.peers if TF32 not in peer), key=row.ratio, default=None)
    for peer in row.peers:
        if peer == fastest or peer in row.targets or TF32 in peer:
            aim = f" (≥ {row.targets[peer]:g}{'' if row.met(peer) else ', MISS'})" if peer in row.targets else ""
            ratios.append(f"{row.ratio(peer):.1f}x {peer}{aim}")
    return ", ".join([f"{row.median * 1e3:.2f} ms", *ratios])


def table(layers: Sequence[Layer], rows: Sequence[Row]) -> str:
    """A line a layer, a column a pass."""
    found = {(row.layer, row.pass_name): row for row in rows}
    passes = [name for name in ALL_PASSES if any(row.pass_name == name for row in rows)]
    lines = ["| layer | problem | " + " | ".join(passes) + " |", "|---" * (2 + len(passes)) + "|"]
    for layer in layers:
        if any(row.layer == layer.name for row in rows):
            cells = [cell(found.get((layer.name, name))) for name in passes]
            lines.append(f"| {layer.name} | {layer.problem} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def absent(rows: Sequence[Row]) -> list[str]:
    """Which peers were not there at all, and why."""
    reasons = {peer: reason for row in rows for peer, reason in row.absent.items() if "," not in peer}
    return [f"No {peer}: {reason}." for peer, reason in reasons.items()]


def memory(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The least and the most of all problems by contestant, each in its leanest setting."""
    peaks: dict[str, list[int]] = {}
    for record in records:
        for who, by_setting in record["peak_bytes"].items():
            peaks.setdefault(who, []).append(min(by_setting.values()))
    if not peaks:
        return []
    said = ", ".join(f"{who} {min(nbytes) / 1e6:.1f} to {max(nbytes) / 1e6:.1f}" for who, nbytes in peaks.items())
    return [f"Peak memory of a call beyond its operands, its result among it, in MB: {said}."]


def launch(record: Mapping[str, Any] | None) -> list[str]:
    """The smallest call of every contestant, the least of its settings."""
    if record is None:
        return []
    least = [f"{who} {min(by.values()) * 1e6:.0f} us" for who, by in record["seconds"].items()]
    return [f"The smallest call ({record['problem']}): {', '.join(least)}."]


def first_calls(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The longest wait for a first call, and how short a filled cache makes it."""
    if not records:
        return []
    slowest = max(records, key=lambda record: record["cold"]["call"])
    cold, warm = slowest["cold"]["call"], slowest["warm"]["call"]
    said = f"First call in a new process: {cold:.1f} s at most ({slowest['pass_name']} of {slowest['layer']}),"
    return [f"{said} {warm:.1f} s with a filled disk cache."]


def section(layers: Sequence[Layer], rows: Sequence[Row], note: str, figures: Mapping[str, Any]) -> str:
    """All that stands between the markers, but for plots."""
    notes = [note, *absent(rows), *memory(figures.get("memory", [])), *launch(figures.get("launch"))]
    notes += first_calls(figures.get("first_calls", []))
    return table(layers, rows) + "\n\n" + " ".join(notes)


def image(plot: Path, words: str, readme: Path) -> str:
    """A plot by its path from README."""
    path = os.path.relpath(plot.resolve(), readme.resolve().parent)
    return f"![{words}]({Path(path).as_posix()})"


def write(path: Path, text: str, mark: str) -> None:
    """Replaces what stands between the two markers of that name."""
    begin, end, whole = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->", path.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1 or whole.index(begin) > whole.index(end):
        raise ValueError(f"{path.name} needs one line {begin} and after it one line {end}: the table goes between them")
    head, tail = whole.split(begin)[0], whole.split(end)[1]
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
