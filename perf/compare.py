"""Compares two results of bench.py: what is faster, what is slower, what the noise of the two runs cannot tell.

    python perf/compare.py old.json new.json                    exit code 0 whatever it finds
    python perf/compare.py old.json new.json --fail-on-slower   1 if numba_fftconv is slower in a row

Ratios are old / new: above 1 the new run is faster. What is marked moved beyond the noise of both runs (noise.py), with
"?" where there are too few samples to tell. Samples cannot know how the machine differs from one run to the next; the
peers of the same rows do, so the first lines say whether those moved too.

Stages, memory, the smallest call and first calls are single figures, whose noise is not in the file: stages stand
below their row, of the others those are shown that differ by FAR. They fail nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noise import Change, change

OURS = "ours"
SAMPLED = ("rows", "scaling")  # parts that are rows with samples
SINGLE = ("memory", "launch", "first_calls")  # parts of single figures
SINGLE_OF_ROW = ("host", "peak_bytes")
NAMES = ("layer", "problem", "pass_name")  # what tells records apart
OF_THE_RUN = ("date", "load_average", "load_average_after")  # about.* that says nothing of what it ran on
FAR = 0.1

Key = tuple[str, ...]


class NotAResultError(Exception):
    """A file is not what bench.py writes."""


@dataclass(frozen=True)
class Result:
    """A run: what it ran on, the samples of each contestant of each row, stages and single figures, all by name."""

    about: dict[Key, Any]
    samples: dict[Key, dict[str, list[float]]]
    stages: dict[Key, dict[str, float]]
    figures: dict[Key, float]


def flat(value: Any, name: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every leaf of nested dictionaries and lists with its name; records in a list are named by their NAMES."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, (*name, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            named = isinstance(inner, dict) and set(NAMES) <= inner.keys()
            yield from flat(inner, (*name, *(name_of(inner) if named else (str(position),))))
    else:
        yield name, value


def name_of(record: dict[str, Any]) -> Key:
    return tuple(record[key] for key in NAMES)


def samples_of(row: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of each contestant."""
    samples = {OURS: row["ours"], **row["peers"]}
    for who, seconds in samples.items():
        if not seconds or not all(isinstance(each, int | float) and 0 < each < float("inf") for each in seconds):
            raise ValueError(f"{' '.join(name_of(row))}: {who} has samples that are no positive seconds")
    return samples


def read(path: Path) -> Result:
    """The run in a file."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        rows = {name_of(row): row for part in SAMPLED for row in content.get(part, ())}
        single = {part: content[part] for part in SINGLE if content.get(part)}
        single["rows"] = [{key: row[key] for key in (*NAMES, *SINGLE_OF_ROW) if row.get(key)} for row in rows.values()]
        if not any(single.values()):
            raise ValueError(f"it holds none of {', '.join((*SAMPLED, *SINGLE))}")
        return Result(
            about=dict(flat({**content["about"], "options": content.get("options", {})})),
            samples={name: samples_of(row) for name, row in rows.items()},
            stages={name: row.get("stages", {}) for name, row in rows.items()},
            figures={name: leaf for name, leaf in flat(single) if isinstance(leaf, int | float) and leaf > 0},
        )
    except OSError as error:
        raise NotAResultError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else error
        raise NotAResultError(f"{path} is not a result of perf/bench.py: {said}") from error


# ---- what is said


def differences(old: Result, new: Result) -> list[str]:
    """What the runs ran on, where that differs."""
    names = [name for name in {**old.about, **new.about} if name[0] not in OF_THE_RUN]
    pairs = [(name, *(result.about.get(name, "not told") for result in (old, new))) for name in names]
    return [f"warning: {'.'.join(name)} was {was}, is {now}" for name, was, now in pairs if was != now]


def drifts(changes: dict[Key, dict[str, Change]], least: float) -> list[str]:
    """The median ratio of each peer over all rows, where that moved: it is not the code that did."""
    ratios: dict[str, list[float]] = {}
    for by_contestant in changes.values():
        for who, found in by_contestant.items():
            ratios.setdefault(who, []).append(found.ratio)
    medians = {who: statistics.median(each) for who, each in ratios.items() if who != OURS}
    return [
        f"warning: {who} is {ratio:.2f} times as fast as it was, in the median of its rows: judge ours by its ratios"
        for who, ratio in medians.items()
        if abs(ratio - 1) >= least
    ]


def lines(name: Key, by_contestant: dict[str, Change], stages: str) -> Iterator[str]:
    """A line for each contestant of a row, that of a peer with its ratio to ours, and one for the stages."""
    ours = by_contestant[OURS]
    for who, found in by_contestant.items():
        title = f"{name[0]:26} {name[-1]:11}" if who == OURS else " " * 38
        times = f"{found.old * 1e3:9.3f} {found.new * 1e3:9.3f} {found.ratio:7.2f}"
        span = f"{found.low:.2f} to {found.high:.2f}" if found.enough else "few samples"
        against = "" if who == OURS else f"{found.old / ours.old:.2f} to {found.new / ours.new:.2f} times ours"
        yield f"{title} {who:14} {times}   {span:14} {found.verdict:7} {against}".rstrip()
    if stages:
        yield f"{'':38} stages: {stages}"


def report(old: Result, new: Result, least: float) -> tuple[list[str], bool]:
    """All that is said, and whether ours is slower somewhere."""
    changes: dict[Key, dict[str, Change]] = {}
    for name in [name for name in old.samples if name in new.samples]:
        pair = old.samples[name], new.samples[name]
        changes[name] = {who: change(pair[0][who], pair[1][who], least) for who in pair[0] if who in pair[1]}
    said = [*differences(old, new), *drifts(changes, least)]
    said.append(f"{'layer':26} {'pass':11} {'':14} {'old ms':>9} {'new ms':>9} {'old/new':>7}   interval")
    for name, by_contestant in changes.items():
        was, now = old.stages[name], new.stages[name]
        stages = ", ".join(f"{stage} {was[stage] / now[stage]:.2f}" for stage in was if now.get(stage))
        said += lines(name, by_contestant, stages)
    said += [*only("old", old, new), *only("new", new, old), *single(old.figures, new.figures)]
    verdicts = [by_contestant[OURS].verdict for by_contestant in changes.values()]
    counts = {word: verdicts.count(word) for word in ("faster", "slower", "", "?")}
    said.append(
        f"numba_fftconv in {len(verdicts)} rows: {counts['faster']} faster, {counts['slower']} slower,"
        f" {counts['']} within noise or {least:.0%}, {counts['?']} with too few samples to tell"
    )
    return said, counts["slower"] > 0


def only(label: str, here: Result, there: Result) -> list[str]:
    """The rows that one run has alone, and the contestants that it has alone in a row of both."""
    said = []
    for name, by_contestant in here.samples.items():
        if name not in there.samples:
            said.append(f"only in {label}: {', '.join(name)}")
        else:
            missing = [who for who in by_contestant if who not in there.samples[name]]
            said += [f"only in {label}: {', '.join(name)}, {who}" for who in missing]
    return said


def single(old: dict[Key, float], new: dict[Key, float]) -> list[str]:
    """The figures that differ by FAR, one a line, and how many do not."""
    both = {name: (old[name], new[name]) for name in old if name in new}
    far = {name: pair for name, pair in both.items() if max(pair) >= (1 + FAR) * min(pair)}
    said = [f"{', '.join(name)}: {was:.4g} to {now:.4g}, {was / now:.2f}" for name, (was, now) in far.items()]
    if both:
        said.append(f"single figures: {len(far)} of {len(both)} differ by {FAR:.0%} or more, noise unknown")
    return said


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--least", type=float, default=0.03, help="what differs by less is not marked (0.03)")
    parser.add_argument("--fail-on-slower", action="store_true", help="exit code 1 if ours is slower in a row")
    chosen = parser.parse_args(words)
    try:
        said, slower = report(read(chosen.old), read(chosen.new), chosen.least)
    except NotAResultError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(said))
    return 1 if slower and chosen.fail_on_slower else 0


if __name__ == "__main__":
    sys.exit(main())
