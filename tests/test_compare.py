"""Two results of the benchmark held against each other: noise is not marked, what moved is, all else is told."""
import copy
import json
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PERF = Path(__file__).parents[1] / "perf"
sys.path.append(str(PERF))

import compare  # noqa: E402
import noise  # noqa: E402

TURN = 5


def normal(rng: np.random.Generator, pairs: int, turns: int) -> np.ndarray:
    return 0.01 * (1 + 0.03 * rng.standard_normal((pairs, turns, TURN)))


def skewed(rng: np.random.Generator, pairs: int, turns: int) -> np.ndarray:
    """Tails of single calls to the right, and 3 % that a turn's calls share."""
    tails = 1 + 0.05 * rng.exponential(size=(pairs, turns, TURN))
    return 0.01 * tails * np.exp(0.03 * rng.standard_normal((pairs, turns, 1)))


def spiky(rng: np.random.Generator, pairs: int, turns: int) -> np.ndarray:
    """One turn of seven takes twice as long."""
    disturbed = np.where(rng.random((pairs, turns, 1)) < 1 / 7, 2, 1)
    return 0.01 * np.exp(0.02 * rng.standard_normal((pairs, turns, TURN))) * disturbed


DISTRIBUTIONS = (normal, skewed, spiky)


def marked(draw: Callable[..., np.ndarray], pairs: int, turns: int, shift: float, least: float) -> dict[str, float]:
    """Shares of the verdicts over pairs of runs, the second `shift` times as long."""
    rng = np.random.default_rng(turns)
    old, new = (draw(rng, pairs, turns).reshape(pairs, -1) for _ in range(2))
    verdicts = [noise.change(*pair, least).verdict for pair in zip(old.tolist(), (shift * new).tolist(), strict=True)]
    return {word: verdicts.count(word) / pairs for word in ("faster", "slower", "", "?")}


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
@pytest.mark.parametrize(("turns", "rate"), [(5, 0.012), (7, 0.002), (10, 0.002), (16, 0.002)])
def test_noise_is_marked_as_rarely_as_is_said(draw: Callable[..., np.ndarray], turns: int, rate: float) -> None:
    """Over pairs of runs of one distribution, with nothing too small to be marked."""
    found = marked(draw, 10000, turns, 1.0, 0.0)
    assert found["faster"] + found["slower"] <= rate


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
def test_a_shift_is_found(draw: Callable[..., np.ndarray]) -> None:
    assert marked(draw, 1000, 16, 1.1, 0.03)["slower"] > 0.75
    assert marked(draw, 1000, 16, 1 / 1.1, 0.03)["faster"] > 0.75
    assert marked(draw, 1000, 16, 1.3, 0.03)["faster"] == 0


def test_a_turn_is_one_observation() -> None:
    """Calls of a turn that are all alike tell as much as one; a call of more than 60 ms is a turn of its own."""
    assert noise.observations([1e-3] * 7 + [3e-3] * 3) == [1e-3, 3e-3]
    assert noise.observations([0.1, 0.2, 0.3]) == [0.1, 0.2, 0.3]


def test_intervals_by_binomial_probabilities() -> None:
    """Of 16 the fourth from each end: that three or fewer lie below the median has probability 697 / 65536."""
    assert noise.interval([float(n) for n in range(16, 0, -1)]) == (4, 13)
    assert noise.interval([3.0, 1.0, 2.0]) == (1, 3)


def test_what_cannot_be_told_and_what_is_small() -> None:
    few, many = [1e-3] * 4 * TURN, [1e-3] * 5 * TURN
    assert noise.change(few, [2e-3] * 80, 0.03).verdict == "?"
    assert noise.change(many, [2e-3] * 25, 0.03).verdict == "slower"
    assert noise.change(many, [1.02e-3] * 25, 0.03).verdict == ""
    assert noise.change(few, [1.02e-3] * 20, 0.03).verdict == ""
    assert noise.change(many, [1.031e-3] * 25, 0.03).verdict == "slower"
    assert noise.change(many, [1.02e-3] * 25, 0.01).verdict == "slower"


@pytest.mark.parametrize("path", sorted((PERF / "results").glob("*.json")), ids=lambda path: path.stem)
def test_two_halves_of_a_run_that_was_measured(path: Path) -> None:
    """Every other turn of each contestant, where there are turns enough for two halves."""
    verdicts = []
    for row in json.loads(path.read_text()).get("rows", ()):
        for samples in (row["ours"], *row["peers"].values()):
            turns = [samples[start : start + TURN] for start in range(0, len(samples), TURN)]
            halves = [list(chain.from_iterable(turns[first::2])) for first in (0, 1)]
            if len(turns) >= 2 * noise.FEWEST and max(samples) < noise.SETTLE_SECONDS:
                verdicts.append(noise.change(*halves, 0.03).verdict)
    assert verdicts.count("faster") + verdicts.count("slower") <= 0.02 * len(verdicts)


# ---- files


def row(layer: str, seconds: float, peer: float, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(len(layer))
    ours, theirs = (once * (1 + 0.01 * rng.standard_normal(80)) for once in (seconds, peer))
    named = {"layer": layer, "problem": "1x1x8x8 -> 1, 3x3", "pass_name": "forward"}
    stages = {"transform x": seconds / 4, "multiply": seconds / 2}
    return {**named, "ours": ours.tolist(), "peers": {"torch": theirs.tolist()}, "stages": stages, **more}


def result() -> dict[str, Any]:
    """A run with every part, on a device of its own."""
    call = {"layer": "a/1", "problem": "p", "pass_name": "forward"}
    return {
        "about": {"device": "GPU of tests", "versions": {"torch": "2.0"}, "date": "then", "load_average": 0.1},
        "options": {"batch": 16},
        "rows": [row("a/1", 1e-3, 2e-3), row("a/2", 2e-3, 3e-3), row("a/3", 3e-3, 4e-3)],
        "scaling": [row("scaling/kernel-3", 1e-3, 1e-3, sweep="kernel", value=3)],
        "memory": [{**call, "peak_bytes": {"ours": {"ours": 1000}}, "absent": {}}],
        "launch": {"problem": "p", "pass_name": "forward", "seconds": {"ours": {"conv2d": 1e-5}}, "absent": {}},
        "first_calls": [{**call, "cold": {"import": 0.5, "call": 3.0}, "warm": {"import": 0.5, "call": 0.2}}],
    }


Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Writes two files, compares them; exit code, lines and what stands on the error stream."""

    def runs(old: Any, new: Any, *options: str) -> tuple[int, list[str], str]:
        paths = [tmp_path / name for name in ("old.json", "new.json")]
        for path, content in zip(paths, (old, new), strict=True):
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        code = compare.main([*map(str, paths), *options])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return runs


def test_a_run_against_itself(run: Run) -> None:
    code, said, _ = run(result(), result(), "--fail-on-slower")
    assert code == 0
    assert said[0].startswith("layer"), "no warning"
    counts = "0 faster, 0 slower, 4 within noise or 3%, 0 with too few samples to tell"
    assert said[-1] == f"numba_fftconv in 4 rows: {counts}"
    assert "single figures: 0 of 6 differ by 10% or more, noise unknown" in said
    assert not any("only in" in line or "slower" in line for line in said[:-1])


def test_what_moved_is_marked(run: Run) -> None:
    new = result()
    new["rows"][0] |= row("a/1", 1.25e-3, 2e-3)
    new["scaling"][0] |= row("scaling/kernel-3", 0.5e-3, 1e-3)
    code, said, _ = run(result(), new)
    ours = {line.split()[0]: line for line in said if " ours " in line and "times ours" not in line}
    assert code == 0
    assert [layer for layer, line in ours.items() if line.endswith("slower")] == ["a/1"]
    assert [layer for layer, line in ours.items() if line.endswith("faster")] == ["scaling/kernel-3"]
    assert ours["a/1"].split()[2:6] == ["ours", "0.998", "1.247", "0.80"]
    position = said.index(ours["a/1"])
    assert said[position + 1].endswith("2.00 to 1.60 times ours")
    assert said[position + 2].split(": ")[1] == "transform x 0.80, multiply 0.80"
    assert run(result(), new, "--fail-on-slower")[0] == 1
    assert run(new, result(), "--fail-on-slower")[0] == 1, "the scaling part counts"
    assert run(result(), new, "--fail-on-slower", "--least", "0.3")[0] == 0


def test_a_machine_that_moved_is_told_first(run: Run) -> None:
    new = result()
    for each, seconds in zip(new["rows"], (1e-3, 2e-3, 3e-3), strict=True):
        each |= row(each["layer"], seconds, (seconds + 1e-3) / 1.5)
    words = "torch is 1.50 times as fast as it was, in the median of its rows: judge ours by its ratios"
    said = run(result(), new)[1]
    assert said[0] == f"warning: {words}" and said[1].startswith("layer")


def test_code_that_moved_in_all_rows_is_no_machine(run: Run) -> None:
    new = result()
    for each, seconds in zip(new["rows"], (1e-3, 2e-3, 3e-3), strict=True):
        each |= row(each["layer"], seconds / 1.5, seconds + 1e-3)
    said = run(result(), new)[1]
    assert said[0].startswith("layer")
    assert said[-1].startswith("numba_fftconv in 4 rows: 3 faster, 0 slower")


def test_other_devices_versions_and_options_are_told_first(run: Run) -> None:
    new = result()
    new["about"] |= {"device": "another", "versions": {"torch": "2.1", "cudnn": 9}, "date": "now", "load_average": 3.0}
    new["options"]["batch"] = 128
    assert run(result(), new)[1][:4] == [
        "warning: device was GPU of tests, is another",
        "warning: versions.torch was 2.0, is 2.1",
        "warning: options.batch was 16, is 128",
        "warning: versions.cudnn was not told, is 9",
    ]


def test_what_one_file_has_alone(run: Run) -> None:
    new = result()
    del new["rows"][1], new["memory"]
    new["rows"][1]["problem"] = "2x1x8x8 -> 1, 3x3"
    new["rows"][0]["peers"]["scipy"] = [1e-3] * 80
    _, said, _ = run(result(), new)
    assert [line for line in said if line.startswith("only")] == [
        "only in old: a/2, 1x1x8x8 -> 1, 3x3, forward",
        "only in old: a/3, 1x1x8x8 -> 1, 3x3, forward",
        "only in new: a/1, 1x1x8x8 -> 1, 3x3, forward, scipy",
        "only in new: a/3, 2x1x8x8 -> 1, 3x3, forward",
    ]
    assert said[-1].startswith("numba_fftconv in 2 rows: ")


def test_single_figures(run: Run) -> None:
    """Of any part: shown from a tenth on, and no failure."""
    new = result()
    new["memory"][0]["peak_bytes"]["ours"]["ours"] = 2000
    new["first_calls"][0]["cold"]["call"] = 3.2
    new["launch"]["seconds"]["ours"]["conv2d"] = 8.9e-6
    code, said, _ = run(result(), new, "--fail-on-slower")
    assert code == 0
    assert [line for line in said if line.startswith(("memory", "first", "launch", "single"))] == [
        "memory, a/1, p, forward, peak_bytes, ours, ours: 1000 to 2000, 0.50",
        "launch, seconds, ours, conv2d: 1e-05 to 8.9e-06, 1.12",
        "single figures: 2 of 6 differ by 10% or more, noise unknown",
    ]


def test_peaks_and_host_times_that_stand_in_rows(run: Run) -> None:
    old, new = result(), result()
    old["rows"][0] |= {"host": 1e-5, "peak_bytes": {"ours": 100, "torch": 50}}
    new["rows"][0] |= {"host": 2e-5, "peak_bytes": {"ours": 100, "torch": 100}}
    said = run(old, new)[1]
    assert "rows, a/1, 1x1x8x8 -> 1, 3x3, forward, host: 1e-05 to 2e-05, 0.50" in said
    assert "rows, a/1, 1x1x8x8 -> 1, 3x3, forward, peak_bytes, torch: 50 to 100, 0.50" in said


def test_runs_of_some_parts(run: Run) -> None:
    old = {key: value for key, value in result().items() if key in ("about", "options", "launch")}
    code, said, _ = run(old, copy.deepcopy(old))
    assert code == 0 and said[-1].startswith("numba_fftconv in 0 rows")


def without(*path: Any) -> dict[str, Any]:
    """A result that lacks what stands at the end of the path."""
    broken = result()
    holder = broken
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return broken


def with_samples(samples: Any) -> dict[str, Any]:
    broken = result()
    broken["rows"][0]["ours"] = samples
    return broken


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "Expecting property name"),
        ("[1]", "it holds no object"),
        ({"about": {}}, "it holds none of rows, scaling, memory, launch, first_calls"),
        (without("about"), "'about' is missing"),
        (without("rows", 0, "ours"), "'ours' is missing"),
        (without("rows", 0, "pass_name"), "'pass_name' is missing"),
        (with_samples([]), "a/1 1x1x8x8 -> 1, 3x3 forward: ours has samples that are no positive seconds"),
        (with_samples([1e-3, 0.0]), "ours has samples that are no positive seconds"),
        (with_samples([1e-3, float("nan")]), "ours has samples that are no positive seconds"),
        (with_samples([1e-3, float("inf")]), "ours has samples that are no positive seconds"),
        (with_samples(["1e-3"]), "ours has samples that are no positive seconds"),
        (with_samples(5), "not iterable"),
        ({"about": {}, "rows": 5}, "not iterable"),
        ({"about": {}, "rows": [5]}, "not subscriptable"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_no_result(run: Run, content: Any, words: str) -> None:
    for old, new, name in ((content, result(), "old.json"), (result(), content, "new.json")):
        code, said, errors = run(old, new)
        assert (code, said) == (2, [])
        assert errors.count("\n") == 1
        assert f"{name} is not a result of perf/bench.py: " in errors and words in errors, errors


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.json"
    assert compare.main([str(path), str(path)]) == 2
    assert capsys.readouterr().err == f"{path} cannot be read: No such file or directory\n"
