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

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
COLUMNS = {
    "layer": 26,
    "pass": 11,
    "T": -2,
    "ours ms": -9,
    "min": -9,
    "GFLOP/s": -7,
    "bound": -5,
    "peer, its best setting": 24,
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
        parts = [f"{name} {milliseconds(seconds)} ms ({seconds / total:.0%})" for name, seconds in row.stages.items()]
        shown.append(f"{INDENT} stages: {', '.join(parts)}")
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


def markdown(layers: list[Layer], rows: list[Row], about: dict[str, Any], first_calls: list[dict[str, Any]]) -> str:
    """The table of README: a line a layer, a column a pass, and how it was measured."""
    found = {(row.layer, row.pass_name): row for row in rows}
    passes = [name for name in ALL_PASSES if any(row.pass_name == name for row in rows)]
    layers = [layer for layer in layers if any(row.layer == layer.name for row in rows)]
    table = ["| layer | problem | " + " | ".join(passes) + " |", "|---" * (2 + len(passes)) + "|"]
    for layer in layers:
        cells = [cell(found.get((layer.name, name))) for name in passes]
        table.append(f"| {layer.name} | {layer.problem} | " + " | ".join(cells) + " |")
    versions = about["versions"]
    note = (
        f"Milliseconds of numba_fftconv and how many times as long torch {versions['torch']} (oneDNN)"
        f" or scipy {versions['scipy']} (`signal.oaconvolve`) takes, each in its better setting; in brackets what is"
        f" promised. Medians of interleaved calls, weights transformed in every call, {about['threads']} threads of"
        f" {about['device']}, numba {versions['numba']}, numpy {versions['numpy']}, {about['date'][:10]}."
    )
    for call in first_calls:
        cold, warm = call["cold"]["call"], call["warm"]["call"]
        note += f" First {call['pass_name']} of {call['layer']} in a new process: {cold:.1f} s,"
        note += f" {warm:.1f} s with a filled disk cache."
    return "\n".join([*table, "", note])


def write_readme(path: Path, table: str) -> None:
    """Replaces what stands between the two markers."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path.name} needs one line {BEGIN} and after it one line {END}: the table goes between them")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}")
