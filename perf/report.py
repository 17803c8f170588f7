"""How the figures are shown: lines on the terminal, one JSON file a run, one table in README."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layers import ALL_PASSES, Layer

if TYPE_CHECKING:
    from measure import Row

COLUMNS = {
    "layer": 26,
    "pass": 11,
    "T": -2,
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


def verdict(met: bool | None) -> str:
    return {True: "PASS", False: "MISS", None: ""}[met]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def aligned(cells: Sequence[object]) -> str:
    """One line of the terminal's table; a negative width aligns to the right."""
    pairs = zip(cells, COLUMNS.values(), strict=True)
    return " ".join(f"{cell!s:{'<' if width > 0 else '>'}{abs(width)}}" for cell, width in pairs)


def lines(row: Row) -> list[str]:
    """A line for every peer, and one for the stages."""
    summary = row.record()["summary"]
    mine = summary["ours"]
    shown: list[str] = []
    for peer in row.peers:
        theirs = summary[peer]
        cells = [row.layer, row.pass_name, row.fft_size, milliseconds(mine["median"]), milliseconds(mine["min"])]
        cells += [f"{row.gflops:.1f}", f"{row.share_of_bound:.0%}", row.settings[peer]]
        cells += [milliseconds(theirs["median"]), milliseconds(theirs["min"]), f"{row.ratio(peer):.2f}"]
        cells += [f">= {row.targets[peer]:g}" if peer in row.targets else "", verdict(row.met(peer))]
        cells += [theirs["samples"], f"{row.quiet_share:.0%}", f"{row.error:.0e}"]
        shown.append(aligned(cells))
    if row.stages:
        total = sum(row.stages.values())
        parts = []
        for name, seconds in row.stages.items():
            bound = row.stage_bounds.get(name)
            of_bound = f", {bound[1] / seconds:.0%} of {bound[0]}" if bound else ""
            parts.append(f"{name} {milliseconds(seconds)} ms ({seconds / total:.0%}{of_bound})")
        shown.append(f"{INDENT} stages: {', '.join(parts)}")
    if row.host is not None:
        peaks = ", ".join(f"{who} {nbytes / 1e6:.0f}" for who, nbytes in row.peak_bytes.items())
        shown.append(f"{INDENT} host: {row.host * 1e6:.0f} us to issue; peak memory in MB: {peaks}")
    if not row.correct:
        shown.append(f"{INDENT} WRONG: relative error {row.error:.2e}, at most {row.tolerance:.2e} is allowed")
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


def cell(row: Row | None) -> str:
    """Ours in milliseconds and the ratio to each peer with its target, MISS where it is not met."""
    if row is None:
        return ""
    ratios = []
    for peer in row.peers:
        aim = f" (≥ {row.targets[peer]:g}{'' if row.met(peer) else ', MISS'})" if peer in row.targets else ""
        ratios.append(f"{row.ratio(peer):.1f}x{f' {peer}' if len(row.peers) > 1 else ''}{aim}")
    return f"{row.median * 1e3:.2f} ms, " + ", ".join(ratios)


def markdown(layers: list[Layer], rows: list[Row], note: str, first_calls: list[dict[str, Any]]) -> str:
    """The table of README: a line a layer, a column a pass, and the note that says how it was measured."""
    found = {(row.layer, row.pass_name): row for row in rows}
    passes = [name for name in ALL_PASSES if any(row.pass_name == name for row in rows)]
    layers = [layer for layer in layers if any(row.layer == layer.name for row in rows)]
    table = ["| layer | problem | " + " | ".join(passes) + " |", "|---" * (2 + len(passes)) + "|"]
    for layer in layers:
        cells = [cell(found.get((layer.name, name))) for name in passes]
        table.append(f"| {layer.name} | {layer.problem} | " + " | ".join(cells) + " |")
    for call in first_calls:
        cold, warm = call["cold"]["call"], call["warm"]["call"]
        note += f" First {call['pass_name']} of {call['layer']} in a new process: {cold:.1f} s,"
        note += f" {warm:.1f} s with a filled disk cache."
    return "\n".join([*table, "", note])


def write_readme(path: Path, table: str, mark: str) -> None:
    """Replaces what stands between the two markers of that name."""
    begin, end, text = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->", path.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{path.name} needs one line {begin} and after it one line {end}: the table goes between them")
    head, tail = text.split(begin)[0], text.split(end)[1]
    path.write_text(f"{head}{begin}\n{table}\n{end}{tail}")
