"""Has a time moved between two runs, or is it their noise? The rule of compare.py, on samples alone.

The calls of a turn share whatever disturbs them, so that one observation is the median of a turn. An interval for the
median of a run's observations lies between two of them, as far from both ends as binomial probabilities allow: no
distribution is assumed. The interval of the ratio is that of the quotients; it holds 1 where those of the runs overlap.

Moved is what has 1 outside of its interval and differs by `least` or more; with fewer than FEWEST observations nothing
can be told. By chance 0.8 % of pairs of runs with 5 observations each are marked, and 0.1 % from 7 on, be the samples
normal, skewed or spiky; a shift of 10 % is found in 80 to 100 % of pairs with 16 (test_compare.py holds these figures).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from place import SETTLE_SECONDS, TURN

CONFIDENCE = 0.975
FEWEST = 5


@dataclass(frozen=True)
class Change:
    """Medians of two runs in seconds, and an interval of their ratio old / new, which is above 1 if new is faster."""

    old: float
    new: float
    low: float
    high: float
    enough: bool
    least: float

    @property
    def ratio(self) -> float:
        return self.old / self.new

    @property
    def verdict(self) -> str:
        """faster, slower, ? where there are too few observations, and nothing where all may be noise."""
        if abs(self.old - self.new) < self.least * min(self.old, self.new):
            return ""
        if not self.enough:
            return "?"
        return "faster" if self.low > 1 else "slower" if self.high < 1 else ""


def observations(samples: list[float]) -> list[float]:
    """The medians of the turns; a turn of a slow call is one call."""
    length = 1 if statistics.median(samples) > SETTLE_SECONDS else TURN
    return [statistics.median(samples[start : start + length]) for start in range(0, len(samples), length)]


def interval(values: list[float]) -> tuple[float, float]:
    """Two of the values between which their distribution's median lies with CONFIDENCE, or the first and the last."""
    count, outside, rank = len(values), 0.0, 0
    while (outside := outside + math.comb(count, rank) / 2**count) <= (1 - CONFIDENCE) / 2:
        rank += 1
    ordered = sorted(values)
    end = max(rank - 1, 0)
    return ordered[end], ordered[-1 - end]


def change(old: list[float], new: list[float], least: float) -> Change:
    """What became of a time, from the samples of two runs."""
    before, after = observations(old), observations(new)
    (old_low, old_high), (new_low, new_high) = interval(before), interval(after)
    enough = min(len(before), len(after)) >= FEWEST
    medians = statistics.median(before), statistics.median(after)
    return Change(*medians, old_low / new_high, old_high / new_low, enough, least)
