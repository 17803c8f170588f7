"""plan.tune() on the driver of fake_driver.py: what it times, what it keeps, and the file that it keeps it in."""

import json
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_driver import FakeDriver, fixture_of_fake_driver  # noqa: F401
from fake_libraries import Gpu, fixture_of_gpu  # noqa: F401
from machine_code import compiles
from strategies import PASSES, Problem

from numba_fftconv import ConvPlan, CudaError, InvalidOptionError, UnsupportedError, autotune, clear_cache, plan_conv2d
from numba_fftconv.autotune import Winner
from numba_fftconv.cuda import driver, fft2d
from numba_fftconv.cuda.kernels import MODELS, Kernels

LAYER = Problem(3, 4, 13, 12, 5, 3, 3, padding=1, fft_size=None)
KEY = "3x4x13x12 * 5x4x3x3, stride 1x1, padding 1+1 x 1+1, dilation 1x1, groups 1, float32, fp32"
ENTRY = {"fft_size": [20, 20], "planes": 8, "tiles": {"forward": "16x64"}, "seconds": 1.0, "date": "", "version": ""}
WINNER = Winner((20, 20), Kernels(8, (("forward", "16x64"),)))
H200, A100 = (SimpleNamespace(name=name, shared_bytes=232448) for name in ("H200", "A100"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "tuning.json"


def stored(path: Path, device: Any = H200, problem: Problem = LAYER) -> Winner | None:
    return autotune.stored(path, device, problem.plan().geometry, "float32", "fp32")


def written(path: Path, value: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


# ---- the file


def test_a_winner_comes_back_for_its_layer_and_device(path: Path) -> None:
    autotune.store(path, "H200", KEY, WINNER, 0.5)
    other = Winner((16, 16), Kernels(None, ()))
    autotune.store(path, "A100", KEY, other, 0.25)
    assert stored(path) == WINNER and stored(path, A100) == other
    assert stored(path, problem=Problem(3, 4, 13, 12, 5, 3, 3, padding=0, fft_size=None)) is None
    held = json.loads(path.read_text())
    assert held["format"] == 1 and held["devices"]["H200"][KEY]["tiles"] == {"forward": "16x64"}
    assert path.read_text().count("\n") > 10, "a person reads it line by line"
    autotune.store(path, "H200", KEY, other, 0.125)
    assert stored(path) == other and json.loads(path.read_text())["devices"]["H200"][KEY]["seconds"] == 0.125


FOREIGN = {
    "cut short": '{"format": 1, "dev',
    "not text": "\x00\xff\xfe",
    "a list": [1, 2],
    "another format": {"format": 2, "devices": {}},
    "no devices": {"format": 1},
    "devices in a list": {"format": 1, "devices": []},
    "a device that is a word": {"format": 1, "devices": {"H200": "fast"}},
    "nested without end": "[" * 200_000,
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_ignored_with_its_path(text: Any, path: Path) -> None:
    written(path, text)
    with pytest.warns(UserWarning, match=rf"tuning file {path}: it is ignored"):
        assert stored(path) is None
    before = path.read_bytes()
    with pytest.warns(UserWarning, match=rf"tuning file {path}: it is ignored"):
        autotune.store(path, "H200", KEY, WINNER, 1.0)
    assert path.read_bytes() == before, "it is somebody else's"


BAD: dict[str, Any] = {
    "a word": "fast",
    "no size": {"planes": 8, "tiles": {}},
    "a size that no transform has": {**ENTRY, "fft_size": [22, 20]},
    "a size below the kernel": {**ENTRY, "fft_size": [2, 20]},
    "one number": {**ENTRY, "fft_size": 20},
    "planes that a block has not": {**ENTRY, "planes": 7},
    "planes with a point": {**ENTRY, "planes": 8.0},
    "a tile of no product": {**ENTRY, "tiles": {"forward": "17x64"}},
    "a pass that is none": {**ENTRY, "tiles": {"backward": "16x64"}},
    "tiles in a list": {**ENTRY, "tiles": ["16x64"]},
}


@pytest.mark.parametrize("entry", BAD.values(), ids=BAD)
@compiles
def test_an_entry_that_is_wrong_is_ignored_with_the_path(entry: Any, path: Path) -> None:
    written(path, {"format": 1, "devices": {"H200": {KEY: entry}}})
    with pytest.warns(UserWarning, match=rf"tuning file {path}: the entry .* of 'H200' is ignored: "):
        assert stored(path) is None


def test_no_file_is_no_winner_and_no_warning(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stored(path) is None


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file stands where the folder should be: root cannot write there either."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.warns(UserWarning, match=r"cannot be written, the winner is not kept"):
        autotune.store(blocked / "tuning.json", "H200", KEY, WINNER, 1.0)


def test_writers_lose_nothing_of_each_other(path: Path) -> None:
    def write(place: int) -> None:
        for turn in range(5):
            autotune.store(path, f"GPU {place}", f"layer {turn}", WINNER, 1.0)

    writers = [threading.Thread(target=write, args=(place,)) for place in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    devices = json.loads(path.read_text())["devices"]
    assert {name: len(entries) for name, entries in devices.items()} == {f"GPU {place}": 5 for place in range(6)}
    assert sorted(os.listdir(path.parent)) == ["tuning.json", "tuning.json.lock"], "nothing is left behind"


# ---- the choice


Seen = list[tuple[tuple[int, int], Kernels]]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Times by a rule in the place of the clock: most rows win, most planes, and the tile that is tried last."""
    seen: Seen = []

    def stages(plan: ConvPlan, name: str, arrays: Any) -> dict[str, float]:
        seen.append((plan.fft_size, plan.kernels))
        transform = 10 - plan.fft_size[0] / 64 - (plan.kernels.planes or 0) / 1024
        multiply = 1 / len(seen)
        return {stage.name: multiply if stage.name == "multiply" else transform for stage in plan.stages[name]}

    monkeypatch.setattr(autotune, "_stages", stages)
    clear_cache()
    yield seen
    clear_cache()


@compiles
def test_what_takes_least_wins_and_is_used_when_asked_for(timed: Seen, path: Path, gpu: Gpu) -> None:
    plan = LAYER.plan(device="cuda")
    assert plan.kernels == MODELS
    best = plan.tune(store=path)
    sizes = {size for size, _ in timed}
    assert len(sizes) == autotune.SIZES and plan.fft_size in sizes, "as many sizes as promised, the model's among them"
    planes = fft2d.planes_for(best.fft_size, gpu.driver.shared_bytes)
    assert best.fft_size == max(sizes) != plan.fft_size and best.kernels.planes == max(planes) != planes[0]
    last = [(name, str(autotune._tiles(best, name, driver.device(0))[-1])) for name in PASSES]
    assert list(best.kernels.tiles) == last
    assert f"tuned: {max(planes)} planes a block, forward in tiles of {last[0][1]}" in best.explain()
    assert len(json.loads(path.read_text())["devices"]) == 1
    shapes, options = (LAYER.x_shape, LAYER.w_shape), LAYER.options
    assert plan_conv2d(*shapes, **options, device="cuda", tuning=path) == best != plan
    assert plan_conv2d(*shapes, **options, device="cuda") == plan, "off by default"
    fixed = plan_conv2d(*shapes, **options, device="cuda", fft_size=64, tuning=path)
    assert fixed.fft_size == (64, 64) and fixed.kernels == MODELS, "what a caller asks for stands"
    assert plan_conv2d(*shapes, **options, device="cpu", tuning=path).kernels == MODELS


@compiles
def test_what_cannot_run_does_not_win(timed: Seen, path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the model's choice, whose error is the caller's; from its sources the package has no version."""
    plan, run = LAYER.plan(device="cuda"), autotune._stages

    def stages(each: ConvPlan, name: str, arrays: Any) -> dict[str, float]:
        if each.fft_size != able:
            raise CudaError("no room")
        return run(each, name, arrays)

    def absent(name: str) -> str:
        raise autotune.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(autotune, "_stages", stages)
    monkeypatch.setattr(autotune.metadata, "version", absent)
    able = plan.fft_size
    assert plan.tune(store=path).fft_size == able and '"version": "unknown"' in path.read_text()
    able = (256, 256)
    with pytest.raises(CudaError, match="no room"):
        plan.tune(store=path)


@compiles
def test_a_size_that_is_to_be_kept(timed: Seen, path: Path, gpu: Gpu) -> None:
    plan = LAYER.plan(device="cuda", fft_size=16)
    assert plan.tune(keep_fft_size=True, store=None).fft_size == (16, 16) and not path.exists()
    assert {size for size, _ in timed} == {(16, 16)}


@compiles
def test_the_file_of_this_user(timed: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    best = LAYER.plan(device="cuda").tune()
    assert autotune.default_path() == tmp_path / "numba_fftconv" / "tuning.json"
    assert plan_conv2d(LAYER.x_shape, LAYER.w_shape, **LAYER.options, device="cuda", tuning=True) == best


@pytest.mark.parametrize("device", ["cpu", "sm_90"])
def test_only_a_gpu_is_tuned_for(device: str) -> None:
    with pytest.raises(UnsupportedError, match=f"this plan is for device '{device}': tune one for 'cuda'"):
        LAYER.plan(device=device).tune(store=None)


@pytest.mark.parametrize("value", [1, "", 2.5, b"", ["a"]])
def test_what_is_no_file(value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"tuning is .*: it must be a path"):
        plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3), tuning=value)


# ---- on compiled kernels

SMALL = Problem(2, 3, 6, 6, 3, 3, 3, fft_size=8)


@compiles
def test_the_clock_is_asked(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    """On arrays of its own; the fake clock counts a millisecond a launch."""
    monkeypatch.setattr(autotune, "RUNS", 1)
    plan = SMALL.plan(device="cuda")
    seconds = autotune._stages(plan, "forward", autotune._arrays(plan))
    assert seconds == dict.fromkeys(("transform x", "transform w", "multiply", "inverse y"), 1e-3)


@compiles
def test_kernels_change_no_bit(gpu: Gpu) -> None:
    """Results of other planes a block and other tiles are those of the models."""
    a, want = SMALL.arrays(), {}
    operands = {"forward": (a.x, a.w), "weight_grad": (a.x, a.dy)}
    plan = SMALL.plan(device="cuda")
    made_for = plan.geometry, plan.dtype, plan.precision, plan.fft_size, None, plan.device, plan.target
    from numba_fftconv.plan import _build

    for kernels in (MODELS, Kernels(16, (("forward", "32x32"), ("weight_grad", "64x8")))):
        each = _build(*made_for, kernels)
        for name in ("forward", "weight_grad"):
            made = getattr(each, name)(*map(gpu.array, operands[name])).host
            assert want.setdefault(name, np.array(made)).tobytes() == made.tobytes(), name
