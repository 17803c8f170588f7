"""What must hold of the three passes whatever their samples are, without a second implementation to compare with."""
from dataclasses import replace

import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import PASSES, Arrays, Problem, call, companions, poisoned, problems

from numba_fftconv import conv2d, conv2d_backward, conv2d_input_grad, conv2d_weight_grad

OPERANDS = {"forward": ("x", "w"), "input_grad": ("dy", "w"), "weight_grad": ("x", "dy")}
DOUBLE = problems(dtypes=("float64",))
EITHER = st.sampled_from(PASSES)
SPOILERS = st.sampled_from((np.nan, np.inf, -np.inf))
EXACT = 1e-12  # of float64: far above its rounding, far below any wrong sample


def dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a, b))


def close(got: np.ndarray, want: np.ndarray, size: float) -> bool:
    return bool(np.linalg.norm(got - want) <= EXACT * size)


@settings(max_examples=18)
@given(problem=DOUBLE)
def test_the_gradients_are_adjoint_to_the_forward_pass(problem: Problem) -> None:
    """<conv(x, w), dy> = <x, input_grad(dy, w)> = <w, weight_grad(x, dy)>."""
    plan, a = problem.plan(), problem.arrays()
    through_y = dot(plan.forward(a.x, a.w), a.dy)
    size = np.linalg.norm(np.abs(a.x)) * np.linalg.norm(a.w) * np.linalg.norm(a.dy)
    assert abs(through_y - dot(a.x, plan.input_grad(a.dy, a.w))) <= EXACT * size
    assert abs(through_y - dot(a.w, plan.weight_grad(a.x, a.dy))) <= EXACT * size


@settings(max_examples=15)
@given(problem=DOUBLE, name=EITHER, place=st.integers(0, 1), factor=st.sampled_from((-3.0, 0.1, 7.0)))
def test_linear_in_each_operand(problem: Problem, name: str, place: int, factor: float) -> None:
    plan, a, other = problem.plan(), problem.arrays(), problem.arrays(seed=problem.seed + 1)
    operand = OPERANDS[name][place]
    mixed = a._replace(**{operand: getattr(a, operand) + factor * getattr(other, operand)})
    swapped = a._replace(**{operand: getattr(other, operand)})
    first, second = (call(plan, b, name) for b in (a, swapped))
    size = sum(float(np.linalg.norm(problem.sizes(b, plan.fft_size)[name])) for b in (a, swapped)) * (1 + abs(factor))
    assert close(call(plan, mixed, name), first + factor * second, size)


@settings(max_examples=15)
@given(problem=problems(), name=EITHER, place=st.integers(0, 1), power=st.sampled_from((-20, -1, 3, 20)))
def test_a_power_of_two_scales_every_bit(problem: Problem, name: str, place: int, power: int) -> None:
    """Nothing but sums and products happens to a sample: no constant is added, no threshold applied."""
    plan, a = problem.plan(), problem.arrays()
    operand = OPERANDS[name][place]
    scale = problem.arrays().w.dtype.type(2.0**power)
    scaled = a._replace(**{operand: getattr(a, operand) * scale})
    assert np.array_equal(call(plan, scaled, name), call(plan, a, name) * scale)


@settings(max_examples=15)
@given(problem=DOUBLE, data=st.data())
def test_an_impulse_brings_out_the_filters(problem: Problem, data: st.DataObject) -> None:
    """One sample of the input meets every tap of the filters of its group, each at most once."""
    plan, a = problem.plan(), problem.arrays()
    at = tuple(data.draw(st.integers(0, n - 1)) for n in problem.x_shape)
    x = np.zeros(problem.x_shape)
    x[at] = 1
    y = plan.forward(x, a.w)
    want = np.zeros(problem.y_shape)
    *image, c, h, v = at
    per_group, channels = problem.K // problem.groups, problem.C // problem.groups
    (top, _), (left, _) = problem.resolved["padding"]
    (down, across), (tall, wide) = problem.resolved["stride"], problem.resolved["dilation"]
    filters = slice(c // channels * per_group, (c // channels + 1) * per_group)
    for r, s in np.ndindex(problem.R, problem.S):
        (p, rest_p), (q, rest_q) = divmod(h + top - r * tall, down), divmod(v + left - s * wide, across)
        if rest_p == rest_q == 0 and 0 <= p < want.shape[-2] and 0 <= q < want.shape[-1]:
            want[(*image, filters, p, q)] = a.w[filters, c % channels, r, s]
    assert close(y, want, float(np.linalg.norm(a.w)))


@settings(max_examples=15)
@given(problem=DOUBLE, data=st.data())
def test_a_single_tap_moves_the_image(problem: Problem, data: st.DataObject) -> None:
    """A filter with one tap copies its samples of one channel, and its gradient puts them back."""
    problem = replace(problem, stride=1, padding=0, groups=1, K=1, C=1)
    assume((problem.R - 1) * problem.resolved["dilation"][0] < problem.H)
    assume((problem.S - 1) * problem.resolved["dilation"][1] < problem.W)
    plan, a = problem.plan(), problem.arrays()
    r, s = (data.draw(st.integers(0, n - 1)) for n in (problem.R, problem.S))
    w = np.zeros(problem.w_shape)
    w[0, 0, r, s] = 1
    P, Q = problem.y_shape[-2:]
    tall, wide = problem.resolved["dilation"]
    window = (..., slice(r * tall, r * tall + P), slice(s * wide, s * wide + Q))
    back = np.zeros(problem.x_shape)
    back[window] = a.dy
    assert close(plan.forward(a.x, w), a.x[window], float(np.linalg.norm(a.x)))
    assert close(plan.input_grad(a.dy, w), back, float(np.linalg.norm(a.dy)))


@pytest.mark.parametrize("shift", [1, 3, 8, 13])
@pytest.mark.parametrize("axis", [-2, -1])
def test_a_shifted_input_gives_a_shifted_output(shift: int, axis: int) -> None:
    """Over the edges of segments too: 45 samples take several of 16."""
    problem = Problem(2, 3, 45, 45, 4, 5, 5, padding=4, dtype="float64", fft_size=16)
    plan, a = problem.plan(), problem.arrays()
    x = np.zeros_like(a.x)
    x[..., 2:28, 2:28] = a.x[..., 2:28, 2:28]
    moved, size = np.roll(x, shift, axis), float(np.linalg.norm(a.x) * np.linalg.norm(a.w))
    assert close(plan.forward(moved, a.w), np.roll(plan.forward(x, a.w), shift, axis), size)


@settings(max_examples=18)
@given(problem=DOUBLE)
def test_gradients_against_finite_differences(problem: Problem) -> None:
    """Of the loss sum(y**2) / 2, of which central differences are exact but for rounding."""
    problem = replace(problem, scales=(1.0,))
    plan, a, step = problem.plan(), problem.arrays(), problem.arrays(seed=problem.seed + 1)

    def loss(x: np.ndarray, w: np.ndarray) -> float:
        return 0.5 * float(np.square(plan.forward(x, w)).sum())

    y = plan.forward(a.x, a.w)
    by_x = (loss(a.x + step.x, a.w) - loss(a.x - step.x, a.w)) / 2
    by_w = (loss(a.x, a.w + step.w) - loss(a.x, a.w - step.w)) / 2
    terms = loss(a.x, a.w) + loss(step.x, a.w) + loss(a.x, step.w) + float(np.linalg.norm(a.x) * np.linalg.norm(a.w))
    assert abs(dot(plan.input_grad(y, a.w), step.x) - by_x) <= 1e-10 * terms
    assert abs(dot(plan.weight_grad(a.x, y), step.w) - by_w) <= 1e-10 * terms


@settings(max_examples=18)
@given(problem=DOUBLE)
def test_a_stride_skips_outputs(problem: Problem) -> None:
    options = {**problem.resolved, "stride": (1, 1)}
    plan, dense = problem.plan(), replace(problem, **options).plan()
    a, (down, across) = problem.arrays(), problem.resolved["stride"]
    size = float(np.linalg.norm(a.x) * np.linalg.norm(a.w))
    assert close(plan.forward(a.x, a.w), dense.forward(a.x, a.w)[..., ::down, ::across], size)


@settings(max_examples=18)
@given(problem=DOUBLE.filter(lambda p: p.groups > 1 and p.batched))
def test_groups_are_layers_of_their_own(problem: Problem) -> None:
    C, K = problem.C // problem.groups, problem.K // problem.groups
    plan, one, a = problem.plan(), replace(problem, C=C, K=K, groups=1).plan(), problem.arrays()
    got = {name: call(plan, a, name) for name in PASSES}
    size = {name: float(np.linalg.norm(b)) for name, b in problem.sizes(a, plan.fft_size).items()}
    for g in range(problem.groups):
        of_c, of_k = slice(g * C, (g + 1) * C), slice(g * K, (g + 1) * K)
        part = Arrays(a.x[:, of_c], a.w[of_k], a.dy[:, of_k])
        cut = {"forward": (slice(None), of_k), "input_grad": (slice(None), of_c), "weight_grad": (of_k,)}
        for name in PASSES:
            assert close(got[name][cut[name]], call(one, part, name), size[name]), name


# ---- samples that are not finite


def reached(problem: Problem, marks: Arrays, name: str, operand: str) -> np.ndarray:
    """The results of a pass that a direct convolution makes from a marked sample of one operand."""
    ones = Arrays(*(np.ones(b.shape) for b in marks))
    return problem.expected(ones._replace(**{operand: getattr(marks, operand)}))[name] > 0.5


@settings(max_examples=30)
@given(problem=problems(), name=EITHER, place=st.integers(0, 1), value=SPOILERS, data=st.data())
def test_what_is_not_finite_spoils_what_it_reaches(
    problem: Problem, name: str, place: int, value: float, data: st.DataObject
) -> None:
    """At least the results that a direct convolution would spoil: a NaN in the data never goes unseen."""
    plan, a, operand = problem.plan(), problem.arrays(), OPERANDS[name][place]
    marked = getattr(a, operand)
    at = tuple(data.draw(st.integers(0, n - 1)) for n in marked.shape)
    marks = Arrays(*(np.zeros(b.shape) for b in a))
    marked[at] = value
    getattr(marks, operand)[at] = 1
    with np.errstate(all="ignore"):
        got = call(plan, a, name, out=poisoned(problem, name) * 0 + 1)
    hit = reached(problem, marks, name, operand)
    assert not np.isfinite(got[hit]).any(), f"{np.isfinite(got[hit]).sum()} of {hit.sum()} results look sound"


@pytest.mark.parametrize("name", ["forward", "input_grad"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_pair(name: str, value: float) -> None:
    """A spoiled image may spoil the one that travels with it, never the rest of the batch."""
    problem = Problem(48, 2, 6, 6, 2, 3, 3, padding=1, fft_size=8)
    plan, a = problem.plan(), problem.arrays()
    want = call(plan, a, name)
    (a.x if name == "forward" else a.dy)[20, 0, 3, 3] = value
    with np.errstate(all="ignore"):
        got = call(plan, a, name)
    spared = [n for n, group in enumerate(companions(48, 1, "float32")) if 20 not in group]
    assert len(spared) == 46 and np.array_equal(got[spared], want[spared])
    assert not np.isfinite(got[20]).all()


# ---- empty batch, backward, bias


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_empty_batch_gives_empty_results_and_zero_gradients(dtype: str) -> None:
    problem = Problem(0, 4, 9, 9, 6, 3, 3, 1, 1, 1, 2, dtype=dtype)
    plan, a = problem.plan(), problem.arrays()
    for name in PASSES:
        out = poisoned(problem, name)
        for got in (call(plan, a, name), call(plan, a, name, out=out)):
            assert got.shape == out.shape and got.dtype == dtype and np.array_equal(got, np.zeros_like(out))
    dx, dw, db = plan.backward(a.dy, a.x, a.w)
    assert dx.shape == a.x.shape and not dw.any() and np.array_equal(db, np.zeros(6))
    assert conv2d(a.x, a.w, problem.bias(), **problem.options).shape == problem.y_shape
    assert conv2d_input_grad(a.x.shape, a.w, a.dy, **problem.options).shape == problem.x_shape
    assert not conv2d_weight_grad(a.x, a.w.shape, a.dy, **problem.options).any()


@settings(max_examples=15)
@given(problem=problems(), mask=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_backward_gives_the_bits_of_the_single_calls(problem: Problem, mask: tuple[bool, bool, bool]) -> None:
    plan, a = problem.plan(), problem.arrays()
    dx, dw, db = conv2d_backward(a.dy, a.x, a.w, **problem.options, plan=plan, output_mask=mask)
    for got, name, wanted in ((dx, "input_grad", mask[0]), (dw, "weight_grad", mask[1])):
        assert (got is not None) == wanted
        assert got is None or np.array_equal(got, call(plan, a, name))
    assert (db is not None) == mask[2]
    if db is not None:
        axes = (0, 2, 3) if problem.batched else (1, 2)
        exact, size = a.dy.sum(axes, dtype=np.float64), np.abs(a.dy).sum(axes, dtype=np.float64)
        assert db.shape == (problem.K,) and db.dtype == problem.dtype
        assert (np.abs(db - exact) <= 4 * np.finfo(problem.dtype).eps * size).all()


@settings(max_examples=15)
@given(problem=problems())
def test_bias_is_added_to_every_output_of_its_filter(problem: Problem) -> None:
    plan, a, bias = problem.plan(), problem.arrays(), problem.bias()
    without = plan.forward(a.x, a.w)
    got = plan.forward(a.x, a.w, bias)
    rounding = 4 * np.finfo(problem.dtype).eps * (np.abs(without) + np.abs(bias[:, None, None]))
    assert (np.abs(got - (without.astype(np.float64) + bias[:, None, None])) <= rounding).all()
    assert np.array_equal(plan.forward(a.x, a.w, np.zeros_like(bias)), without)


def test_the_reference_is_the_definition() -> None:
    """One layer small enough to sum by hand: the reference that all other tests trust."""
    x, w = np.arange(12.0).reshape(1, 1, 3, 4), np.array([[[[1.0, 10.0]]]])
    options = {"stride": (2, 1), "padding": ((0, 1), (1, 0)), "dilation": (1, 2), "groups": 1}
    y = reference.forward(x, w, **options)  # type: ignore[arg-type]
    assert y.tolist() == [[[[10.0, 20.0, 31.0], [90.0, 108.0, 119.0]]]]
    dy = np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    dx = reference.input_grad(x.shape, w, dy, **options)  # type: ignore[arg-type]
    assert dx.tolist() == [[[[2.0, 13.0, 20.0, 30.0], [0.0] * 4, [5.0, 46.0, 50.0, 60.0]]]]
    dw = reference.weight_grad(x, w.shape, dy, **options)  # type: ignore[arg-type]
    assert dw.tolist() == [[[[97.0, 166.0]]]]
