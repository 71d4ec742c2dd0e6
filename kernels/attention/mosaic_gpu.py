"""Softmax attention for NVIDIA Hopper in Pallas Mosaic GPU: bfloat16 in and out, float32 in between, heads of 128.

`forward` takes queries, keys and values in 8 bits too, as `eight_bit.quantize` makes them.

The algorithm is FlashAttention-3 (arXiv 2407.08608): one warpgroup loads keys and values by TMA, two compute 64 queries each.
A computing warpgroup starts the next block's q·kᵀ and this block's p·v together and takes the softmax of the first while the second
is still running; the two warpgroups take turns at the tensor cores. Programs stay on their multiprocessor and go from tile to tile,
so a tile's first loads hide behind the one before.

Blocks of keys are visited from last to first: only the first one visited can be ragged, so the loop has no mask. Rows that stand
past an array's end are zeros when loaded and dropped when stored (TMA), so nothing is padded. The tensor cores want shared memory
in tiles of 8 rows, and Pallas would then copy whole tiles of global memory only; 128 bytes of a row, which are a half of a head's
width in bfloat16, lie in memory the same way with and without tiles, so such a piece has two views: one that is copied and one that
is multiplied.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import llvm
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.mosaic.gpu import utils as mgpu_utils
from jax.experimental.pallas import mosaic_gpu as plgpu

from .eight_bit import HEADROOM

HEAD_DIM = 128
SWIZZLE = 128  # bytes of a swizzled row
COMPUTE = 2  # computing warpgroups; one more loads
ROWS = plgpu.Layout.WGMMA.reduce(1)
# The hardware barriers with which the warpgroups take turns; Mosaic GPU itself uses the first ones.
TURNS = 6


@dataclasses.dataclass(frozen=True)
class Config:
    """`block_q` queries a warpgroup, `block_kv` keys a step, `stages` steps loaded ahead, `programs` resident at a time.

    `pieces` of a head's width are copied and multiplied apart: 2, or 1 where both arrays have a multiple of 8 rows, which is faster,
    and with numbers of 8 bits. With these, `apart` sums each block's p·v for itself and adds it in float32: the tensor cores sum
    such products with about 14 bits.
    """

    block_q: int
    block_kv: int
    stages: int
    programs: int
    pieces: int = 2
    apart: bool = False

    def __post_init__(self):
        if self.block_q % 64 or self.block_kv % 64 or self.stages < 2:
            raise ValueError(f"blocks must be multiples of 64 and stages at least 2, not {self}")


def heuristic(queries: int, keys: int) -> Config:
    """The configuration for arrays of so many rows on this machine's GPU (the 132 multiprocessors of an H200 where there is none)."""
    programs = jax.devices()[0].core_count if jax.default_backend() == "gpu" else 132
    pieces = 2 if queries % 8 or keys % 8 else 1
    return Config(block_q=64, block_kv=128 if keys > 64 else 64, stages=2, programs=programs, pieces=pieces)


def _hardware_barrier(operation: str):
    """bar.sync or bar.arrive of the two computing warpgroups; it orders instructions and guards no memory."""

    instruction = f"bar.{operation} $0, {128 * COMPUTE};"

    @plgpu.inline_mgpu(arg_types=(plgpu.Layout.WG_SPLAT,))
    def run(_, barrier):
        llvm.inline_asm(ir.Type.parse("!llvm.void"), [barrier.registers[()]], instruction, "r", has_side_effects=True)

    return run


@functools.cache
def _to_operand(shape: tuple[int, ...]):
    """float32 as a matrix product leaves it -> e4m3 as one takes it, without moving anything between threads.

    A thread holds columns 2c, 2c + 1, 2c + 8 and 2c + 9 of every 16; they become 4c to 4c + 3 (`eight_bit.in_kernel_order`).
    """

    @plgpu.inline_mgpu(
        arg_types=(plgpu.Layout.WGMMA,),
        return_type=plgpu.ShapeDtypeStruct(shape, jnp.float8_e4m3fn, layout=plgpu.Layout.WGMMA_8BIT),
    )
    def run(_, wide):
        pairs = wide.astype(ir.Float8E4M3FNType.get()).registers
        left, right = pairs[:, ::2], pairs[:, 1::2]
        fours = left.copy()
        fours.flat = [mgpu_utils.vector_concat(list(pair)) for pair in zip(left.flat, right.flat, strict=True)]
        return mgpu.FragmentedArray(_registers=fours, _layout=plgpu.Layout.WGMMA_8BIT.to_mgpu(), _is_signed=None)

    return run


def served(q: jax.Array, k: jax.Array, v: jax.Array, key_length: jax.Array | int | None) -> tuple[int, jax.Array | None]:
    """How many keys are valid: as a number, and as an array if it is one that only the running program knows.

    Raises:
        NotImplementedError: for dtypes or head widths that no kernel here takes.
    """
    if not q.dtype == k.dtype == v.dtype == jnp.bfloat16:
        raise NotImplementedError(f"mosaic attention takes bfloat16, not {q.dtype}, {k.dtype} and {v.dtype}")
    if q.shape[-1] != HEAD_DIM:
        raise NotImplementedError(f"mosaic attention takes heads of {HEAD_DIM}, not {q.shape[-1]}; choose 'cudnn'")
    keys = k.shape[1]
    if isinstance(key_length, int) and key_length > 0:
        return min(key_length, keys), None
    return keys, None if key_length is None else jnp.clip(jnp.asarray(key_length, jnp.int32), 0, keys).reshape(1)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, key_length: jax.Array | int | None = None, return_lse: bool = False):
    """`reference.attention` on Hopper, forward only.

    Raises:
        NotImplementedError: for other dtypes or head widths, and under differentiation.
    """
    keys, length = served(q, k, v, key_length)
    out, lse = _differentiable(q, k, v, length, keys, return_lse, heuristic(q.shape[1], k.shape[1]))
    return (out, lse) if return_lse else out


_sync, _arrive = _hardware_barrier("sync"), _hardware_barrier("arrive")


def _rows(value: float, shape: tuple[int, ...], layout) -> jax.Array:
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def _over(rows: jax.Array, like: jax.Array) -> jax.Array:
    """A value a row, spread over the columns of `like`."""
    return lax.broadcast_in_dim(rows, like.shape, [0])


def _views(memory, two: bool) -> tuple:
    """Scratch memory as it is copied and as it is multiplied."""
    return tuple(memory) if two else (memory, memory)


def _kernel(q_ref, k_ref, v_ref, length_ref, scale_ref, out_ref, lse_ref, scratch, barriers, *, config: Config, keys: int, tiles):
    # The inputs and the output as they are copied and as they are multiplied, [stage or group, piece, row, width].
    *given, out_smem, lse_smem = scratch
    narrow = config.pieces == 2
    (q_copied, q_smem), (k_copied, k_smem), (v_copied, v_smem) = (_views(x, narrow or scale_ref is not None) for x in given)
    out_copied, out_smem = _views(out_smem, narrow)
    q_full, k_full, v_full, q_empty, k_empty, v_empty = barriers
    block_q, block_kv, stages = config.block_q, config.block_kv, config.stages
    batches, heads, q_tiles = tiles
    pieces, width = range(config.pieces), HEAD_DIM // config.pieces
    group = lax.axis_index("group")
    length = keys if length_ref is None else length_ref[0]
    # Without any valid key one block is still visited, wholly masked.
    steps = max(pl.cdiv(keys, block_kv), 1) if length_ref is None else jnp.maximum(pl.cdiv(length, block_kv), 1)
    first = lax.axis_index("program")
    count = batches * heads * q_tiles
    rounds = pl.cdiv(count - first, config.programs)
    eight_bit, apart = scale_ref is not None, config.apart

    def place(index):
        """(batch, head, first query) of a tile; queries run fastest, so that programs share a head's keys in the L2 cache."""
        tile, row = lax.div(index, jnp.int32(q_tiles)), lax.rem(index, jnp.int32(q_tiles))
        return lax.div(tile, jnp.int32(heads)), lax.rem(tile, jnp.int32(heads)), row * (COMPUTE * block_q)

    def slot(step):
        return lax.rem(step, jnp.int32(stages))

    @pl.when(group == COMPUTE)
    def load():
        plgpu.set_max_registers(24, action="decrease")

        @pl.loop(0, rounds)
        def tile(i):
            batch, head, row = place(first + i * config.programs)

            @pl.when(i > 0)
            def _():
                plgpu.barrier_wait(q_empty)

            for piece in pieces:
                columns = pl.ds(piece * width, width)
                plgpu.copy_gmem_to_smem(q_ref.at[batch, pl.ds(row, COMPUTE * block_q), head, columns], q_copied.at[piece], q_full)

            @pl.loop(0, steps)
            def load_block(step):
                at = i * steps + step
                rows = pl.ds((steps - 1 - step) * block_kv, block_kv)
                for source, target, full, empty in ((k_ref, k_copied, k_full, k_empty), (v_ref, v_copied, v_full, v_empty)):

                    @pl.when(at >= stages)
                    def _(empty=empty):
                        plgpu.barrier_wait(empty.at[slot(at)])

                    for piece in pieces:
                        columns = pl.ds(piece * width, width)
                        transposed = eight_bit and source is v_ref
                        block = source.at[batch, head, columns, rows] if transposed else source.at[batch, rows, head, columns]
                        plgpu.copy_gmem_to_smem(block, target.at[slot(at), piece], full.at[slot(at)])

        # Every release is waited for, the last ones here.
        pl.when(rounds > 0)(lambda: plgpu.barrier_wait(q_empty))
        for stage in range(stages):

            @pl.when(rounds * steps > stage)
            def _(stage=stage):
                plgpu.barrier_wait(k_empty.at[stage])
                plgpu.barrier_wait(v_empty.at[stage])

    @pl.when(group < COMPUTE)
    def compute():
        plgpu.set_max_registers(240, action="increase")

        def scores(s_ref, at):
            for piece in pieces:
                plgpu.wgmma(s_ref, q_smem.at[piece, pl.ds(group * block_q, block_q)], k_smem.at[at, piece].T)

        def values(out_refs, p, at):
            for piece in pieces:
                block = v_smem.at[at, piece]
                plgpu.wgmma(out_refs[piece], p, block.T if eight_bit else block)

        def zeros(columns):
            return _rows(0.0, (block_q, columns), plgpu.Layout.WGMMA)

        def to_operand(p):
            return _to_operand(p.shape)(p) if eight_bit else p.astype(q_ref.dtype)

        def base(top):
            """What is subtracted from logits whose largest is `top`."""
            return top - HEADROOM if eight_bit else top

        @pl.when(group == 1)
        def _():
            _arrive(jnp.int32(TURNS))

        @pl.loop(0, rounds)
        def tile(i):
            batch, head, row = place(first + i * config.programs)
            begin = i * steps
            log2_scale = (scale_ref[batch, head, 0] if eight_bit else HEAD_DIM**-0.5) * math.log2(math.e)

            # The first block, alone: it may be ragged.
            plgpu.barrier_wait(q_full)
            plgpu.barrier_wait(k_full.at[slot(begin)])

            def first_scores(s_ref):
                scores(s_ref, slot(begin))
                return s_ref[...]

            s = pl.run_scoped(first_scores, plgpu.ACC((block_q, block_kv), jnp.float32))
            plgpu.barrier_arrive(k_empty.at[slot(begin)])
            if length_ref is not None or keys % block_kv:
                columns = plgpu.broadcasted_iota(jnp.int32, (block_q, block_kv), 1, layout=plgpu.Layout.WGMMA)
                if eight_bit:  # the key that stands there
                    columns = (columns & -16) | ((columns & 6) << 1) | ((columns & 8) >> 2) | (columns & 1)
                s = jnp.where(columns < length - (steps - 1) * block_kv, s, -jnp.inf)
            top = s.max(axis=1) * log2_scale
            safe = top if length_ref is None else jnp.where(top == -jnp.inf, 0.0, top)
            p = jnp.exp2(s * log2_scale - _over(base(safe), s))
            total = p.sum(axis=1)
            parts = (zeros(width),) * config.pieces

            def step(j, carry):
                parts, operand, top, total, due = carry
                now, before = slot(begin + j), slot(begin + j - 1)

                def both(refs):
                    out_refs, s_ref, p_ref, top_ref, total_ref, shrink_ref = refs
                    _sync(TURNS + group)
                    scores(s_ref, now)
                    plgpu.barrier_wait(v_full.at[before])
                    values(out_refs, operand, before)
                    _arrive(TURNS + 1 - group)
                    # The values' products may still be under way.
                    s = lax.optimization_barrier(plgpu.wgmma_accumulator_load(s_ref, wait_n=config.pieces))
                    plgpu.barrier_arrive(k_empty.at[now])
                    higher = jnp.maximum(top, s.max(axis=1) * log2_scale)
                    p = jnp.exp2(s * log2_scale - _over(base(higher), s))
                    shrink = jnp.exp2(top - higher)
                    softmax = lax.optimization_barrier((p, higher, total * shrink + p.sum(axis=1), shrink))
                    p_ref[...], top_ref[...], total_ref[...], shrink_ref[...] = softmax

                    # Here, and not where they are needed, because its branch keeps the softmax above the wait for the values:
                    # ptxas moves that wait up within a basic block, and nothing would be left to do meanwhile.
                    @pl.when(j + 1 < steps)
                    def _():
                        plgpu.barrier_wait(k_full.at[slot(begin + j + 1)])

                added = (zeros(width),) * config.pieces if apart else parts
                state = (tuple(map(plgpu.ACC.init, added)), plgpu.ACC.init(zeros(block_kv)), zeros(block_kv), top, total, top)
                added, _, p, top, total, shrink = pl.run_state(both)(state)
                # Nothing that reads the result may move above the wait that ends run_state.
                added, p, top, total, shrink = lax.optimization_barrier((added, p, top, total, shrink))
                plgpu.barrier_arrive(v_empty.at[before])
                if apart:  # multiplied and added in one instruction, with what the step before left to do
                    parts, due = tuple(x * _over(due, x) + y for x, y in zip(parts, added, strict=True)), shrink
                else:
                    parts = tuple(x * _over(shrink, x) for x in added)
                return parts, to_operand(p), top, total, due

            @pl.when(steps > 1)
            def _():
                plgpu.barrier_wait(k_full.at[slot(begin + 1)])

            due = _rows(1.0, (block_q,), ROWS) if apart else None
            parts, operand, top, total, due = lax.fori_loop(1, steps, step, (parts, to_operand(p), safe, total, due))
            if apart:
                parts = tuple(x * _over(due, x) for x in parts)
            plgpu.barrier_arrive(q_empty)

            last = slot(begin + steps - 1)
            plgpu.barrier_wait(v_full.at[last])
            parts = pl.run_state(lambda out_refs: values(out_refs, operand, last))(tuple(map(plgpu.ACC.init, parts)))
            parts = lax.optimization_barrier(parts)
            plgpu.barrier_arrive(v_empty.at[last])

            plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # of the tile before
            if lse_ref is not None:
                lse_smem[group] = jnp.where(total == 0.0, -jnp.inf, base(top) * math.log(2.0) + jnp.log(total))
            share = 1.0 / (total if length_ref is None else jnp.where(total == 0.0, 1.0, total))
            if eight_bit:
                share = share * scale_ref[batch, head, 1]
            for piece, x in enumerate(parts):
                out_smem[group, piece] = (x * _over(share, x)).astype(out_ref.dtype)
            plgpu.commit_smem()
            mine = pl.ds(row + group * block_q, block_q)
            for piece in pieces:
                plgpu.copy_smem_to_gmem(out_copied.at[group, piece], out_ref.at[batch, mine, head, pl.ds(piece * width, width)])
            if lse_ref is not None:
                plgpu.copy_smem_to_gmem(lse_smem.at[group], lse_ref.at[batch, head, mine])

        plgpu.wait_smem_to_gmem(0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
def _differentiable(q, k, v, length, keys, return_lse, config):
    return forward(q, k, v, length, keys=keys, return_lse=return_lse, config=config)


@_differentiable.defjvp
def _no_gradient(*_):
    raise NotImplementedError("mosaic attention has no gradient; train with attention 'cudnn' or 'reference'")


@functools.partial(jax.jit, static_argnames=("keys", "return_lse", "config", "interpret"))
def forward(q, k, v, length, scale=None, *, keys: int, return_lse: bool, config: Config, interpret=None):
    """The kernel's call. Returns out, bfloat16 [B, N, A, K], and the log-sum-exp [B, A, N] or None.

    Args:
        q, k, v: [B, N, A, K] and [B, L, A, K]; with `scale` as `eight_bit.quantize` makes them.
        length: how many keys are valid, int32 [1], or None for `keys` of them.

    Its own jit: a program that calls it in every layer builds it once.
    """
    batches, queries, heads, _ = q.shape
    q_tiles = pl.cdiv(queries, COMPUTE * config.block_q)
    tiles = (batches, heads, q_tiles)
    block_q, block_kv, stages = config.block_q, config.block_kv, config.stages
    # TMA wants rows of 16 bytes' multiple, so the log-sum-exp is written for whole tiles.
    lse = jax.ShapeDtypeStruct((batches, heads, q_tiles * COMPUTE * block_q), jnp.float32) if return_lse else None

    pieces, width = config.pieces, HEAD_DIM // config.pieces

    def scratch(*shape, dtype=q.dtype):
        columns, swizzle = SWIZZLE // jnp.dtype(dtype).itemsize, plgpu.SwizzleTransform(SWIZZLE)
        multiplied = plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, columns)), swizzle))
        if shape[-1] != columns:
            return multiplied
        return plgpu.RefUnion(plgpu.SMEM(shape, dtype, transforms=(swizzle,)), multiplied)

    def entry(*refs):
        q_ref, k_ref, v_ref, *rest = refs
        length_ref, scale_ref = (None if x is None else rest.pop(0) for x in (length, scale))
        out_ref, lse_ref = rest if return_lse else (*rest, None)
        pl.run_scoped(
            lambda *scoped: _kernel(
                q_ref, k_ref, v_ref, length_ref, scale_ref, out_ref, lse_ref, *scoped, config=config, keys=keys, tiles=tiles
            ),
            (
                scratch(pieces, COMPUTE * block_q, width),
                scratch(stages, pieces, block_kv, width),
                scratch(stages, pieces, *((block_kv, width) if scale is None else (width, block_kv))),
                scratch(COMPUTE, pieces, block_q, width, dtype=jnp.bfloat16),
                plgpu.SMEM((COMPUTE, block_q), jnp.float32) if return_lse else None,
            ),
            (
                plgpu.Barrier(num_arrivals=pieces),
                plgpu.Barrier(num_arrivals=pieces, num_barriers=stages),
                plgpu.Barrier(num_arrivals=pieces, num_barriers=stages),
                plgpu.Barrier(num_arrivals=COMPUTE),
                plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=stages),
                plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=stages),
            ),
            collective_axes="group",
        )

    outputs = [jax.ShapeDtypeStruct(q.shape, jnp.bfloat16), *([lse] if return_lse else [])]
    results = plgpu.kernel(
        entry,
        out_type=outputs,
        grid=(config.programs,),
        grid_names=("program",),
        num_threads=COMPUTE + 1,
        thread_name="group",
        kernel_name="attention_forward",
        compiler_params=plgpu.CompilerParams(
            approx_math=True, unsafe_no_auto_barriers=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
        **({} if interpret is None else {"interpret": interpret}),
    )(q, k, v, *(x for x in (length, scale) if x is not None))
    return results[0], results[1][:, :, :queries] if return_lse else None
