"""RMS norm and rotary positions in one: the reference against the layers, and Triton's kernel against the reference."""

import ctypes
import functools
import sys
import types
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax.benchmarks.kernels import poison
from livetalk_jax.kernels import norm_rope as folder
from livetalk_jax.kernels.norm_rope import norm_rope, select, without_triton
from livetalk_jax.nn.layers import RMSNorm
from livetalk_jax.nn.rotary import rotary_3d, rotate

# Width and width of a head: the models', and such as are no power of two.
WIDTHS = [(5120, 128), (1536, 128), (96, 32), (400, 80), (42, 14)]
# Of whole tokens; their squares stay within float32.
MAGNITUDES = (1.0, 0.0, 1e-15, 1e-3, 1e4, 1e15)


def inputs(tokens, dim, head_dim, dtype, magnitudes=(1.0,)):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, tokens, dim)) * np.resize(magnitudes, (tokens, 1))
    weight = jnp.asarray(1 + 0.1 * rng.standard_normal(dim), dtype)
    cos, sin = (jnp.asarray(table)[:tokens] for table in rotary_3d((3, 5, 7), head_dim))
    return jnp.asarray(x, dtype), weight, cos, sin


def error(ours, expected):
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(ours - expected) / np.linalg.norm(expected)


def errors(ours, expected):
    """The error of each token; of one that is zero, the largest number."""
    ours, expected = (np.asarray(x, np.float64).reshape(-1, x.shape[-2] * x.shape[-1]) for x in (ours, expected))
    size = np.linalg.norm(expected, axis=1)
    return np.linalg.norm(ours - expected, axis=1) / np.where(size == 0.0, 1.0, size)


def test_reference_against_the_layers():
    x, weight, cos, sin = inputs(100, 96, 24, "float32")
    norm = RMSNorm(96, eps=1e-6)
    norm.scale[...] = weight
    expected = rotate(norm(x).reshape(2, 100, 4, 24), cos, sin)
    assert error(norm_rope(x, weight, cos, sin, eps=1e-6), expected) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reference_of_small_and_large_tokens(dtype):
    x, weight, cos, sin = inputs(13, 42, 14, dtype, MAGNITUDES)
    wide, scale, cosine, sine = (np.asarray(array, np.float64) for array in (x, weight, cos, sin))
    wide = wide * scale / np.sqrt(np.mean(np.square(wide), -1, keepdims=True) + 1e-6)
    pairs = wide.reshape(2, 13, 3, 7, 2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * (cosine + 1j * sine)[:, None]
    expected = np.stack([turned.real, turned.imag], -1).reshape(2, 13, 3, 14)
    assert errors(norm_rope(x, weight, cos, sin, eps=1e-6), expected).max() < {"float32": 1e-6, "bfloat16": 4e-3}[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize(("dim", "head_dim"), WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_triton_against_the_reference(dim, head_dim, dtype):
    if reason := without_triton():
        pytest.skip(reason)
    from livetalk_jax.kernels.norm_rope import triton

    args = inputs(101, dim, head_dim, dtype, MAGNITUDES)
    expected = norm_rope(*args, eps=1e-6)
    poison()
    out = jax.jit(lambda *a: triton.norm_rope(*a, eps=1e-6))(*args)
    assert errors(out, expected).max() < {"float32": 1e-6, "bfloat16": 6e-3}[dtype]


@pytest.mark.gpu
def test_triton_on_every_device():
    """Inside `shard_map`, of the tokens that a device holds, where its tables are."""
    if reason := without_triton():
        pytest.skip(reason)
    from livetalk_jax.kernels.norm_rope import triton

    # As `parallel.mesh` makes it: on an explicit mesh, arguments would have to be spread before.
    mesh = jax.make_mesh((len(jax.devices()),), ("tokens",), axis_types=(jax.sharding.AxisType.Auto,))
    x, weight, cos, sin = inputs(104, 96, 32, "bfloat16")
    tokens, table = jax.P(None, "tokens"), jax.P("tokens")

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(tokens, jax.P(), table, table), out_specs=tokens, check_vma=False)
    def spread(*args):
        return triton.norm_rope(*args, eps=1e-6)

    assert errors(spread(x, weight, cos, sin), norm_rope(x, weight, cos, sin, eps=1e-6)).max() < 6e-3


def test_triton_has_no_gradient():
    """Known before anything is compiled, so without a GPU; but jax-triton cannot be imported without JAX's part for GPUs."""
    pytest.importorskip("jax_triton", exc_type=ImportError)
    from livetalk_jax.kernels.norm_rope import triton

    x, weight, cos, sin = inputs(5, 96, 32, "float32")
    with pytest.raises(NotImplementedError, match="Triton's norm with rotary positions has no gradient"):
        jax.eval_shape(jax.grad(lambda x: jnp.sum(triton.norm_rope(x, weight, cos, sin, eps=1e-6))), x)


HOPPER, AMPERE, CPU = (
    types.SimpleNamespace(platform=platform, compute_capability=version)
    for platform, version in [("gpu", "9.0"), ("gpu", "8.0"), ("cpu", "")]
)


@pytest.mark.parametrize(
    ("dtype", "attention", "device", "against", "name"),
    [
        ("bfloat16", "mosaic", HOPPER, None, "triton"),
        ("bfloat16", "cudnn", HOPPER, None, "triton"),
        ("bfloat16", "mosaic_fp8", HOPPER, None, "xla"),  # which quantises in the same pass
        ("float32", "reference", HOPPER, None, "xla"),
        ("bfloat16", "cudnn", AMPERE, None, "xla"),
        ("bfloat16", "reference", CPU, None, "xla"),
        ("bfloat16", "mosaic", HOPPER, "jax-triton is not installed", "xla"),
    ],
)
def test_where_triton_is_chosen(monkeypatch, dtype, attention, device, against, name):
    theirs = types.ModuleType("triton")
    theirs.norm_rope = lambda *args, eps: None
    monkeypatch.setitem(sys.modules, f"{folder.__name__}.triton", theirs)
    monkeypatch.setattr(folder, "triton", theirs, raising=False)
    monkeypatch.setattr(folder, "without_triton", lambda: against)
    assert select(dtype, attention, device) == (name, {"triton": theirs.norm_rope, "xla": norm_rope}[name])


OF_031 = ["absl-py>=1.4.0", "jax>=0.8.2", "triton>=3.6", 'pytest; extra == "tests"']
OF_041 = ["absl-py>=1.4.0", "jax>=0.11.0", "triton>=3.7", 'pytest; extra == "tests"']


@pytest.mark.parametrize(
    ("requirements", "triton", "reason"),
    [
        (OF_031, "3.6.0", "jax-triton 0.4.1 wants a GPU, of which the NVIDIA driver shows this process none"),
        (None, "3.7.1", "jax-triton is not installed"),
        (OF_041, None, "jax-triton 0.4.1 wants triton>=3.7, which is not installed"),
        (OF_041, "3.6.0", "jax-triton 0.4.1 wants triton>=3.7, not triton 3.6.0"),
        (OF_041, "3.6.0+git1234", "jax-triton 0.4.1 wants triton>=3.7, not triton 3.6.0+git1234"),
        (OF_041, "3.7.1", None),
        (OF_041, "3.10.0", None),
        (OF_031, "3.6.0", None),
        (["triton"], "3.6.0", None),
        (["triton<4,>=3.6"], "3.5.1", "jax-triton 0.4.1 wants triton<4,>=3.6, not triton 3.5.1"),
    ],
)
def test_why_triton_cannot_run(monkeypatch, requirements, triton, reason):
    """Whatever is installed here."""
    versions = {"jax-triton": requirements and "0.4.1", "triton": triton, "jax": "0.11.2", "absl-py": "2.3.1"}

    def version(name):
        if versions[name] is None:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: requirements)
    monkeypatch.setattr(folder, "_has_gpu", lambda: reason is None or "driver" not in reason)
    assert without_triton() == reason


@pytest.mark.parametrize(("answer", "has"), [(0, True), (100, False), (None, False)])
def test_a_driver_without_a_gpu(monkeypatch, answer, has):
    """100: CUDA_ERROR_NO_DEVICE, as where CUDA_VISIBLE_DEVICES is empty; None: no driver."""

    def load(name):
        if answer is None:
            raise OSError(f"{name}: cannot open shared object file")
        return types.SimpleNamespace(cuInit=lambda flags: answer)

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert folder._has_gpu() is has
