"""perf/bench.py runs as a whole, says what is missing and goes on, and its figures follow from its samples.

The benchmark runs as a user runs it, in a process of its own, on one layer; where torch and scipy are to be missing, a
folder that comes first on the path has modules of their names that cannot be imported.
"""
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from numba_fftconv import plan_conv2d

ROOT = Path(__file__).parents[1]
PERF = ROOT / "perf"
LAYER, PASS = "speed/image-k5", "forward"
SMALL = (LAYER, "--passes", PASS, "--batch", "1", "--threads", "1", "--quick", "--device", "cpu")
PARTS = ("layers", "training", "scaling", "memory", "launch", "jit")
MARKERS = "before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="peaks come from Linux's /proc")


def bench(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PERF / "bench.py"), *words]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)


def result_in(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def leaves(value: Any) -> Iterator[Any]:
    """Every number in nested dictionaries and lists."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    elif isinstance(value, int | float):
        yield value


@pytest.fixture
def perf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of perf/ can be imported."""
    monkeypatch.syspath_prepend(str(PERF))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One run with every part and every peer: what it printed, its folder, its figures, the README that it wrote."""
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("bench")
    readme = folder / "README.md"
    readme.write_text(MARKERS)
    done = bench(*SMALL, "--json", str(folder / "results"), "--readme", str(readme))
    assert done.returncode == 0, done.stdout + done.stderr
    figures = result_in(folder / "results")
    return SimpleNamespace(said=done.stdout, folder=folder / "results", figures=figures, readme=readme.read_text())


def test_one_json_holds_every_part(whole: SimpleNamespace) -> None:
    figures = whole.figures
    assert figures["parts"] == list(PARTS)
    assert [(row["layer"], row["pass_name"]) for row in figures["rows"]] == [(LAYER, PASS)]
    points = [(point["sweep"], point["value"]) for point in figures["scaling"]]
    assert len(points) == len(set(points)) == 8
    assert {sweep for sweep, _ in points} == set(figures["sweeps"]) == {"kernel", "image", "batch", "channels"}
    assert set(figures["memory"][0]["peak_bytes"]) == {"ours", "torch", "torch.fft"}
    assert set(figures["launch"]["seconds"]) == {"ours", "torch", "torch.fft", "scipy"}
    assert figures["first_calls"][0]["cold"]["call"] > 0 and figures["first_calls"][0]["warm"]["call"] > 0
    assert figures["yardstick"]["copy"] > 0
    assert all(math.isfinite(number) for number in leaves(figures))


def test_training_is_measured_against_torch(whole: SimpleNamespace) -> None:
    """A net, a layer by each policy, and the door; a ratio is that of medians to the first contestant."""
    training = whole.figures["training"]
    (net,), (step,), (door,) = training["nets"], training["steps"], training["door"]
    assert set(net["contestants"]) == {"FFTConv2d", "nn.Conv2d contiguous", "nn.Conv2d channels_last"}
    assert {'save="none"', 'save="all"', "torch"} < set(step["contestants"]) and step["name"] == LAYER
    for row in (net, step):
        base = median(row["contestants"][row["base"]]["seconds"])
        for each in row["contestants"].values():
            assert each["ratio"] == pytest.approx(median(each["seconds"]) / base)
    operands = 4 * (64 * 32 * 32 + 64 * 64 * 25)
    assert step["contestants"]['save="none"']["waiting"] == operands
    assert step["contestants"]['save="all"']["waiting"] >= operands
    assert min(door["seconds"].values()) > 0


def test_ratios_follow_from_the_samples(whole: SimpleNamespace) -> None:
    for row in [*whole.figures["rows"], *whole.figures["scaling"]]:
        assert {"torch", "torch.fft"} <= set(row["peers"])
        for peer, samples in row["peers"].items():
            assert row["ratios"][peer]["ratio"] == pytest.approx(median(samples) / median(row["ours"]))
        assert row["share_of_bound"] == pytest.approx(row["bound"] / median(row["ours"]))
        assert set(row["stage_bounds"]) == set(row["stages"])
        assert row["error"] <= row["tolerance"]


@ON_LINUX
def test_a_peak_holds_at_least_the_result(whole: SimpleNamespace) -> None:
    nbytes = 64 * 28 * 28 * 4
    for who, by_setting in whole.figures["memory"][0]["peak_bytes"].items():
        assert nbytes / 2 < min(by_setting.values()), f"{who}: the result alone has {nbytes} bytes"


def test_plots_show_something(whole: SimpleNamespace) -> None:
    from matplotlib import image

    plots = sorted(whole.folder.glob("*.png"))
    names = ("layers", "memory", "stages", "sweeps-forward")
    assert [plot.stem.split("quick-")[1] for plot in plots] == list(names)
    for plot in plots:
        pixels = image.imread(plot)[..., :3]
        coloured = np.ptp(pixels, axis=2) > 0.3
        assert coloured.sum() > 200, f"{plot.name} has {coloured.sum()} coloured pixels: no marks, no lines"


def test_readme_is_replaced_between_its_markers(whole: SimpleNamespace) -> None:
    head, rest = whole.readme.split("<!-- bench:begin -->")
    inside, tail = rest.split("<!-- bench:end -->")
    assert (head, tail) == ("before\n", "\nafter\n")
    assert f"| {LAYER} | 1x64x32x32 -> 64, 5x5 |" in inside and "old" not in inside
    assert "](results/" in inside and (whole.folder / inside.split("](results/")[1].split(")")[0]).exists()
    row = whole.figures["rows"][0]
    assert f"{median(row['ours']) * 1e3:.2f} ms, {row['ratios']['torch']['ratio']:.1f}x torch" in inside


def test_without_torch_and_scipy_and_matplotlib_it_says_so_and_goes_on(tmp_path: Path) -> None:
    for name in ("torch", "scipy", "matplotlib"):
        stand_in = tmp_path / "missing" / f"{name}.py"
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f"raise ModuleNotFoundError('not here', name={name!r})\n")
    path = os.pathsep.join([str(tmp_path / "missing"), os.environ.get("PYTHONPATH", "")])
    words = ("--json", str(tmp_path / "results"), "--parts", "layers", "memory", "launch")
    done = bench(*SMALL, *words, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert said.count("torch: torch is not installed") == 2, done.stdout  # of the layer and of its memory
    assert "scipy: scipy is not installed" in said and "no plots: matplotlib is not installed" in said
    figures = result_in(tmp_path / "results")
    (row,) = figures["rows"]
    assert row["peers"] == {} and set(row["absent"]) == {"torch", "torch.fft", "scipy"}
    assert 0 < row["error"] <= row["tolerance"] and min(row["ours"]) > 0
    assert set(figures["yardstick"]["by"].values()) == {"NumPy"}
    assert set(figures["launch"]["seconds"]) == {"ours"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--readme", "--quick"], "leave out --quick, or name a copy"),
        (["--readme", "--parts", "launch"], "--parts are launch: add layers"),
        (["nothing/k5"], "no layer is named 'nothing/k5'"),
        (["--rounds", "0"], "at least 1"),
    ],
)
def test_a_wrong_word_is_told_before_anything_runs(words: list[str], told: str) -> None:
    done = bench(*words, "--device", "cpu")
    assert done.returncode == 2 and told in done.stderr and not done.stdout


def test_a_readme_without_markers_is_refused(perf: None, tmp_path: Path) -> None:
    import readme

    path = tmp_path / "README.md"
    path.write_text("<!-- bench:end --> <!-- bench:begin -->")
    with pytest.raises(ValueError, match=r"README.md needs one line <!-- bench:begin -->"):
        readme.write(path, "table", "bench")
    assert path.read_text() == "<!-- bench:end --> <!-- bench:begin -->"


def test_a_cell_has_the_fastest_the_promised_and_the_imprecise(perf: None) -> None:
    import readme
    from row import Row

    peers = {"torch": [6e-3], "torch.fft": [4e-3], "scipy": [8e-3], "torch tf32": [1e-3]}
    row = Row("a", "b", "forward", 8, 1, 1, 1.0, 0.0, 1.0, ours=[2e-3], peers=peers, targets={"scipy": 5.0})
    assert readme.cell(row) == "2.00 ms, 2.0x torch.fft, 4.0x scipy (≥ 5, MISS), 0.5x torch tf32"
    row.peers = {}
    assert readme.cell(row) == "2.00 ms"


@pytest.mark.parametrize("pass_name", ["forward", "input_grad", "weight_grad"])
def test_a_wrong_element_is_seen_without_torch(perf: None, monkeypatch: pytest.MonkeyPatch, pass_name: str) -> None:
    import check
    import libraries
    import ours
    import peers
    from layers import Layer
    from place import Place

    monkeypatch.setattr(libraries, "installed", lambda name: None)
    layer = Layer("drawn", "here", 2, 4, 9, 8, 6, 3, 2, padding=(1, 0), stride=(2, 1), groups=2)
    arrays = peers.operands(layer)
    result = ours.call(layer, pass_name, **arrays)
    assert 0 < check.sampled_error(layer, pass_name, arrays, result, Place()) < 5e-7
    result[0, 0, 0, 0] += 1e-3 * abs(result).max()
    assert check.sampled_error(layer, pass_name, arrays, result, Place()) > 1e-5
    wrong = result.copy()
    wrong[-1, -1, -1, -1] = np.nan
    with pytest.raises(check.WrongResultError, match=r"a peer and numba_fftconv differ by more than 0\.001"):
        check.require_agreement("a peer", result, wrong, 1e-3)


@pytest.mark.parametrize("pass_name", ["forward", "input_grad", "weight_grad"])
def test_the_product_that_bounds_a_stage_has_its_flops(perf: None, pass_name: str) -> None:
    import stage_bounds

    plan = plan_conv2d((3, 4, 40, 24), (10, 2, 5, 5), groups=2, device="cpu")
    first, second = stage_bounds.product_shapes(plan, pass_name) or pytest.fail("two channels are summed")
    flops = next(stage.flops for stage in plan.stages[pass_name] if stage.name == "multiply")
    assert first[0] == second[0] and first[2] == second[1]
    assert 8 * math.prod(first) * second[2] == flops
    depthwise = plan_conv2d((3, 4, 40, 24), (4, 1, 5, 5), groups=4, device="cpu")
    assert stage_bounds.product_shapes(depthwise, pass_name) is None


def test_shade_begins_where_the_lines_cross(perf: None) -> None:
    pytest.importorskip("matplotlib")
    import plots

    values, loses = plots.losing(np.array([1.0, 16.0]), np.array([8.0, 8.0]), np.array([2.0, 32.0]))
    assert loses[0] and not loses[-1]
    assert values[loses].max() == pytest.approx(4, rel=0.01)


@ON_LINUX
def test_a_rise_is_what_a_call_holds_at_once(perf: None) -> None:
    from memory import GIVE_BACK

    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import memory, numpy as np\n"
        "kept = np.ones(1 << 22)\n"
        "def call():\n"
        "    space = np.ones(3 << 20)\n"
        "    del space\n"
        "    return np.ones(1 << 20)\n"
        "print(memory.rise(call))"
    )
    command, environment = [sys.executable, "-c", code, str(PERF)], {**os.environ, **GIVE_BACK}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(3 * 8 << 20, abs=1 << 20)


@pytest.mark.parametrize(("word", "looser"), [("fp32", 1), ("tf32x3", 1), ("bf16x3", 20), ("tf32", 1000)])
def test_a_precision_is_that_of_float32_layers_and_has_its_own_tolerance(word: str, looser: float, perf: None) -> None:
    """Names are of results: those of two precisions do not overwrite each other. On a CPU all are as exact as fp32."""
    import bench as command
    import check
    import ours

    chosen = command.arguments([LAYER, "speed/float64-k9", "--device", "cpu", "--precision", word])
    single, double = sorted(chosen.layers, key=lambda layer: layer.dtype)
    assert (single.precision, double.precision) == (word, None) and single.problem.endswith(word)
    on_cpu = ours.plan(single, "cpu")
    on_gpu = SimpleNamespace(device="cuda:0", precision=word, segments=on_cpu.segments)
    assert on_cpu.precision == word and check.tolerance(single, on_cpu, PASS) == check.ERRORS["float32"]
    assert check.tolerance(single, on_gpu, PASS) == pytest.approx(looser * check.ERRORS["float32"])
