"""The contract of attention: every implementation against torch, on the kinds of shapes that the networks meet."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from livetalk_jax.benchmarks.kernels import poison
from livetalk_jax.config import DiTConfig
from livetalk_jax.kernels.attention import EIGHT_BIT, IMPLEMENTATIONS, cudnn, reference, select
from livetalk_jax.kernels.attention.specs import SPECS
from livetalk_jax.shapes import Geometry


@dataclasses.dataclass(frozen=True)
class Serves:
    """What an implementation can do; it must refuse the rest."""

    gpu: bool = True
    dtypes: tuple[str, ...] = ("bfloat16",)
    widths: tuple[int, ...] = (8, 32, 128)
    gradients: bool = True


SERVES = {
    "reference": Serves(gpu=False, dtypes=("float32", "bfloat16")),
    "cudnn": Serves(),
    "mosaic": Serves(widths=(128,), gradients=False),
}
# How far a result may be from float64, in norms: float32's rounding; for bfloat16 that of the inputs' products and of the output.
TOLERANCE = {"float32": 2e-6, "bfloat16": 6e-3}
# Query tokens, key tokens, heads, width: SPECS's kinds (self, text, image with its odd number, audio), with fewer tokens and heads.
SHAPES = [(64, 64, 4, 32), (50, 512, 2, 128), (50, 257, 2, 128), (90, 32, 3, 128), (1, 1, 1, 8), SPECS["self_tiny"]]


@pytest.fixture(autouse=True)
def full_precision():
    """Without it a GPU multiplies float32 as TF32."""
    with jax.default_matmul_precision("highest"):
        yield


def case(name, *rest):
    return pytest.param(name, *rest, marks=pytest.mark.gpu if SERVES[name].gpu else ())


def dtypes():
    return [case(name, dtype) for name in IMPLEMENTATIONS for dtype in SERVES[name].dtypes]


def inputs(shape, dtype, batch=2, spread=3.0):
    queries, keys, heads, width = shape
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((batch, n, heads, width)) for n in (queries, keys, keys))
    return tuple(jnp.asarray(x, dtype) for x in (spread * q, k, v))


def by_torch(q, k, v, key_length=None):
    """float64 from the very numbers that the implementation is given."""
    q, k, v = (torch.from_numpy(np.asarray(x, np.float64)).movedim(1, 2) for x in (q, k, v))
    mask = None if key_length is None else torch.arange(k.shape[2]).lt(key_length)[None].expand(q.shape[2], -1)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).movedim(1, 2).numpy()


def error(ours, expected):
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    assert ours.shape == expected.shape
    return np.linalg.norm(ours - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        case(name, dtype, shape)
        for name in IMPLEMENTATIONS
        for dtype in SERVES[name].dtypes
        for shape in SHAPES
        if shape[-1] in SERVES[name].widths
    ],
    ids=str,
)
def test_against_torch(name, dtype, shape):
    q, k, v = inputs(shape, dtype)
    if SERVES[name].gpu:
        poison()
    out = jax.jit(IMPLEMENTATIONS[name])(q, k, v)
    assert out.dtype == q.dtype
    assert error(out, by_torch(q, k, v)) < TOLERANCE[dtype]


@pytest.mark.parametrize("length", [1, 31, 64])
@pytest.mark.parametrize(("name", "dtype"), dtypes())
def test_keys_from_a_length_on_are_masked(name, dtype, length):
    """The length may be a number or known only when the program runs; what stands behind it may be anything."""
    q, k, v = inputs((50, 64, 2, 128), dtype)
    expected = by_torch(q, k, v, length)
    attend = jax.jit(lambda *args: IMPLEMENTATIONS[name](*args[:3], key_length=args[3]))
    assert error(attend(q, k, v, jnp.int32(length)), expected) < TOLERANCE[dtype]
    fixed = jax.jit(lambda q, k, v: IMPLEMENTATIONS[name](q, k, v, key_length=length))
    assert error(fixed(q, k.at[:, length:].set(100.0), v.at[:, length:].set(-100.0)), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize(("name", "dtype"), dtypes())
def test_without_a_valid_key_the_result_is_zero(name, dtype):
    q, k, v = inputs((50, 64, 2, 128), dtype)
    np.testing.assert_array_equal(IMPLEMENTATIONS[name](q, k, v, key_length=jnp.int32(0)), jnp.zeros_like(q))


@pytest.mark.parametrize(("name", "dtype"), dtypes())
def test_large_logits_do_not_overflow(name, dtype):
    q, k, v = inputs((50, 64, 2, 128), dtype, spread=300.0)
    assert error(IMPLEMENTATIONS[name](q, k, v), by_torch(q, k, v)) < 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("length", [None, 20, 0])
@pytest.mark.parametrize(("name", "dtype"), dtypes())
def test_log_sum_exp(name, dtype, length):
    q, k, v = inputs((50, 64, 2, 128), dtype)
    out, lse = IMPLEMENTATIONS[name](q, k, v, key_length=length, return_lse=True)
    np.testing.assert_array_equal(out, IMPLEMENTATIONS[name](q, k, v, key_length=length))
    logits = np.einsum("bnak,blak->banl", np.asarray(q, np.float64), np.asarray(k, np.float64)) / 128**0.5
    expected = torch.logsumexp(torch.from_numpy(logits[..., :length]), -1).numpy() if length != 0 else np.full((2, 2, 50), -np.inf)
    assert lse.dtype == jnp.float32
    np.testing.assert_allclose(lse, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cut", [0, 1, 20, 64])
@pytest.mark.parametrize(("name", "dtype"), dtypes())
def test_two_halves_merge_into_the_whole(name, dtype, cut):
    """What ring attention does with its neighbours' keys; a part may be all padding."""
    q, k, v = inputs((50, 64, 2, 128), dtype)
    attend = IMPLEMENTATIONS[name]
    whole, whole_lse = attend(q, k, v, return_lse=True)
    masked = attend(q, k, v, key_length=cut, return_lse=True)
    after = jnp.roll(k, -cut, axis=1), jnp.roll(v, -cut, axis=1)
    rest = attend(q, *after, key_length=64 - cut, return_lse=True)
    lse = jnp.logaddexp(masked[1], rest[1])
    weights = (jnp.exp(part[1] - lse).transpose(0, 2, 1)[..., None] for part in (masked, rest))
    merged = sum(weight * part[0].astype(jnp.float32) for weight, part in zip(weights, (masked, rest), strict=True))
    assert error(merged, whole) < TOLERANCE[dtype]
    np.testing.assert_allclose(lse, whole_lse, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", [case(name) for name in IMPLEMENTATIONS if SERVES[name].gradients])
def test_gradients(name):
    q, k, v = inputs((40, 64, 2, 128), "bfloat16")
    ours = jax.grad(lambda *x: jnp.sum(jnp.sin(IMPLEMENTATIONS[name](*x, key_length=50).astype(jnp.float32))), (0, 1, 2))(q, k, v)
    theirs = [torch.from_numpy(np.asarray(x, np.float64)).requires_grad_() for x in (q, k, v)]
    rows, keys, values = (x.movedim(1, 2) for x in theirs)
    out = torch.nn.functional.scaled_dot_product_attention(rows, keys[:, :, :50], values[:, :, :50])
    torch.sin(out).sum().backward()
    for gradient, expected in zip(ours, theirs, strict=True):
        assert error(gradient, expected.grad.numpy()) < 2e-2


@pytest.mark.parametrize(
    ("name", "spec"),
    [case(name, spec) for name in IMPLEMENTATIONS for spec in SPECS if SERVES[name].gpu and SPECS[spec][-1] in SERVES[name].widths],
)
def test_real_sizes(name, spec):
    """Against the reference, with as many heads as its logits leave memory for."""
    queries, keys, heads, width = SPECS[spec]
    q, k, v = inputs((queries, keys, min(heads, 4), width), "bfloat16", batch=1)
    assert error(IMPLEMENTATIONS[name](q, k, v), jax.jit(reference.attention)(q, k, v)) < TOLERANCE["bfloat16"]


@pytest.mark.parametrize(
    ("name", "dtype", "width", "reason"),
    [
        ("cudnn", "float32", 32, "takes bfloat16 or float16, not float32"),
        ("cudnn", "bfloat16", 12, "heads of a multiple of 8 up to 256, not 12"),
        ("cudnn", "bfloat16", 264, "heads of a multiple of 8 up to 256, not 264"),
        ("mosaic", "float32", 128, "takes bfloat16, not float32"),
        ("mosaic", "bfloat16", 64, "heads of 128, not 64"),
    ],
)
def test_what_cannot_be_served_is_refused(name, dtype, width, reason):
    q, k, v = inputs((8, 8, 1, width), dtype)
    with pytest.raises(NotImplementedError, match=reason):
        IMPLEMENTATIONS[name](q, k, v)


def device(platform="gpu", compute_capability="9.0"):
    return types.SimpleNamespace(platform=platform, compute_capability=compute_capability, device_kind="a test's device")


def test_select_without_a_gpu():
    cpu = device("cpu", "")
    assert select("reference", "float32", cpu) == ("reference", reference.attention)
    assert select("auto", "bfloat16", cpu) == ("reference", reference.attention)
    for name in IMPLEMENTATIONS:
        if SERVES[name].gpu:
            with pytest.raises(ValueError, match=f"attention '{name}' needs an NVIDIA GPU; choose 'reference' here"):
                select(name, "bfloat16", cpu)


def test_select_with_a_gpu():
    hopper, ampere = device(), device(compute_capability="8.0")
    assert select("auto", "float32", hopper) == ("reference", reference.attention)
    assert select("auto", "bfloat16", hopper)[0] == "mosaic"
    assert select("auto", "bfloat16", ampere) == ("cudnn", cudnn.attention)
    assert select("auto", "bfloat16", hopper, gradients=True) == ("cudnn", cudnn.attention)
    assert select("cudnn", "bfloat16", hopper) == ("cudnn", cudnn.attention)
    with pytest.raises(ValueError, match="attention 'mosaic' is for Hopper, not a test's device; choose 'cudnn'"):
        select("mosaic", "bfloat16", ampere)
    for name in IMPLEMENTATIONS:
        if "float32" not in SERVES[name].dtypes:
            with pytest.raises(ValueError, match=f"attention '{name}' takes bfloat16.*, not float32; choose 'reference'"):
                select(name, "float32", hopper)


@pytest.mark.parametrize(("keys", "width", "by"), [(4096, 128, "mosaic"), (512, 128, "cudnn"), (4096, 80, "cudnn")])
def test_where_our_kernel_serves(monkeypatch, keys, width, by):
    used = []
    monkeypatch.setattr(cudnn, "attention", lambda q, k, v: used.append("cudnn"))
    monkeypatch.setitem(IMPLEMENTATIONS, "mosaic", lambda q, k, v: used.append("mosaic"))
    q, k = (jax.ShapeDtypeStruct((1, n, 2, width), jnp.bfloat16) for n in (16, keys))
    select("mosaic", "bfloat16", device())[1](q, k, k)
    assert used == [by]


def test_select_names_what_there_is():
    with pytest.raises(ValueError, match=f"unknown attention 'flash'; choose auto, {', '.join(IMPLEMENTATIONS | EIGHT_BIT)}"):
        select("flash", "bfloat16")


def test_every_implementation_is_tested():
    assert SERVES.keys() == IMPLEMENTATIONS.keys()


def test_specs_are_the_configured_sizes():
    """Tokens and heads of the released sizes, worked out from the stream's geometry."""
    config, tiny = DiTConfig.wan_14b(), DiTConfig.tiny()
    heads = (config.num_heads, config.head_dim)
    small, large = Geometry(720, 416, 33, 5), Geometry(768, 448, 33, 5)
    rows = small.tokens // small.token_grid[0]
    assert {
        "self_720x416": (small.tokens, small.tokens, *heads),
        "self_768x448": (large.tokens, large.tokens, *heads),
        "text_720x416": (small.tokens, config.text_len, *heads),
        "image_720x416": (small.tokens, 257, *heads),
        "audio_720x416": (rows, config.audio_context_tokens, *heads),
        "self_tiny": (Geometry(128, 128, 33, 5).tokens, Geometry(128, 128, 33, 5).tokens, tiny.num_heads, tiny.head_dim),
    } == SPECS
