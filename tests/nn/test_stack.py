"""The stack of blocks: a scan is the loop, and what is recomputed in the backward pass is what was computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import print_saved_residuals
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.sharding import AxisType, PartitionSpec

from livetalk_jax.nn import stack as stacks
from livetalk_jax.nn.layers import Linear
from livetalk_jax.nn.stack import BlockStack, Execution, gather_around
from livetalk_jax.parallel.seams import Part

WIDTH, LAYERS = 8, 4


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x, extra):
        return x + jnp.tanh(self.linear(x)) * extra["scale"] + extra["shift"]


@pytest.fixture(scope="module")
def stack():
    return BlockStack(Block, LAYERS, rngs=nnx.Rngs(0))


def inputs():
    x = jax.random.normal(jax.random.key(1), (3, WIDTH))
    extras = [{"scale": jnp.float32(i + 1), "shift": jax.random.normal(jax.random.key(10 + i), (WIDTH,))} for i in range(LAYERS)]
    return x, extras


def run(stack, x, extras, execution):
    return stack(lambda block, x, extra: block(x, extra), x, extras, execution)


EXECUTIONS = [Execution(scan, remat) for scan in (False, True) for remat in ("none", "full", "save_dots")][1:]


def test_order_and_per_layer_inputs(stack):
    x, extras = inputs()
    expected = x
    for block, extra in zip(stack.layers, extras, strict=True):
        expected = block(expected, extra)
    np.testing.assert_allclose(run(stack, x, extras, Execution()), expected, rtol=1e-6)
    assert not np.allclose(run(stack, x, extras[::-1], Execution()), expected, rtol=1e-2)
    kernels = [np.asarray(block.linear.kernel[...]) for block in stack.layers]
    assert not np.allclose(kernels[0], kernels[1]), "blocks were made alike"


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_every_execution_gives_the_same(stack, execution):
    x, extras = inputs()
    graph, state = nnx.split(stack)

    def loss(state, x, execution):
        return jnp.sum(jnp.square(run(nnx.merge(graph, state), x, extras, execution)))

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)
    value, gradients = gradient(state, x, Execution())
    other_value, others = gradient(state, x, execution)
    np.testing.assert_allclose(other_value, value, rtol=1e-6)
    assert len(jax.tree.leaves(gradients)) == 2 * LAYERS + 1
    for ours, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True):
        assert np.any(ours)
        assert np.linalg.norm(other - ours) < 1e-5 * np.linalg.norm(ours)


def residuals(stack, execution):
    x, extras = inputs()
    graph, state = nnx.split(stack)

    def thrice(block, x, extra):  # or a block would compute no more than it is given
        return block(block(block(x, extra), extra), extra)

    def run_thrice(state, x):
        return nnx.merge(graph, state)(thrice, x, extras, execution)

    saved = jax.eval_shape(lambda state, x: jax.vjp(lambda x: run_thrice(state, x), x)[1], state, x)
    return sum(leaf.size for leaf in jax.tree.leaves(saved))


def test_remat_keeps_less(stack):
    assert residuals(stack, Execution(remat="full")) < residuals(stack, Execution(remat="none"))


def test_scan_has_one_block_in_its_program(stack):
    x, extras = inputs()

    def tanhs(execution):
        program = jax.jit(lambda x: run(stack, x, extras, execution)).lower(x).as_text()
        return program.count("stablehlo.tanh")

    assert tanhs(Execution(scan=True)) == 1
    assert tanhs(Execution(scan=False)) == LAYERS


def test_map_goes_over_all_blocks(stack):
    shapes = stack.map(lambda block: block.linear.kernel.shape)
    assert shapes == [(WIDTH, WIDTH)] * LAYERS


@pytest.mark.parametrize("count", [0, 3, 5])
def test_wrong_number_of_inputs(stack, count):
    with pytest.raises(ValueError, match=f"4 blocks need as many per-layer inputs, not {count}"):
        stack(lambda block, x, extra: x, jnp.zeros(WIDTH), [None] * count)


class Network(nnx.Module):
    def __init__(self, rngs):
        self.before = Linear(WIDTH, WIDTH, rngs=rngs)
        self.stack = BlockStack(Block, LAYERS, rngs=rngs)

    def __call__(self, x, extras, execution):
        # Of each block by itself, as keys and values are.
        x = self.before(x)
        return run(self.stack, x + sum(self.stack.map(lambda block: block.linear(x))), extras, execution)


@pytest.mark.parametrize(("remat", "attended", "multiplied"), [("none", 1, 5), ("save_dots", 1, 5), ("full", 2, 6)])
def test_what_is_computed_again(remat, attended, multiplied):
    """Of an attention between two products, whose gradients take three more."""
    attention = Primitive("dot_product_attention_fwd_wrapper")  # cuDNN's, by its name
    attention.def_abstract_eval(lambda x: x)
    ad.defjvp(attention, lambda t, x: t * jnp.cos(x))
    graph, state = nnx.split(BlockStack(lambda rngs: nnx.Linear(4, 4, use_bias=False, rngs=rngs), 1, rngs=nnx.Rngs(0)))

    def loss(state):
        stack = nnx.merge(graph, state)
        return jnp.sum(stack(lambda block, x, _: block(attention.bind(block(x))), jnp.ones((3, 4)), [()], Execution(remat=remat)))

    text = str(jax.make_jaxpr(jax.grad(loss))(state))
    assert (text.count(attention.name), text.count("dot_general[")) == (attended, multiplied)


def test_broadcasts_are_not_kept(capsys):
    """Kept in a shard_map whose weights are in parts, one ends JAX 0.11.2's compiler in a segmentation fault."""

    def scaled(x, y):
        return jnp.sum(jnp.sin(x) * jnp.broadcast_to(jnp.exp(y), x.shape))

    print_saved_residuals(jax.checkpoint(scaled, policy=stacks._POLICIES["none"]), jnp.ones((4, 3)), jnp.ones(3))
    kept = capsys.readouterr().out
    assert "exp" in kept and "broadcast_in_dim" not in kept


@pytest.mark.parametrize("execution", [Execution(), Execution(False, "save_dots"), Execution(True, "full")], ids=str)
def test_weights_in_parts(execution):
    """Devices that hold half of every matrix compute what one does; a backward pass keeps no matrix whole."""
    graph, state = nnx.split(Network(nnx.Rngs(0)))
    x, extras = inputs()
    mesh = jax.make_mesh((2,), ("half",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    specs = jax.tree.map(lambda w: PartitionSpec("half") if w.ndim == 2 else PartitionSpec(), state)

    def apply(state):
        return nnx.merge(graph, state)(x, extras, execution)

    def on_each(state):
        parts = jax.tree.map(lambda w: Part(w, ("half",)) if w.ndim == 2 else w, state)
        return gather_around(nnx.merge(graph, parts))(x, extras, execution)

    spread = jax.shard_map(on_each, mesh=mesh, in_specs=(specs,), out_specs=PartitionSpec(), check_vma=False)

    def loss(fn, state):
        return jnp.sum(jnp.square(fn(state)))

    expected, theirs = jax.jit(jax.value_and_grad(lambda s: loss(apply, s)))(state)
    value, ours = jax.jit(jax.value_and_grad(lambda s: loss(spread, s)))(state)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.linalg.norm(mine - other) < 1e-5 * np.linalg.norm(other)

    program = jax.jit(lambda s: jax.grad(lambda s: loss(spread, s))(s)).lower(state).as_text()
    gathers = program.count("stablehlo.all_gather")
    layers = 1 if execution.scan else LAYERS
    assert gathers == 1 + 2 * LAYERS + 2 * layers, "around once, and each block's in both passes"
