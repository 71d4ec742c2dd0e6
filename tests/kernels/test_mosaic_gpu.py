"""The Hopper attention kernel in Pallas's interpreter for GPU kernels: its loads, barriers, masks and sums, on a CPU.

The interpreter does not know `run_state`, matrix products from registers, two views of one memory or hardware barriers, which only
order the two computing warpgroups' turns; the stand-ins below compute the same. On a GPU test_attention.py runs the kernel itself.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

from livetalk_jax.kernels.attention import eight_bit, mosaic_gpu, reference


class Value:
    """A reference whose contents are known while the kernel is traced."""

    def __init__(self, value):
        self.value = value

    def __getitem__(self, _):
        return self.value

    def __setitem__(self, _, value):
        self.value = value


def run_state(body):
    def run(state):
        refs = jax.tree.map(Value, state)
        body(refs)
        return jax.tree.map(lambda ref: ref.value, refs, is_leaf=lambda x: isinstance(x, Value))

    return run


def shadow(module, **others):
    """`module` with some of its names meaning something else."""
    names = {name: getattr(module, name) for name in dir(module) if name != "transpose_ref"}
    return types.SimpleNamespace(**{**names, **others})


@pytest.fixture
def interpret(monkeypatch):
    pl, plgpu = mosaic_gpu.pl, mosaic_gpu.plgpu

    def wgmma(acc, a, b):
        if not isinstance(acc, Value):
            plgpu.wgmma(acc, a, b)
        elif isinstance(a, jax.Array):
            acc.value += jnp.dot(a.astype(jnp.float32), b[...].astype(jnp.float32))
        else:

            def product(ref):
                plgpu.wgmma(ref, a, b)
                return ref[...]

            acc.value += pl.run_scoped(product, plgpu.ACC(acc.value.shape, jnp.float32))

    class ACC(plgpu.ACC):
        @staticmethod
        def init(value):
            return value

    def to_operand(p):
        """What a thread holds as its four neighbours of 16."""
        rows = p.shape[0]
        return p.reshape(rows, -1, 2, 4, 2).swapaxes(2, 3).reshape(p.shape).astype(jnp.float8_e4m3fn)

    replaced = {
        "wgmma": wgmma,
        "ACC": ACC,
        "wgmma_accumulator_load": lambda ref, wait_n: ref.value,
        "RefUnion": lambda copied, multiplied: multiplied,
    }
    monkeypatch.setattr(mosaic_gpu, "_views", lambda memory, two: (memory, memory))
    monkeypatch.setattr(mosaic_gpu, "_to_operand", lambda shape: to_operand)
    monkeypatch.setattr(mosaic_gpu, "pl", shadow(pl, run_state=run_state))
    monkeypatch.setattr(mosaic_gpu, "plgpu", shadow(plgpu, **replaced))
    for name in ("_sync", "_arrive"):
        monkeypatch.setattr(mosaic_gpu, name, lambda barrier: None)
    yield InterpretGPUParams()
    interpret_pallas_call.reset_gpu_interpret_mode_state()


# Batch, queries, keys, heads, valid keys (None: all of them, known when compiled). Two programs share the tiles.
CASES = [
    (2, 128, 192, 1, None),
    (1, 256, 128, 2, 70),
    (1, 128, 192, 1, 64),
    (1, 128, 128, 1, 0),
    (1, 130, 150, 2, None),
    (1, 1, 1, 1, None),
    (1, 70, 257, 1, 199),
]


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the interpreter of JAX 0.10 has no copies past an array's end")
@pytest.mark.parametrize(("batch", "queries", "keys", "heads", "valid"), CASES)
def test_against_the_reference(interpret, batch, queries, keys, heads, valid):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((batch, n, heads, 128)), jnp.bfloat16) for n in (queries, keys, keys))
    length = None if valid is None else jnp.asarray([valid], jnp.int32)
    config = mosaic_gpu.Config(block_q=64, block_kv=64, stages=2, programs=2, pieces=1)
    out, lse = mosaic_gpu.forward(3 * q, k, v, length, keys=keys, return_lse=True, config=config, interpret=interpret)
    expected, expected_lse = reference.attention(3 * q, k, v, key_length=valid, return_lse=True)
    difference = np.linalg.norm(np.float64(out) - np.float64(expected))
    assert difference <= 6e-3 * np.linalg.norm(np.float64(expected))
    np.testing.assert_allclose(lse, expected_lse, atol=1e-4)


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the interpreter of JAX 0.10 has no copies past an array's end")
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads", "valid", "apart"), [(1, 130, 300, 2, None, True), (1, 8, 257, 1, 199, False)]
)
def test_eight_bits(interpret, batch, queries, keys, heads, valid, apart):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((batch, n, heads, 128)), jnp.bfloat16) for n in (queries, keys, keys))
    length = None if valid is None else jnp.asarray([valid], jnp.int32)
    given = eight_bit.quantize(jnp.pad(3 * q, ((0, 0), (0, -queries % 8), (0, 0), (0, 0))), k + 2, v, length)
    config = mosaic_gpu.Config(block_q=64, block_kv=128, stages=2, programs=2, pieces=1, apart=apart)
    out, lse = mosaic_gpu.forward(*given[:3], length, given.scale, keys=keys, return_lse=True, config=config, interpret=interpret)
    expected, expected_lse = eight_bit.attention(3 * q, k + 2, v, key_length=valid, return_lse=True)
    difference = np.linalg.norm(np.float64(out[:, :queries]) - np.float64(expected))
    assert difference <= 1e-2 * np.linalg.norm(np.float64(expected))
    np.testing.assert_allclose(lse[:, :, :queries] + eight_bit.lse_of_mean(3 * q, given.mean), expected_lse, atol=1e-3)


def test_what_it_cannot_serve():
    x = jnp.zeros((1, 8, 1, 128), jnp.bfloat16)
    with pytest.raises(NotImplementedError, match="takes heads of 128, not 64"):
        mosaic_gpu.attention(*(x[..., :64],) * 3)
    with pytest.raises(NotImplementedError, match="takes bfloat16, not float32"):
        mosaic_gpu.attention(*(x.astype(jnp.float32),) * 3)
    with pytest.raises(NotImplementedError, match="has no gradient; train with attention 'cudnn'"):
        jax.eval_shape(jax.grad(lambda q: mosaic_gpu.attention(q, x, x).astype(jnp.float32).sum()), x)


def test_configurations_that_cannot_be():
    with pytest.raises(ValueError, match="multiples of 64"):
        mosaic_gpu.Config(block_q=32, block_kv=128, stages=2, programs=132)
    with pytest.raises(ValueError, match="stages at least 2"):
        mosaic_gpu.Config(block_q=64, block_kv=128, stages=1, programs=132)
