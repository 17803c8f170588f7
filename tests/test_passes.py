"""Whole layers, drawn with every option at once, in all three passes against the definition in float64."""
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import (
    LAYOUTS,
    PASSES,
    SINGLE,
    Problem,
    Recorder,
    call,
    check_layer,
    companions,
    each_layout,
    poisoned,
    problems,
    relaid,
)

from numba_fftconv import conv2d, conv2d_backward, conv2d_input_grad, conv2d_weight_grad

# The layers that broke something once, or that no drawing may miss.
CORNERS = [
    Problem(1, 1, 1, 1, 1, 1, 1),
    Problem(1, 1, 1, 1, 1, 3, 3, padding=1),
    Problem(1, 1, 1, 1, 1, 1, 1, padding=5, stride=3),
    Problem(2, 1, 8, 8, 1, 8, 8),
    Problem(2, 2, 9, 9, 2, 8, 8, stride=9),
    Problem(2, 2, 40, 40, 2, 8, 8),
    Problem(1, 2, 41, 7, 3, 7, 1, stride=(3, 2), padding=((6, 9), (0, 3))),
    Problem(17, 9, 7, 8, 9, 3, 3, padding="same"),
    Problem(16, 8, 8, 9, 8, 2, 2, padding="same"),
    Problem(3, 3, 23, 17, 6, 2, 3, stride=(2, 3), dilation=(3, 2), padding=((0, 2), (5, 1)), groups=3),
    Problem(2, 9, 20, 6, 9, 3, 3, padding=1, groups=9),
    Problem(2, 4, 11, 12, 12, 3, 2, padding=(1, 0), groups=4),
    Problem(33, 1, 5, 5, 1, 3, 3, padding=2),
    Problem(1, 17, 5, 5, 33, 3, 3),
    Problem(1, 1, 130, 70, 1, 64, 64, stride=(5, 3), padding=3, fft_size=64),
    Problem(1, 2, 70, 66, 2, 22, 2, dilation=(3, 63), padding=((1, 0), (0, 2)), fft_size=64),
    Problem(1, 1, 1, 40, 1, 1, 8, padding=(0, 7)),
    Problem(2, 2, 6, 6, 2, 2, 2, fft_size=2),
    Problem(2, 3, 5, 6, 2, 3, 3, fft_size=6, padding=1),
    Problem(1, 2, 12, 12, 2, 3, 3, padding=1, batched=False, fft_size=14),
    Problem(2, 2, 3, 300, 2, 2, 200, padding=(0, 3), fft_size=(4, 256)),
    Problem(1, 2, 150, 9, 2, 70, 4, padding=((3, 0), (1, 0)), dilation=(1, 2), fft_size=(128, 12)),
]
LARGE = Problem(1, 1, 300, 290, 2, 200, 190, padding=((3, 0), (0, 5)), stride=(2, 1), fft_size=256)


def check(problem: Problem, layouts: tuple[str, str, str], record: Recorder) -> None:
    check_layer(problem, problem.plan(), layouts, record, f"{problem.dtype}, drawn")


@settings(max_examples=35)
@given(problem=problems(), layouts=each_layout())
def test_drawn_layers(problem: Problem, layouts: tuple[str, str, str], record_worst: Recorder) -> None:
    check(problem, layouts, record_worst)


@pytest.mark.slow
@settings(max_examples=300)
@given(problem=problems(), layouts=each_layout())
def test_many_drawn_layers(problem: Problem, layouts: tuple[str, str, str], record_worst: Recorder) -> None:
    check(problem, layouts, record_worst)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("problem", CORNERS, ids=lambda problem: problem.title)
def test_corners(problem: Problem, dtype: str, record_worst: Recorder) -> None:
    changed = Problem(**{**vars(problem), "dtype": dtype})
    check(changed, ("contiguous", "contiguous", "contiguous"), record_worst)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_kernels(dtype: str, record_worst: Recorder) -> None:
    check(Problem(**{**vars(LARGE), "dtype": dtype}), ("gaps", "contiguous", "gaps"), record_worst)


@pytest.mark.parametrize("batched", [True, False])
def test_without_a_plan_the_model_chooses_the_length(batched: bool) -> None:
    N = 5 if batched else 1
    problem = Problem(N, 4, 17, 19, 6, 5, 3, 2, ((2, 1), (0, 3)), 1, 2, fft_size=None, batched=batched)
    a = problem.arrays()
    want, size = problem.expected(a), problem.sizes(a, problem.plan().fft_size)
    got = {
        "forward": conv2d(a.x, a.w, **problem.options),
        "input_grad": conv2d_input_grad(problem.x_shape, a.w, a.dy, **problem.options),
        "weight_grad": conv2d_weight_grad(a.x, problem.w_shape, a.dy, **problem.options),
    }
    got["dx"], got["dw"], _ = conv2d_backward(a.dy, a.x, a.w, **problem.options)
    for name, passed in zip(got, (*PASSES, "input_grad", "weight_grad"), strict=True):
        assert np.linalg.norm(got[name] - want[passed]) <= 5e-7 * np.linalg.norm(size[passed])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layouts(layout: str, dtype: str, record_worst: Recorder) -> None:
    """Each operand in turn, then all at once, in every layout."""
    problem = Problem(9, 3, 21, 18, 10, 3, 4, padding=((1, 2), (3, 0)), stride=(1, 2), dtype=dtype, fft_size=16)
    for place in range(3):
        check(problem, tuple(layout if i == place else "contiguous" for i in range(3)), record_worst)  # type: ignore[arg-type]
    check(problem, (layout, layout, layout), record_worst)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in ("unaligned", "read only")])
def test_out_of_any_layout(name: str, layout: str) -> None:
    """A result is written where `out` has its samples and nowhere between them."""
    problem = Problem(9, 3, 21, 18, 10, 3, 4, padding=((1, 2), (3, 0)), stride=(1, 2), fft_size=16)
    plan, a = problem.plan(), problem.arrays()
    out = relaid(poisoned(problem, name), layout)
    held = out if out.base is None else out.base
    held[...] = np.nan
    assert call(plan, a, name, out=out) is out
    assert np.array_equal(out, call(plan, a, name))
    assert np.count_nonzero(~np.isnan(held)) == out.size


@settings(max_examples=20)
@given(problem=problems(dtypes=("float32",)))
def test_images_of_very_different_size(problem: Problem) -> None:
    """An image is as exact as the largest that travels with it allows: a small one beside a large one shares its
    rounding."""
    problem = Problem(**{**vars(problem), "scales": (1e4, 1.0, 1.0)})
    plan, a = problem.plan(), problem.arrays()
    want, size = problem.expected(a), problem.sizes(a, plan.fft_size)
    for name in ("forward", "input_grad"):
        error, limit = (np.abs(b).reshape(problem.N, -1) for b in (call(plan, a, name) - want[name], size[name]))
        for n, group in enumerate(companions(problem.N, int(np.prod(plan.segments[name])), problem.dtype)):
            largest = max(np.linalg.norm(limit[other]) for other in group)
            assert np.linalg.norm(error[n]) <= SINGLE * problem.tolerance(plan, name) * largest


def test_every_form_of_a_problem_is_drawn() -> None:
    """The strategy reaches what it promises: the test of the tests."""
    seen: set[str] = set()

    @settings(max_examples=1000, derandomize=True)
    @given(problem=problems())
    def look(problem: Problem) -> None:
        T = problem.fft_size[0] if isinstance(problem.fft_size, tuple) else problem.fft_size or 0
        options, sides, counts = problem.resolved, (problem.H, problem.W), (problem.N, problem.C, problem.K)
        (top, bottom), _ = options["padding"]
        covered = [(n - 1) * d + 1 for n, d in zip((problem.R, problem.S), options["dilation"], strict=True)]
        facts = {
            "same": problem.padding == "same",
            "valid": problem.padding == "valid",
            "int": isinstance(problem.padding, int),
            "pair": isinstance(problem.padding, tuple) and isinstance(problem.padding[0], int),
            "sides": top != bottom and problem.padding != "same",
            "strided": options["stride"] != (1, 1),
            "dilated": options["dilation"] != (1, 1),
            "grouped": 1 < problem.groups < problem.C,
            "depthwise": 1 < problem.groups == problem.C == problem.K,
            "multiplier": 1 < problem.groups == problem.C < problem.K,
            "single": not problem.batched,
            "chosen": not T,
            "plane of 1": 1 in sides,
            "plane of T - 1": T - 1 in sides,
            "plane of T": T in sides,
            "plane of T + 1": T + 1 in sides,
            "large plane": max(sides) > 2 * T > 0,
            "kernel of T": T in covered,
            "kernel of more than 64": max(covered) > 64,
            "one more than a lane": 9 in counts,
            "one less than a block": 15 in counts,
            "one more than a block": 17 in counts,
        }
        seen.update(name for name, holds in facts.items() if holds)
        look.facts = set(facts)  # type: ignore[attr-defined]

    look()
    assert look.facts == seen  # type: ignore[attr-defined]
