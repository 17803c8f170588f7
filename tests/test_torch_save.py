"""What a policy keeps of the forward pass for backward: the right spectra, within the limit, and not a bit else."""
from collections.abc import Iterator
from typing import Any

import pytest

from numba_fftconv import ConvPlan, InvalidOptionError, options

torch = pytest.importorskip("torch")

from numba_fftconv.torch import FFTConv2d, conv2d, operator  # noqa: E402
from numba_fftconv.torch.functional import read  # noqa: E402
from numba_fftconv.torch.operator import SAVING  # noqa: E402

POLICIES = ("none", "input", "weight", "all")
LAYERS = {
    "one segment": ((20, 3, 9, 9), (5, 3, 3, 3), {"padding": 1}),
    "segments, stride and dilation": ((2, 3, 60, 70), (4, 3, 5, 4), {"stride": (1, 2), "dilation": (2, 1)}),
    "groups": ((5, 6, 9, 8), (9, 2, 3, 3), {"padding": 1, "groups": 3}),
}
EACH = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@pytest.fixture(autouse=True)
def _all_is_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever the processor: plans keep all that a policy allows, as on a GPU."""

    def kept(plan: ConvPlan, save: str, save_limit: int | None = None) -> tuple[str, ...]:
        names = options.save(save)
        return names if sum(plan.spectrum_size[name] for name in names) <= options.save_limit(save_limit) else ()

    monkeypatch.setattr(ConvPlan, "kept", kept)
    operator._spectrum_bytes.cache_clear()
    yield
    operator._spectrum_bytes.cache_clear()


def drawn(layer: Any, dtype: Any = torch.float32, **grad: bool) -> tuple[Any, Any, Any, dict[str, Any]]:
    (images, kernel, options), make = layer, torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(shape, dtype=dtype, generator=make) for shape in (images, kernel, kernel[:1]))
    for name, tensor in (("x", x), ("w", w), ("b", b)):
        tensor.requires_grad_(grad.get(name, True))
    return x, w, b, options


def of_layer(w: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    """The options as the operators take them."""
    return read(w.shape, stride, padding, dilation, groups)


def plan_of(x: Any, w: Any, **options: Any) -> ConvPlan:
    return operator.plan_of(x.shape, w.shape, x.dtype, x.device, *of_layer(w, **options))


def waiting(function: Any) -> tuple[Any, list[int]]:
    """What a function returns, and the bytes of each tensor of bytes that waits for backward."""
    sizes: list[int] = []

    def pack(tensor: Any) -> Any:
        if tensor.dtype == torch.uint8 and tensor.numel():
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return function(), sizes


@EACH
@pytest.mark.parametrize("half", [False, True])
def test_every_policy_gives_the_same_bits(layer: Any, half: bool) -> None:
    x, w, b, options = drawn(layer, torch.bfloat16 if half else torch.float32)
    size = plan_of(x, w, **options).spectrum_size
    want: Any = None
    for policy in POLICIES:
        y, sizes = waiting(lambda policy=policy: conv2d(x, w, b, **options, save=policy))
        names = {"none": [], "all": ["input", "weight"]}.get(policy, [policy])
        assert sizes == [size[name] for name in names]
        got = y, *torch.autograd.grad(y, (x, w, b), torch.ones_like(y) + y.detach())
        want = want or got
        for a, b_ in zip(got, want, strict=True):
            assert torch.equal(a, b_), policy


@pytest.mark.parametrize("policy", POLICIES)
def test_only_what_backward_reads_is_kept(policy: str) -> None:
    """dw reads the input, dx the weight; without gradients nothing waits."""
    allowed = {"none": (), "all": ("input", "weight")}.get(policy, (policy,))
    for grads, reads in (({"x": False}, "input"), ({"w": False}, "weight"), ({"x": False, "w": False}, None)):
        x, w, b, options = drawn(LAYERS["one segment"], **grads)
        size = plan_of(x, w, **options).spectrum_size
        y, sizes = waiting(lambda x=x, w=w, b=b: conv2d(x, w, b, **LAYERS["one segment"][2], save=policy))
        assert sizes == ([size[reads]] if reads in allowed else [])
        y.sum().backward()
        assert (x.grad is None) == (not x.requires_grad) and (w.grad is None) == (not w.requires_grad)
    with torch.no_grad():
        x, w, b, options = drawn(LAYERS["one segment"])
        assert waiting(lambda: conv2d(x, w, b, **options, save=policy))[1] == []


def test_a_limit_of_bytes() -> None:
    x, w, b, options = drawn(LAYERS["one segment"])
    whole = sum(plan_of(x, w, **options).spectrum_size.values())
    assert sum(waiting(lambda: conv2d(x, w, b, **options, save="all", save_limit=whole))[1]) == whole
    assert waiting(lambda: conv2d(x, w, b, **options, save="all", save_limit=whole - 1))[1] == []


@pytest.mark.parametrize("changed", ["x", "w"])
def test_an_operand_changed_in_place_is_seen(changed: str) -> None:
    """Although backward has its spectrum, and would not read it."""
    x, w, b, options = drawn(LAYERS["one segment"])
    a, c = x * 1, w * 1
    y = conv2d(a, c, b, **options, save="all")
    {"x": a, "w": c}[changed].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("policy", ["all", *(pytest.param(word, marks=pytest.mark.slow) for word in POLICIES[1:3])])
def test_first_and_second_derivatives(policy: str) -> None:
    layer = (3, 2, 5, 4), (4, 1, 3, 2), {"padding": (1, 2), "groups": 2}
    x, w, b, options = drawn(layer, torch.float64)

    def layer_of(x: Any, w: Any, b: Any) -> Any:
        return conv2d(x, w, b, **options, save=policy)

    assert torch.autograd.gradcheck(layer_of, (x, w, b))
    assert torch.autograd.gradgradcheck(layer_of, (x, w, b))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_without_breaks(dynamic: bool) -> None:
    x, w, b, options = drawn(LAYERS["groups"])

    def loss(x: Any, w: Any, b: Any) -> Any:
        return conv2d(x, w, b, **options, save="all").square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for got, want in zip(*(torch.autograd.grad(f(x, w, b), (x, w, b)) for f in (compiled, loss)), strict=True):
        assert torch.equal(got, want)


def test_under_vmap_nothing_is_kept() -> None:
    """Gradients of each sample by itself, and a batch of cotangents on a graph that holds spectra."""
    x, w, _, options = drawn(LAYERS["groups"])

    def loss(w: Any, x: Any, policy: str) -> Any:
        return conv2d(x[None], w, **options, save=policy).square().sum()

    each = [
        torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, None))(w.detach(), x.detach(), policy)
        for policy in ("none", "all")
    ]
    assert torch.equal(*each)
    y = conv2d(x, w, **options, save="all")
    cotangents = torch.stack([torch.ones_like(y), y.detach()])
    batched = torch.autograd.grad(y, (x, w), cotangents, is_grads_batched=True, retain_graph=True)
    for i, cotangent in enumerate(cotangents):
        for got, want in zip(batched, torch.autograd.grad(y, (x, w), cotangent, retain_graph=True), strict=True):
            torch.testing.assert_close(got[i], want, rtol=1e-4, atol=1e-4)


def test_the_operator_is_what_its_schema_says() -> None:
    """Bytes between the values of a spectrum are any, so that no two runs can be compared bit by bit."""
    x, w, b, options = drawn(LAYERS["one segment"])
    layer = of_layer(w, **options)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(SAVING, (x, w, b, *layer, "all", None), test_utils=checks)


def test_a_layer_has_a_policy() -> None:
    layer = FFTConv2d(3, 5, 3, padding=1, save="all", save_limit=10**6)
    x = torch.ones(20, 3, 9, 9, requires_grad=True)
    y, sizes = waiting(lambda: layer(x))
    assert len(sizes) == 2 and sum(sizes) <= 10**6 and "save=all, save_limit=1000000" in repr(layer)
    assert torch.equal(y, FFTConv2d._conv_forward(layer, x, layer.weight, layer.bias))
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize(("keep", "told"), [({"save": "both"}, "save is 'both'"), ({"save_limit": -1}, "save_limit")])
def test_words_that_are_no_policy(keep: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidOptionError, match=told):
        FFTConv2d(3, 5, 3, **keep)
    x, w, b, options = drawn(LAYERS["one segment"])
    with pytest.raises(InvalidOptionError, match=told):
        conv2d(x, w, b, **options, **({"save": "all"} | keep))
