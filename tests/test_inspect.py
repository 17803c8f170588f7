"""inspect: its figures against those that are known by other ways, its page, and what it says of wrong calls."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from machine_code import compiles, reads_code
from numba import cuda, float32

from numba_fftconv import plan_conv2d
from numba_fftconv.__main__ import main
from numba_fftconv.cuda import machine_code
from numba_fftconv.cuda.pointwise import pointwise_kernel
from numba_fftconv.cuda.tensor_tiles import TENSOR_TILES, flops
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.gpus import find_gpu
from numba_fftconv.inspect import custom, library, page
from numba_fftconv.inspect.compiled import one_line
from numba_fftconv.inspect.custom import Given
from numba_fftconv.inspect.report import Report, inspect
from numba_fftconv.inspect.text import text
from numba_fftconv.integers import bins

pytestmark = [compiles, reads_code]
H200 = find_gpu("H200")


def flip(x, y):  # type: ignore[no-untyped-def]
    """A tile of 32 x 32 transposed: columns of shared memory lie in one bank."""
    s = cuda.shared.array((32, 32), float32)
    i, j = cuda.threadIdx.x, cuda.threadIdx.y
    s[j, i] = x[j, i]
    cuda.syncthreads()
    y[j, i] = s[i, j]


def wander(x, y):  # type: ignore[no-untyped-def]
    """An array that the compiler cannot keep in registers, since its index comes from memory."""
    a = cuda.local.array(100, float32)
    i = cuda.threadIdx.x
    for j in range(100):
        a[j] = x[j + i]
    y[i] = a[np.int32(x[i])]


def scale(x, y, factor):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] * factor


def wrong(x):  # type: ignore[no-untyped-def]
    x[x[0]] = 1


def double(x):  # type: ignore[no-untyped-def]
    x[cuda.threadIdx.x] *= 0.3


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels above, as a module that a user would have."""
    module = ModuleType("mine")
    vars(module).update(
        flip=flip, wander=wander, scale=scale, wrong=wrong, double=double, number=3, kernel=pointwise_kernel("forward"),
        jitted=cuda.jit(scale), helper=cuda.jit(device=True)(scale),
        few=cuda.jit(fastmath=True, max_registers=64)(wander),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "mine", module)


def of_library(name: str, **choices: Any) -> Report:
    return inspect(library.subject(name, library.Choices(**choices), H200), H200)


@pytest.fixture(scope="module")
def product() -> Report:
    return of_library("product")


@pytest.fixture(scope="module")
def transform() -> Report:
    return of_library("transform", fft_size=(16, 16))


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_product(product: Report) -> None:
    config = next(tile for tile in TILES if str(tile) == "64x64")
    assert product.kernel == "product_64x64_forward_v2" and product.threads == config.threads == 128
    assert product.loop_mix["FFMA"] == 4 * config.TM * config.TN * config.BK
    assert product.widths["LDS.128"] == (config.TM + config.TN) * config.BK // 2
    assert product.widths["STG.64"] == config.TM * config.TN
    assert product.barriers == 1 and product.code.stack == product.code.local == 0
    assert product.shared == product.dynamic_shared == config.shared_bytes() and product.static_shared == 0
    assert (product.occupancy.blocks, product.occupancy.limiter) == (4, "registers")
    assert product.occupancy.blocks == 65536 // (product.code.registers * product.threads)
    assert sum(product.mix.values()) == len(product.code.instructions)
    share = product.loop_mix["FFMA"] / len(product.code.loop)
    assert 0.85 < share == product.issue_share < 1


def test_product_on_tensor_cores() -> None:
    """Its roof is that of its precision, by the model of tensor_tiles.py."""
    found = of_library("product", precision="tf32x3")
    config = TENSOR_TILES["tf32x3"][0]
    assert found.kernel == "product_tf32x3_64x64_forward_v2" and found.threads == config.threads == 256
    assert found.loop_mix["tensor"] == 48 and found.loop_mix["FFMA"] == 0 and found.issue_share is None
    assert found.shared == config.shared_bytes(True, True) and found.occupancy.blocks == 2
    assert found.banks is not None and {of.ratio for of in found.banks.values()} == {1.0}
    roof, said = found.roofline, text(found)
    assert roof is not None and roof.peak == flops("tf32x3", H200) > H200.flops
    assert roof.seconds == pytest.approx(roof.cost.flops / roof.peak) and roof.bound == "compute"
    assert "on tensor cores, tf32x3" in said and "102 TFLOP/s that a model has of tf32x3" in said
    assert found.as_dict()["roofline"]["precision"] == "tf32x3"


def test_product_is_bound_by_computing(product: Report) -> None:
    """128 images, 64 channels, 64 filters, 514 bins."""
    roof = product.roofline
    assert roof is not None
    assert roof.cost[:2] == (8 * 514 * 128 * 64 * 64, 8 * 514 * (128 * 64 + 64 * 64 + 128 * 64))
    assert roof.bound == "compute" and roof.share_of_peak == pytest.approx(1)
    assert roof.seconds == pytest.approx(roof.cost.flops / 66.9e12, rel=1e-3)
    assert roof.intensity == pytest.approx(25.6) and H200.ridge == pytest.approx(13.94, rel=1e-3)


def test_transform_is_bound_by_memory(transform: Report) -> None:
    """A block has 16 planes of 16 x 16 floats and 130 bins, and the layer 8192 planes of 14 x 14."""
    assert transform.memory is not None and transform.roofline is not None
    assert transform.memory.asked == transform.memory.touched == 16 * (4 * 16 * 16 + 8 * 130)
    roof = transform.roofline
    assert roof.cost.bytes == 8192 * (4 * 14 * 14 + 8 * 130) and roof.bound == "memory"
    assert roof.seconds == pytest.approx(roof.cost.bytes / 4.8e12)
    assert transform.code.loop == [] and transform.issue_share is None
    assert transform.threads == 128 and transform.barriers == 1
    assert transform.banks is not None and {of.ratio for of in transform.banks.values()} == {1.0}


@pytest.mark.parametrize("name, stage", [("transform", 0), ("product", 2), ("inverse", 3)])
def test_costs_are_those_of_a_plan(name: str, stage: int) -> None:
    plan = plan_conv2d((128, 64, 30, 30), (64, 64, 3, 3), padding=1, fft_size=32)
    expected = plan.stages["forward"][stage]
    found = library.cost(name, (32, 32), library.Choices())
    assert found[:2] == (expected.flops, expected.bytes) and expected.name in found.problem


def test_options_choose_the_specialisation() -> None:
    def name(kernel: str, **choices: Any) -> str:
        return library.subject(kernel, library.Choices(**choices), H200).kernel.name

    assert name("product", tile="16x64", pass_name="weight_grad", vec=1) == "product_16x64_weight_grad_v1"
    assert name("inverse", fft_size=(64, 64), planes=2) == "inverse_t64_b2"
    assert name("transform", fft_size=(24, 24)) == "transform_t24_b16"
    assert name("transform", fft_size=(20, 64)) == "transform_t20x64_b16"
    assert name("transform-columns", fft_size=(256, 32)) == "transform_columns_t256"
    assert name("transform-rows", fft_size=(256, 32)) == "transform_rows_t32"
    assert name("inverse-rows") == "inverse_rows_t128" and name("inverse-columns") == "inverse_columns_t128"


def test_passes_of_a_large_transform() -> None:
    """8 x 128: a block has 32 columns of 8 planes, or of 32 planes the first row between the passes, which is two."""
    R, C = size = (8, 128)
    found = {name: of_library(name, fft_size=size) for name in library.TWO_PASSES}
    for name, report in found.items():
        assert report.memory is not None and report.roofline is not None and report.code.stack == 0
        assert report.roofline.bound == "memory" and report.roofline.cost.problem.startswith(name.split("-")[1])
        assert report.banks is not None and all(of.ratio == 1 for of in report.banks.values())
    moved = {name: report.memory.asked for name, report in found.items() if report.memory}
    assert moved["transform-columns"] == moved["inverse-columns"] == 32 * 8 * (4 * R + 8 * (R // 2))
    assert moved["transform-rows"] == moved["inverse-rows"] == 32 * 8 * (C + C + 2)
    cost = {name: report.roofline.cost for name, report in found.items() if report.roofline}
    height, width = R - 2, C - 2
    assert cost["transform-columns"].bytes == 128 * 64 * (4 * height * width + 8 * (R // 2) * width)
    assert cost["inverse-rows"].bytes == 128 * 64 * (8 * (R // 2) * width + 8 * bins(size))
    whole = library.cost("transform", size, library.Choices())
    assert cost["transform-columns"].flops + cost["transform-rows"].flops <= whole.flops


def test_a_kernel_with_conflicts() -> None:
    given = Given("float32[:,::1], float32[:,::1]", threads=(32, 32, 1), launch="arange(32,32) zeros(32, 32)")
    found = inspect(custom.subject("mine:flip", given), H200)
    assert found.banks is not None and found.memory is not None and found.roofline is not None
    kinds = {kind: (n.warps, n.ratio) for (kind, line), n in found.banks.items() if line.startswith("test_inspect.py:")}
    assert kinds == {"st.32": (32, 1.0), "ld.32": (32, 32.0)}
    assert (found.static_shared, found.dynamic_shared, found.threads) == (4096, 0, 1024)
    assert found.memory.asked == found.memory.moved == 2 * 4 * 1024
    assert found.roofline.cost[:2] == (0, 8192) and found.roofline.share_of_peak == 0
    assert (found.occupancy.blocks, found.occupancy.share, found.barriers) == (2, 1.0, 1)
    assert "32.00 for each that is needed" in text(found)


def test_a_kernel_that_leaves_the_registers() -> None:
    found = inspect(custom.subject("mine:wander", Given("float32[::1], float32[::1]")), H200)
    assert found.code.stack >= 400 and found.mix["local"] >= 25
    assert found.banks is found.roofline is None and "--launch" in found.missing
    assert "B of local memory beside them" in text(found)


@pytest.mark.parametrize("name", ["scale", "jitted"])
def test_counts_of_a_launch(name: str) -> None:
    """32 blocks of 128 threads, each reads a float, multiplies and writes one."""
    given = Given("float32[::1], float32[::1], float32", launch="ones(4096) zeros(4096) 0.5", grid=(32, 1, 1))
    found = inspect(custom.subject(f"mine:{name}", given), H200)
    assert found.roofline is not None and found.banks == {}
    assert found.roofline.cost[:2] == (4096, 2 * 4 * 4096) and found.roofline.bound == "memory"
    assert found.shared == 0 and found.occupancy.blocks == 16


def test_a_kernel_of_the_toolchain_needs_no_signature() -> None:
    found = inspect(custom.subject("mine:kernel", Given()), H200)
    assert found.kernel == "product_pointwise_forward" and found.shared == 0


def test_options_of_a_jitted_kernel() -> None:
    """Fewer registers are heeded; what is not is said."""
    given = Given("float32[::1], float32[::1]")
    every, few = (inspect(custom.subject(f"mine:{name}", given), H200) for name in ("wander", "few"))
    assert few.code.registers <= 64 < every.code.registers
    assert few.about.endswith("compiled without its fastmath") and "without" not in every.about


def test_what_the_machine_does_not_know_is_said() -> None:
    found = inspect(custom.subject("mine:double", Given("float32[::1]", launch="ones(128)")), H200)
    assert found.banks is None and "f64" in found.missing and found.mix["FP64"] > 0
    said = custom.subject("mine:scale", Given("float32[::1], float32[::1], float64", launch="ones(1) ones(1) 1"))
    assert said.launch is None and "float64" in said.missing


# ---- the command line ------------------------------------------------------------------------------------------------


def test_json_and_sass(capsys: pytest.CaptureFixture[str]) -> None:
    signature = ["--signature", "float32[::1], float32[::1], float32", "--threads", "64", "--arch", "sm_80"]
    assert main(["inspect", "mine:scale", *signature, "--json", "--sass"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        "kernel", "about", "gpu", "arch", "threads", "registers", "stack_bytes", "local_bytes", "shared_bytes",
        "occupancy", "instructions", "loop", "accesses", "barriers", "bank_conflicts", "block_bytes", "roofline",
        "missing", "sass",
    }  # fmt: skip
    assert (found["gpu"], found["arch"], found["threads"]) == ("A100", "sm_80", 64)
    assert found["instructions"]["all"] == sum(found["instructions"]["classes"].values())
    assert found["sass"].count("STG.E") == found["accesses"]["STG.32"] == 1
    assert main(["inspect", "mine:scale", *signature, "--sass"]) == 0
    assert "STG.E" in capsys.readouterr().out


def test_as_a_user_calls_it() -> None:
    command = [sys.executable, "-m", "numba_fftconv", "inspect", "transform", "--fft-size", "8"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    for said in ("transform_t8_b32 on H200, sm_90", "registers", "bank conflicts", "2.00", "bound by moving data"):
        assert said in out


def test_every_figure_of_the_text_has_its_unit(product: Report) -> None:
    said = text(product)
    for line in (
        "registers         128 a thread, nothing spilled",
        "shared memory     30,720 B a block: 30,720 dynamic, 0 static",
        "4 blocks a multiprocessor, 16 of 64 warps (25%), limited by registers",
        "2.16 GFLOP, 84.2 MB: 25.6 FLOP/B; the ridge of H200 is at 13.9 FLOP/B",
        "at least 32.2 us, at most 100% of the float32 peak",
    ):
        assert line in said
    assert max(map(len, said.splitlines())) <= 120


WRONG = [
    (["nothing"], "'nothing' is no kernel: it must be one of product, transform, inverse, or module:kernel"),
    (["no_such:kernel"], "module no_such cannot be imported: ModuleNotFoundError: No module named 'no_such'"),
    (["mine:missing"], "module mine has no kernel 'missing': its kernels are kernel, jitted, few"),
    (["mine:number"], "module mine has no kernel 'number'"),
    (["mine:scale"], 'give --signature "float32[::1], int32"'),
    (["mine:scale", "--signature", "float33"], "signature is 'float33': NameError: name 'float33' is not defined"),
    (["mine:wrong", "--signature", "float32[::1]"], "mine:wrong does not compile: NumbaTypeError: Unsupported array"),
    (["mine:double", "--signature", "float32[::1]", "--launch", "ones(128) 3"], "launch has 2 arguments: the kernel"),
    (["mine:double", "--signature", "float32[::1]", "--launch", "3"], "wants an array, such as zeros(4096)"),
    (["mine:double", "--signature", "int32", "--launch", "ones(3)"], "int32 wants a number"),
    (["mine:double", "--signature", "float32[::1]", "--launch", "twos(3)"], "launch has 'twos(3)': it must be numbers"),
    (["mine:double", "--signature", "float32[::1]", "--launch", "ones(3,3)"], "launch has extents (3, 3)"),
    (["mine:double", "--signature", "float32[::1]", "--launch", "ones(99999999)"], "99,999,999 elements: a block"),
    (["mine:double", "--signature", "float32[::1]", "--threads", "64x32"], "threads is '64x32', 2,048: it must be at"),
    (["mine:double", "--signature", "float32[::1]", "--threads", "0"], "threads is '0': it must be extents such as"),
    (["mine:kernel", "--threads", "64"], "is a Kernel and says --threads itself: leave that away"),
    (["mine:helper", "--signature", "float32"], "mine:helper is a device function: give a kernel that calls it"),
    (["mine:double", "--signature", "float32[::1]", "--shared", "-1"], "shared is -1: it must be bytes, 0 or more"),
    (["product", "--arch", "sm_75"], "arch is 'sm_75': it must be one of sm_80 (A100), sm_86 (A40), sm_89 (L40S), sm_"),
    (["product", "--gpu", "K80"], "gpu is 'K80': it must be one of H200, H100, A100, A40, L40S, RTX 4090"),
    (["product", "--tile", "65x64"], "tile is '65x64': for fp32 it must be one of 128x128, 128x64"),
    (["product", "--pass", "back"], "'back': it must be one of forward, input_grad, weight_grad"),
    (["product", "--precision", "tf32x3", "--tile", "128x64"], "for tf32x3 it must be one of 64x64, 32x32"),
    (["product", "--precision", "fp16"], "precision is 'fp16': for float32 it must be None or one of fp32, tf32x3"),
    (["transform", "--precision", "tf32"], "--precision is for product, not for transform"),
    (["product", "--vec", "4"], "vec is 4: it must be 1 or 2"),
    (["product", "--planes", "4"], "--planes is for transform and inverse, not for product"),
    (["product", "--launch", "3"], "--launch is for a kernel of your own, not for product"),
    (["transform", "--fft-size", "22"], "fft_size is 22: a side must be one of 6, 8, 10"),
    (["transform", "--fft-size", "8x66"], "fft_size is 8x66: a side must be one of 6, 8, 10"),
    (["product", "--fft-size", "8x8x8"], "fft_size is '8x8x8': it must be a length such as 32, or rows and columns"),
    (["product", "--fft-size", "-8"], "fft_size is '-8': it must be a length"),
    (["transform", "--fft-size", "128"], "takes two kernels: inspect transform-columns and transform-rows"),
    (["inverse-rows", "--fft-size", "64"], "fft_size is 64, which takes one kernel: inspect inverse"),
    (["transform-rows", "--planes", "4"], "--planes is for transform and inverse, not for transform-rows"),
    (
        ["transform", "--fft-size", "64", "--planes", "16"],
        "planes is 16: with T = 64 it must be one of 2, 4, 8 on H200",
    ),
    (["transform", "--channels", "1"], "channels is 1: it must be from 2 to 4096"),
    (["transform", "--html", "no/such/page.html"], "html is 'no/such/page.html': there is no folder 'no/such'"),
]


@pytest.mark.parametrize("words, said", WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_wrong_calls_are_answered_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("inspect: ") and err.count("\n") == 1 and said in err


def test_missing_tools_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "tools", lambda: None)
    assert main(["inspect", "product"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm" in err


def test_missing_matplotlib_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["inspect", "product", "--html", "page.html"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pip install matplotlib" in err


def test_tools_are_found_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_code.tools() is None
    for tool in ("nvdisasm", "cuobjdump"):
        (tmp_path / tool).touch(0o755)
    assert machine_code.tools() == tmp_path


SASS = """
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/              @!P0 BRA `(.L_x_3) ;
.L_x_2:
        /*0020*/               @P1 FFMA R4, R2, R3, R4 ;
        /*0030*/              @!PT LDS RZ, [RZ] ;
        /*0040*/             @!UP2 BRA `(.L_x_2) ;
        /*0050*/                   FFMA R5, R2, R3, R4 ;
        /*0060*/               @P2 BRA `(.L_x_1) ;
.L_x_3:
        /*0070*/                   STG.E.64 desc[UR4][R2.64], R4 ;
        /*0080*/                   EXIT ;
.L_x_4:
        /*0090*/                   BRA `(.L_x_4);
        /*00a0*/                   NOP;
"""


def test_instructions_and_innermost_loops_are_read_off_sass() -> None:
    """An outer loop has more FFMA; what never runs takes a slot; a branch to itself, behind the end, is no loop."""
    names, loops = machine_code._instructions(SASS)
    assert names == ["LDC", "BRA", "FFMA", "NOP", "BRA", "FFMA", "BRA", "STG.E.64", "EXIT", "BRA"]
    assert loops == [["FFMA", "NOP", "BRA"]]
    found = machine_code.classes(names)
    assert {name: n for name, n in found.items() if n} == {"FFMA": 2, "global": 1, "branch": 5, "other": 2}


def test_one_line_of_an_error() -> None:
    error = "Failed in cuda mode pipeline (step: x)\n\x1b[1mfirst\x1b[0m\n  NameError: name 'a'\nDuring: Pass y"
    assert one_line(ValueError(error)) == "NameError: name 'a'"
    assert one_line(ValueError("Failed in x\nthe reason\nmore")) == "the reason"
    assert one_line(ValueError()) == "ValueError"


# ---- the page --------------------------------------------------------------------------------------------------------


class Balanced(HTMLParser):
    """Checks that every tag is closed, and collects tags and what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attributes if name in ("href", "src", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attributes if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page(tmp_path: Path, product: Report, transform: Report) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "page.html"
    page.write(path, transform, [product, transform])
    written, parser = path.read_text(encoding="utf-8"), Balanced()
    parser.feed(written)
    assert parser.open == [] and parser.tags.count("svg") == 2
    assert parser.tags.count("tr") == 3 and parser.tags.count("td") == 2 * len(page.HEADINGS)
    assert all(reference.startswith("#") for reference in parser.references), "it loads something"
    for said in ("transform_t16_b16 on H200", "product_64x64_forward_v2", "registers", "32.2 us"):
        assert said in written


def test_roofline_has_all_stages_on_the_roof(product: Report) -> None:
    pytest.importorskip("matplotlib")
    axes = page.roofline(H200, product).axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert "FLOP/B" in axes.get_xlabel() and "TFLOP/s" in axes.get_ylabel()
    points = [point for line in axes.lines if line.get_marker() in ("o", "D") for point in line.get_xydata()]
    assert len(points) == len(page.SIZES) + len(page.CHANNELS) + 1
    for intensity, attained in points:
        assert attained == pytest.approx(min(66.9, 4.8 * intensity), rel=1e-3)
    low, high = axes.get_xlim()
    assert all(low < intensity < high for intensity, _ in points)


def test_shares_of_instructions_fill_the_bars(product: Report, transform: Report) -> None:
    pytest.importorskip("matplotlib")
    axes = page.mixes([product, transform]).axes[0]
    bars = [bar for container in axes.containers for bar in container]
    for row in range(2):
        assert sum(bar.get_width() for bar in bars if round(bar.get_y() + 0.36) == row) == pytest.approx(100)
    assert [label.get_text() for label in axes.get_yticklabels()] == [product.kernel, transform.kernel]
