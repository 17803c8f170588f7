"""The demo: its scene against the definition, its two descents on a part of the photograph, its exit codes."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.image import imread

from numba_fftconv import __main__ as command_line
from numba_fftconv import demo, plan_conv2d, scene, tiny


@pytest.fixture(scope="module")
def photo() -> scene.Planes:
    """A part of the photograph with the eyes and the cap's badge."""
    return np.ascontiguousarray(scene.photograph()[..., 20:180, 150:310])


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def passes(images: int, side: int) -> demo.Stopwatch:
    shape = (images, 1, side, side)
    return demo.Stopwatch("test", plan_conv2d(shape, (1, 1, scene.LENS_SIDE, scene.LENS_SIDE), device="cpu"))


def ignore(*_: object) -> None:
    """A watch that sees nothing."""


def test_the_photograph_has_three_planes_from_0_to_1() -> None:
    whole = scene.photograph()
    assert whole.shape == (3, 1, 600, 512) and whole.dtype == np.float32
    assert whole.min() == 0 and whole.max() == 1


def test_the_lens_is_a_blur_that_no_mirror_image_shares() -> None:
    kernel = scene.lens()[0, 0]
    assert kernel.shape == (15, 15) and kernel.min() == 0
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    for mirrored in (kernel[::-1], kernel[:, ::-1], kernel[::-1, ::-1], kernel.T):
        assert scene.relative_error(mirrored, kernel) > 0.2


def test_photographed_is_the_definition_and_noise(photo: scene.Planes) -> None:
    impulse = np.zeros((1, 1, 15, 15), np.float32)
    impulse[0, 0, 2, 11] = 0.5
    noise = scene.photographed(photo, impulse) - 0.5 * photo[..., 2:148, 11:157]
    assert noise.mean() == pytest.approx(0, abs=2e-4)
    assert noise.std() == pytest.approx(0.01, rel=0.02)
    assert np.abs(np.corrcoef(noise.ravel(), photo[..., 2:148, 11:157].ravel())[0, 1]) < 0.02


def test_psnr_of_a_known_error() -> None:
    truth = np.full((3, 1, 8, 8), 0.5, np.float32)
    assert scene.psnr(truth + np.float32(0.1), truth) == pytest.approx(20, abs=1e-4)
    assert scene.psnr(truth + 7, truth) == pytest.approx(10 * np.log10(4), abs=1e-4)


def test_descend_finds_the_least_loss_within_the_bounds() -> None:
    stiffness = np.geomspace(1, 100, 12).astype(np.float32)
    centre = np.linspace(-0.5, 1.5, 12).astype(np.float32)
    seen: list[float] = []

    def gradient(x: scene.Planes) -> tuple[float, scene.Planes]:
        return float(np.sum(stiffness * (x - centre) ** 2) / 2), stiffness * (x - centre)

    found = demo.descend(
        gradient, np.full(12, 0.9, np.float32), 100.0, 1.0, 150, lambda step, loss, x: seen.append(loss)
    )
    np.testing.assert_allclose(found, np.clip(centre, 0, 1), atol=1e-5)
    assert len(seen) == 150 and found.dtype == np.float32


def test_the_slope_of_roughness_agrees_with_finite_differences() -> None:
    rng = np.random.default_rng(2)
    planes, direction = (rng.standard_normal((2, 1, 6, 7)) for _ in range(2))
    planes *= 0.02
    step = 1e-6
    rise = (demo.roughness(planes + step * direction)[0] - demo.roughness(planes - step * direction)[0]) / (2 * step)
    assert float(np.vdot(demo.roughness(planes)[1], direction)) == pytest.approx(rise, rel=1e-6)


def test_learn_finds_the_lens(photo: scene.Planes) -> None:
    blurred = scene.photographed(photo, scene.lens())
    errors: list[float] = []

    def watch(step: int, loss: float, kernel: scene.Planes) -> None:
        errors.append(scene.relative_error(kernel, scene.lens()))

    kernel = demo.learn(passes(6, 159), photo, blurred, 20, watch)
    assert kernel.min() >= 0 and kernel.sum() == pytest.approx(1, abs=1e-5)
    assert scene.relative_error(kernel, scene.lens()) < 0.1 < errors[0]


def test_deblur_brings_the_photo_back(photo: scene.Planes) -> None:
    blurred = scene.photographed(photo, scene.lens())
    estimate = demo.deblur(passes(3, 160), blurred, scene.lens(), 40, ignore)
    before = scene.psnr(blurred, scene.inside(photo))
    assert estimate.shape == photo.shape
    assert scene.psnr(scene.inside(estimate), scene.inside(photo)) > before + 5


def test_a_kernel_that_was_not_learned_fails_with_the_numbers(
    photo: scene.Planes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main("cpu", 0, photo) == 1
    said = capsys.readouterr().out.splitlines()
    flat = np.full_like(scene.lens(), 1 / 225)
    assert said[-2].startswith(f"learned kernel: {scene.relative_error(flat, scene.lens()):.2%} relative L2 error")
    assert said[-2].endswith("at most 5% is allowed: FAIL")
    assert "at least 3 dB is wanted: FAIL" in said[-1]


def test_a_nan_is_a_failure() -> None:
    planes = np.full((3, 1, 40, 40), 0.5, np.float32)
    spoilt = planes * np.float32(np.nan)
    outcome = demo.Outcome(planes, scene.inside(planes) + 1, scene.lens(), scene.lens(), spoilt, {}, [])
    assert not outcome.passed
    assert not demo.Outcome(planes, planes, scene.lens(), scene.lens() * np.nan, planes, {}, []).passed


def test_the_whole_job_by_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "numba_fftconv", "demo"]
    environment = {**os.environ, "PYTHONPATH": str(Path(demo.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in said[-2:]] == ["PASS", "PASS"]
    rows = [("learn", "forward"), ("learn", "weight_grad"), ("deblur", "forward"), ("deblur", "input_grad")]
    for problem, pass_name in rows:
        row = next(line.split() for line in said if line.split()[:2] == [problem, pass_name])
        assert re.fullmatch(r"\d+x\d+", row[2]) and all(float(figure) > 0 for figure in row[3:]), row
    (seconds,) = (float(line.split()[-2]) for line in said if line.startswith("picture: "))
    assert seconds < 60, "the demo promises to take less than a minute on two cores; 11 s with no kernel compiled"
    picture = imread(tmp_path / demo.PICTURE)
    assert picture.shape[0] > 800 and picture.shape[1] > 1000
    panels = np.array_split(picture[: picture.shape[0] // 2], 3, axis=1)
    assert all(panel.std() > 0.1 for panel in panels)


@pytest.mark.parametrize("words", ["", "dmeo", "demo --steps -1", "demo --steps many", "demo -x"])
def test_wrong_words_exit_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command_line.main(words.split())
    assert stopped.value.code == 2
    assert "usage: python -m numba_fftconv" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["tpu", "sm_90"])
def test_a_device_that_cannot_run_it_exits_with_2(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["demo", "--device", device]) == 2
    assert device in capsys.readouterr().err
    assert not Path(demo.PICTURE).exists()


def test_without_matplotlib_it_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command_line.main(["demo"]) == 2
    assert "[demo]" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_exits_with_2(
    photo: scene.Planes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(demo.PICTURE).mkdir()
    assert demo.main("cpu", 0, photo) == 2
    assert demo.PICTURE in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_writes_one_line_over_on_a_terminal_and_few_lines_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        show = demo.Progress(stream, "learn", 30)
        for step in range(30):
            show(step, "loss 1")
    assert terminal.getvalue().count("\r") == 30 and terminal.getvalue().count("\n") == 1
    assert [line.split()[2] for line in pipe.getvalue().splitlines()] == ["1", "21", "30"]


@pytest.mark.parametrize(("library", "word"), [("numpy", "import numpy"), ("torch", "conv2d(torch.randn")])
def test_the_lines_of_use_in_the_readme_run(library: str, word: str) -> None:
    pytest.importorskip(library)
    names: dict[str, Any] = {}
    exec(lines_of_readme(word), names)
    assert type(names["y"]).__module__.startswith(library) and tuple(names["y"].shape) == (16, 64, 32, 32)


def test_the_lines_of_training_in_the_readme_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A model that is converted; spectra that a training step shares, in NumPy."""
    pytest.importorskip("torch")
    names: dict[str, Any] = {}
    exec(lines_of_readme("convert(model"), names)
    said = capsys.readouterr().out
    assert [type(layer).__name__ for layer in names["model"]] == ["Conv2d", "FFTConv2d"], said
    assert "FFTConv2d" in said and said.count("\n") == 3
    exec(lines_of_readme("import numpy") + lines_of_readme("transform_input"), names)
    assert (names["dx"].shape, names["dw"].shape) == (names["x"].shape, names["w"].shape)


def test_the_lines_of_dask_in_the_readme_run() -> None:
    """Nothing of the ten billion samples is computed."""
    pytest.importorskip("dask")
    names: dict[str, Any] = {"np": np}
    exec(lines_of_readme("import dask"), names)
    assert names["blurred"].shape == (100_000, 100_000) and names["blurred"].dtype == np.float32


def lines_of_readme(word: str) -> str:
    """The one block of Python in README that holds a word."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (lines,) = (part for part in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if word in part)
    return lines


def test_the_stages_in_the_readme_are_a_layer() -> None:
    names: dict[str, Any] = {}
    exec(lines_of_readme("import numpy") + lines_of_readme("frequencies"), names)
    want = names["conv2d"](names["x"], names["w"])
    assert np.linalg.norm(names["y"] - want) <= 1e-6 * np.linalg.norm(want)


# ---- without a GPU on the kernels of a GPU


def test_the_simulated_demo_passes() -> None:
    """In a process that starts another with the simulator on."""
    pytest.importorskip("greenlet")
    command = [sys.executable, "-m", "numba_fftconv", "demo", "--device", "sim"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("forward", "input_grad", "weight_grad"):
        assert re.search(rf"^{name} +\d+ +\d+ .*the same$", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.rstrip().endswith("PASS")


@pytest.mark.parametrize("changed", [{"error": 1e-3}, {"error": float("nan")}, {"same": False}])
def test_the_simulated_demo_fails_where_a_pass_is_off(changed: dict[str, Any], capsys: Any) -> None:
    good = tiny.Row("forward", 4, 100, 0.1, 1e-7, True)
    assert tiny.verdict([good, good]) == 0
    assert tiny.verdict([good, good._replace(**changed)]) == 1
    assert capsys.readouterr().out.rstrip().endswith("FAIL")
