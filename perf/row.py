"""A row of the results: one pass of one layer, its samples, and the figures that follow from them."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any


def summarise(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "min": min(seconds), "samples": len(seconds)}


@dataclass
class Row:
    """What was measured of one pass of one layer; times in seconds, `bound` by the yardstick from flops and bytes.

    A stage's bound is a name and seconds; `absent` says why a peer, or a setting of one, was not timed. The host's
    seconds a call and the peaks are those of a GPU.
    """

    layer: str
    problem: str
    pass_name: str
    fft_size: tuple[int, int]
    flops: int
    bytes: int
    bound: float
    error: float
    tolerance: float
    ours: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    probes: dict[str, dict[str, float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    stage_bounds: dict[str, tuple[str, float]] = field(default_factory=dict)
    host: float | None = None
    peak_bytes: dict[str, int] = field(default_factory=dict)
    quiet_share: float = 0.0
    load_average: float | None = None

    @property
    def correct(self) -> bool:
        return self.error <= self.tolerance

    @property
    def median(self) -> float:
        return statistics.median(self.ours)

    @property
    def gflops(self) -> float:
        """The rate of the arithmetic that the plan says the pass needs."""
        return self.flops / self.median / 1e9

    @property
    def share_of_bound(self) -> float:
        return self.bound / self.median

    def ratio(self, peer: str) -> float:
        """How many times as long the peer takes: median over median."""
        return statistics.median(self.peers[peer]) / self.median

    def met(self, peer: str) -> bool | None:
        """Whether the promise is kept, None where there is none."""
        return self.ratio(peer) >= self.targets[peer] if peer in self.targets else None

    def record(self) -> dict[str, Any]:
        """The row as it goes into a file, with the figures that follow from the samples."""
        times = {"ours": self.ours, **self.peers}
        derived = {
            "summary": {who: summarise(seconds) for who, seconds in times.items()},
            "ratios": {peer: {"ratio": self.ratio(peer), "met": self.met(peer)} for peer in self.peers},
            "gflops": self.gflops,
            "share_of_bound": self.share_of_bound,
        }
        return {**asdict(self), **derived}
