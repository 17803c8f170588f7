"""conv2d as an operator of torch: against torch's own in every form, derivative, transform and tracer."""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from gpu import has_gpu

torch = pytest.importorskip("torch")

from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap  # noqa: E402

from numba_fftconv import (  # noqa: E402
    DeviceMismatchError,
    FFTConvError,
    InvalidOptionError,
    InvalidShapeError,
    InvalidTypeError,
    UnsupportedError,
    clear_cache,
)
from numba_fftconv.torch import conv2d  # noqa: E402
from numba_fftconv.torch.operator import plan_of  # noqa: E402

F = torch.nn.functional
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs torch with CUDA")]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]
LIMIT = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # relative L2 errors

Form = tuple[tuple[int, ...], tuple[int, ...], bool, dict[str, Any]]
FORMS: dict[str, Form] = {
    "plain": ((2, 3, 9, 8), (4, 3, 3, 2), False, {}),
    "bias": ((2, 3, 9, 8), (4, 3, 3, 2), True, {}),
    "stride": ((2, 3, 9, 8), (4, 3, 3, 2), True, {"stride": 2}),
    "pairs": ((2, 3, 9, 8), (4, 3, 3, 2), True, {"stride": (2, 1), "padding": [1, 2], "dilation": (1, 2)}),
    "same": ((2, 3, 9, 8), (4, 3, 4, 2), True, {"padding": "same", "dilation": 2}),
    "valid": ((2, 3, 9, 8), (4, 3, 3, 2), False, {"padding": "valid"}),
    "groups": ((2, 4, 9, 8), (6, 2, 3, 2), True, {"groups": 2, "padding": 1}),
    "depthwise": ((2, 3, 9, 8), (3, 1, 3, 3), False, {"groups": 3, "padding": 1}),
    "one image": ((3, 9, 8), (4, 3, 3, 2), True, {"stride": 2, "padding": 1}),
    "no images": ((0, 3, 9, 8), (4, 3, 3, 2), True, {}),
}
EACH_FORM = pytest.mark.parametrize("form", FORMS)


def tensors(form: str, dtype: Any = torch.float64, device: str = "cpu") -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
    """x, w and bias that require gradients, and the options."""
    x_shape, w_shape, has_bias, options = FORMS[form]
    chance = torch.Generator().manual_seed(0)
    shapes = (x_shape, w_shape, w_shape[:1] if has_bias else None)
    made = [None if shape is None else torch.randn(shape, dtype=torch.float64, generator=chance) for shape in shapes]
    x, w, b = (None if each is None else each.to(device, dtype).requires_grad_() for each in made)
    return (x, w, b), options


def assert_near(got: Any, want: Any, limit: float | None = None) -> None:
    assert got.shape == want.shape
    limit = LIMIT[got.dtype] if limit is None else limit
    error = (got.detach().double() - want.detach().double()).norm()
    assert error <= limit * want.detach().double().norm(), f"{error} of {want.double().norm()}"


def there(*tensors: Any) -> list[Any]:
    return [tensor for tensor in tensors if tensor is not None]


# ---- values and first derivatives


@EACH_FORM
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_layer_and_its_gradients(form: str, dtype: Any, device: str) -> None:
    """Against torch in float64 of the same samples."""
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("no kernels of float64 on a GPU")
    given, options = tensors(form, dtype, device)
    exact = [None if each is None else each.detach().double().requires_grad_() for each in given]
    y, want = conv2d(*given, **options), F.conv2d(*exact, **options)
    assert y.dtype == dtype and y.device == given[0].device and y.is_contiguous()
    assert_near(y, want)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    found = torch.autograd.grad(y, there(*given), dy)
    wanted = torch.autograd.grad(want, there(*exact), dy.double())
    for got, of_torch in zip(found, wanted, strict=True):
        assert got.dtype == dtype
        assert_near(got, of_torch)


def test_padding_of_the_package() -> None:
    (x, w, b), _ = tensors("bias")
    assert_near(conv2d(x, w, b, padding=((0, 2), (1, 3))), F.conv2d(F.pad(x, (1, 3, 0, 2)), w, b))


@pytest.mark.parametrize("wanted", [w for w in itertools.product((False, True), repeat=3) if any(w)], ids=str)
def test_gradients_that_are_wanted(wanted: tuple[bool, ...]) -> None:
    """Others are not computed: their place in the graph stays empty."""
    given, options = tensors("groups")
    held = [each.detach().requires_grad_(needed) for each, needed in zip(given, wanted, strict=True)]
    conv2d(*held, **options).sin().sum().backward()
    F.conv2d(*given, **options).sin().sum().backward()
    for ours, torchs, needed in zip(held, given, wanted, strict=True):
        assert (ours.grad is not None) == needed
        if needed:
            assert_near(ours.grad, torchs.grad)
    made = torch.ops.numba_fftconv.conv2d_backward(
        F.conv2d(*given, **options).detach(), *given[:2], [1, 1], [1, 1, 1, 1], [1, 1], 2, wanted
    )
    assert [gradient is not None for gradient in made] == list(wanted)


@pytest.mark.parametrize("form", [
    pytest.param(form, marks=[] if form in ("bias", "pairs", "groups", "one image") else pytest.mark.slow)
    for form in FORMS
])
def test_derivatives_to_the_second_order(form: str) -> None:
    (x, w, b), options = tensors(form)
    if not x.numel():
        pytest.skip("nothing to differ by")

    def layer(*given: Any) -> Any:
        return conv2d(*given, **options)

    fast = {"fast_mode": True}
    assert torch.autograd.gradcheck(layer, (x, w, b), check_forward_ad=True, check_batched_grad=True, **fast)
    assert torch.autograd.gradgradcheck(layer, (x, w, b), check_fwd_over_rev=True, **fast)


def test_a_third_derivative() -> None:
    (x, w, _), options = tensors("stride")

    def third(convolve: Callable[..., Any]) -> Any:
        found = convolve(x, w, **options).pow(4).sum()
        for _ in range(3):
            found = torch.autograd.grad(found, w, create_graph=True)[0].sum()
        return found

    assert_near(third(conv2d), third(F.conv2d), 1e-11)


def test_a_weight_that_changed_since_is_seen() -> None:
    (x, w, _), _ = tensors("plain")
    y = conv2d(x, w)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# ---- memory


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "transposed": lambda t: t.mT.contiguous().mT,
    "gaps": lambda t: torch.stack([t, -t], -1)[..., 0],
    "expanded": lambda t: t[:1, :1].expand_as(t),
    "negated by a flag": lambda t: torch.complex(t, -t).conj().imag,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("device", DEVICES)
def test_strides(layout: str, device: str) -> None:
    given, options = tensors("groups", torch.float32, device)
    x, w, dy = (LAYOUTS[layout](t.detach()) for t in (*given[:2], F.conv2d(*given, **options)))
    results = []
    for convolve, placed in ((conv2d, lambda t: t), (conv2d, lambda t: t.resolve_neg().contiguous())):
        operands = placed(x).requires_grad_(), placed(w).requires_grad_()
        y = convolve(*operands, given[2], **options)
        results.append([y, *torch.autograd.grad(y, operands, placed(dy))])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_operands_are_read_where_they_lie_and_stay() -> None:
    given, options = tensors("groups")
    before = [each.detach().clone() for each in given]
    y = conv2d(*given, **options)
    y.sum().backward()
    assert all(torch.equal(each, was) for each, was in zip(given, before, strict=True))
    assert y.data_ptr() % 64 == 0  # memory of torch, which NumPy's is by chance alone
    assert y.data_ptr() not in {each.data_ptr() for each in given}


def test_clear_cache_forgets_plans_here_too() -> None:
    (x, w, _), _ = tensors("plain")
    conv2d(x, w)
    assert plan_of.cache_info().currsize
    clear_cache()
    assert not plan_of.cache_info().currsize


# ---- transforms of torch.func


@pytest.mark.parametrize("form", ["bias", "groups", "one image"])
@pytest.mark.parametrize("dims", [*itertools.product((None, 0, 1), repeat=3)][1:], ids=str)
def test_vmap(form: str, dims: tuple[int | None, ...]) -> None:
    """Values and gradients with the batch in any operand, on any axis."""
    given, options = tensors(form)
    batched = [
        each.detach() if dim is None else torch.stack([each.detach(), 2 - each.detach(), each.detach() / 2], dim)
        for each, dim in zip(given, dims, strict=True)
    ]

    def through(convolve: Callable[..., Any]) -> list[Any]:
        def loss(*operands: Any) -> Any:
            return convolve(*operands, **options).sin().sum()

        value = vmap(lambda *operands: convolve(*operands, **options), dims)(*batched)
        return [value, *vmap(grad(loss, (0, 1, 2)), dims)(*batched), vmap(grad(loss, 1), dims)(*batched)]

    for ours, torchs in zip(through(conv2d), through(F.conv2d), strict=True):
        assert_near(ours, torchs)


def test_per_sample_gradients_of_a_model() -> None:
    layer = torch.nn.Conv2d(3, 4, 3, dtype=torch.float64)
    x, parameters = tensors("plain")[0][0].detach(), dict(layer.named_parameters())

    def loss(parameters: Any, sample: Any) -> Any:
        return conv2d(sample[None], parameters["weight"], parameters["bias"]).pow(2).sum()

    found = vmap(grad(loss), (None, 0))(parameters, x)
    for n, sample in enumerate(x):
        wanted = grad(lambda p, s: functional_call(layer, p, (s[None],)).pow(2).sum())(parameters, sample)
        for name in parameters:
            assert_near(found[name][n], wanted[name])


TRANSFORMS: dict[str, Callable[[Callable[..., Any], Any, Any], Any]] = {
    "grad": lambda f, x, w: grad(lambda w: f(x, w).sin().sum())(w),
    "grad of grad": lambda f, x, w: grad(lambda w: grad(lambda w: f(x, w).pow(3).sum())(w).pow(2).sum())(w),
    "jacrev of jacrev": lambda f, x, w: jacrev(jacrev(lambda w: f(x, w).pow(3).sum()))(w),
    "hessian": lambda f, x, w: hessian(lambda w: f(x, w).pow(3).sum())(w),
    "jvp": lambda f, x, w: jvp(f, (x, w), (x.cos(), w.cos()))[1],
    "jvp of the weight": lambda f, x, w: jvp(lambda w: f(x, w), (w,), (w.cos(),))[1],
    "grad in grad mode off": lambda f, x, w: torch.no_grad()(grad(lambda w: f(x, w).sin().sum()))(w),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(transform: str) -> None:
    (x, w, _), options = tensors("stride")
    x, w, run = x.detach(), w.detach(), TRANSFORMS[transform]
    ours, torchs = (run(lambda x, w, f=f: f(x, w, **options), x, w) for f in (conv2d, F.conv2d))
    assert_near(ours, torchs, 1e-12)


# ---- tracers


@pytest.mark.parametrize("form", ["same", "groups", "one image"])
@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(form: str, device: str) -> None:
    """torch's own tests of an operator: schema, autograd, shapes of the fake kernel, AOT dispatch."""
    given, options = tensors(form, torch.float32, device)
    layer = {"same": ([1, 1], [3, 3, 1, 1], [2, 2], 1), "groups": ([1, 1], [1, 1, 1, 1], [1, 1], 2),
             "one image": ([2, 2], [1, 1, 1, 1], [1, 1], 1)}[form]  # fmt: skip
    torch.library.opcheck(torch.ops.numba_fftconv.conv2d.default, (*given, *layer))
    dy = torch.randn_like(F.conv2d(*given, **options)).requires_grad_()
    for mask in ([True, True, True], [False, True, False]):
        torch.library.opcheck(torch.ops.numba_fftconv.conv2d_backward.default, (dy, *given[:2], *layer, mask))


class Model(torch.nn.Module):
    def __init__(self, dtype: Any = torch.float32) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 3, 3, 2, dtype=dtype))

    def forward(self, x: Any) -> Any:
        return conv2d(x, self.weight, padding="same").relu()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool) -> None:
    """Without a break; with dynamic shapes once for all batches and planes."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    model = Model()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=dynamic)
    for shape in ((2, 3, 9, 8), (5, 3, 9, 8), (4, 3, 12, 20))[: 3 if dynamic else 1]:
        x = torch.randn(shape, requires_grad=True)
        made = [(y, *torch.autograd.grad(y.sum(), (x, model.weight))) for y in (compiled(x), model(x))]
        assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_compile_by_inductor() -> None:
    x, model = torch.randn(2, 3, 9, 8, requires_grad=True), Model()
    compiled = torch.compile(model, fullgraph=True)
    made = [(y, *torch.autograd.grad(y.sum(), (x, model.weight))) for y in (compiled(x), model(x))]
    for one, other in zip(*made, strict=True):
        assert_near(one, other)


def test_compile_of_per_sample_gradients() -> None:
    (x, w, _), _ = tensors("plain")

    def per_sample(x: Any, w: Any) -> Any:
        return vmap(grad(lambda w, x: conv2d(x, w).sin().sum()), (None, 0))(w, x)

    compiled = torch.compile(per_sample, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x.detach(), w.detach()), per_sample(x.detach(), w.detach()))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_any_batch(strict: bool) -> None:
    model, batch = Model(), torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(2, 3, 9, 8),), dynamic_shapes={"x": {0: batch}}, strict=strict)
    assert any(node.target is torch.ops.numba_fftconv.conv2d.default for node in program.graph.nodes)
    for images in (1, 7):
        x = torch.randn(images, 3, 9, 8)
        assert torch.equal(program.module()(x), model(x))


def test_the_meta_device() -> None:
    x, w, b = (torch.empty(shape, device="meta") for shape in ((2, 3, 9, 8), (4, 3, 3, 2), (4,)))
    y = conv2d(x, w.requires_grad_(), b, stride=2, padding="valid")
    y.sum().backward()
    assert y.is_meta and y.shape == (2, 4, 4, 4) and w.grad.is_meta and w.grad.shape == w.shape


# ---- autocast


@pytest.mark.parametrize("device, low", [("cpu", torch.bfloat16), pytest.param("cuda", torch.float16, marks=ON_GPU)])
def test_autocast(device: str, low: Any) -> None:
    """Tensors are cast as torch's own layer casts them; gradients come back in the dtype of the parameters."""
    given, options = tensors("groups", torch.float32, device)
    cast = [each.detach().to(low).requires_grad_() for each in given]
    with torch.autocast(device, low):
        y = conv2d(*given, **options)
        mixed = conv2d(given[0].to(low), *given[1:], **options)
        assert y.dtype == F.conv2d(*given, **options).dtype == low
    want = conv2d(*cast, **options)
    assert torch.equal(y, want) and torch.equal(mixed, want)
    found, wanted = (torch.autograd.grad(r.sum(), operands) for r, operands in ((y, given), (want, cast)))
    for got, of in zip(found, wanted, strict=True):
        assert got.dtype == torch.float32 and torch.equal(got.to(low), of)


def test_autocast_leaves_float64_alone() -> None:
    given, options = tensors("bias")
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(*given, **options).dtype == torch.float64 == F.conv2d(*given, **options).dtype


def test_autocast_when_compiled() -> None:
    x, model = torch.randn(2, 3, 9, 8), Model()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(x), model(x)) and compiled(x).dtype == torch.bfloat16


# ---- errors


X, W = torch.ones(2, 4, 8, 8), torch.ones(6, 4, 3, 3)
BAD: dict[str, tuple[type[FFTConvError], str, Callable[[Any, Any], Any]]] = {
    "array": (InvalidTypeError, r"input is a .*ndarray.*numba_fftconv.conv2d", lambda x, w: conv2d(x.numpy(), w)),
    "None": (InvalidTypeError, r"weight is a .*NoneType", lambda x, w: conv2d(x, None)),
    "complex": (InvalidTypeError, "complex64", lambda x, w: conv2d(x.to(torch.complex64), w.to(torch.complex64))),
    "integers": (InvalidTypeError, "input has dtype torch.int64", lambda x, w: conv2d(x.long(), w.long())),
    "two dtypes": (InvalidTypeError, "float32.*float64", lambda x, w: conv2d(x, w.double())),
    "half a bias": (InvalidTypeError, "bias has dtype torch.float16", lambda x, w: conv2d(x, w, torch.ones(6).half())),
    "devices": (DeviceMismatchError, "input is on cpu, weight is on meta", lambda x, w: conv2d(x, w.to("meta"))),
    "rank": (InvalidShapeError, r"\(8, 8\).*\(N, C, H, W\)", lambda x, w: conv2d(x[0, 0], w)),
    "rank of the weight": (InvalidShapeError, r"weight shape is \(3, 3\)", lambda x, w: conv2d(x, w[0, 0])),
    "channels": (InvalidShapeError, r"weight of shape \(6, 4, 3, 3\)", lambda x, w: conv2d(x, w[:, :2])),
    "groups": (InvalidShapeError, "groups must divide", lambda x, w: conv2d(x, w, groups=3)),
    "bias": (InvalidShapeError, r"bias has shape \(1,\): it must be \(6,\)", lambda x, w: conv2d(x, w, w[0, 0, 0, :1])),
    "kernel": (InvalidShapeError, "pad more", lambda x, w: conv2d(x[..., :2], w)),
    "stride": (InvalidOptionError, "stride is 0", lambda x, w: conv2d(x, w, stride=0)),
    "padding": (InvalidOptionError, "padding is 'full'", lambda x, w: conv2d(x, w, padding="full")),
    "same": (InvalidOptionError, "'same' needs stride 1", lambda x, w: conv2d(x, w, stride=2, padding="same")),
    "reach": (UnsupportedError, "at most 256", lambda x, w: conv2d(x, w, dilation=150, padding=200)),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_calls(what: str) -> None:
    error, words, call = BAD[what]
    with pytest.raises(error, match=words):
        call(X, W)


@pytest.mark.parametrize("what", [what for what in BAD if what not in ("array", "None", "devices")])
def test_bad_calls_when_traced(what: str) -> None:
    """The fake kernel raises the same."""
    from torch._subclasses import FakeTensorMode

    error, words, call = BAD[what]
    with FakeTensorMode() as mode, pytest.raises(error, match=words):
        call(mode.from_tensor(X), mode.from_tensor(W))


LAYOUTS_OF_TORCH: dict[str, Callable[[Any], Any]] = {
    "sparse": lambda t: t.to_sparse(),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "mkldnn": lambda t: t.to_mkldnn(),
}


@pytest.mark.parametrize("what", LAYOUTS_OF_TORCH)
def test_tensors_that_are_not_dense(what: str) -> None:
    """By an error of ours that names the tensor, or by torch's of an operator that has no such kernel."""
    with pytest.raises((InvalidTypeError, NotImplementedError), match=r"weight is|weight has|input has|numba_fftconv"):
        conv2d(X, LAYOUTS_OF_TORCH[what](W))


# ---- versions of torch


def test_without_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; import numba_fftconv; import numba_fftconv.torch"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode and "ImportError: numba_fftconv.torch needs torch 2.5" in done.stderr
    assert "pip install 'numba_fftconv[torch]'" in done.stderr


def test_an_old_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("numba_fftconv.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch, "__version__", "2.4.1+cpu")
    with pytest.raises(ImportError, match=r"2\.4\.1\+cpu: pip install 'numba_fftconv\[torch\]'"):
        __import__("numba_fftconv.torch")


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not (has_gpu() and torch.cuda.is_available()), reason="needs torch with CUDA")
class TestOnGpu:
    def test_the_current_stream_and_no_wait(self) -> None:
        """A step behind a stream that is held: the host is back before the input is there."""
        (x, w, b), options = tensors("groups", torch.float32, "cuda")
        late, side = x.detach().clone(), torch.cuda.Stream()
        want = torch.autograd.grad(conv2d(x, w, b, **options).sum(), (x, w, b))  # compiles
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            torch.cuda._sleep(200_000_000)
            with torch.no_grad():
                x.zero_().add_(late)
            torch.cuda.set_sync_debug_mode("error")
            try:
                found = torch.autograd.grad(conv2d(x, w, b, **options).sum(), (x, w, b))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert not side.query(), "the host has waited for the GPU"
        torch.cuda.synchronize()
        assert all(torch.equal(got, of) for got, of in zip(found, want, strict=True))

    def test_memory_is_of_the_allocator_of_torch(self) -> None:
        (x, w, _), _ = tensors("plain", torch.float32, "cuda")
        conv2d(x, w)
        before = torch.cuda.memory_allocated()
        y = conv2d(x.detach(), w.detach())
        assert torch.cuda.memory_allocated() - before >= y.nbytes

    def test_a_training_step_in_a_graph(self) -> None:
        (x, w, _), _ = tensors("plain", torch.float32, "cuda")
        static = x.detach()

        def step() -> Any:
            w.grad = None
            conv2d(static, w).pow(2).sum().backward()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        held = w.grad
        with torch.no_grad():
            static.copy_(torch.randn_like(static))
        graph.replay()
        got = held.clone()
        step()
        assert torch.equal(got, w.grad)
