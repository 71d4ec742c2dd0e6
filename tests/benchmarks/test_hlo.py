"""Collectives read from compiled programs: real ones on eight CPU devices, and lines as XLA prints them for GPUs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from livetalk_jax.benchmarks import hlo

SPEC = PartitionSpec(("a", "b"))


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:8])


def text_of(mesh, fn, out_specs=SPEC, rows=32):
    x = jax.ShapeDtypeStruct((rows, 16), jnp.float32, sharding=NamedSharding(mesh, SPEC))
    spread = jax.shard_map(fn, mesh=mesh, in_specs=SPEC, out_specs=out_specs, check_vma=False)
    return jax.jit(spread).lower(x).compile().as_text()


def test_a_compiled_program(mesh):
    def program(x):  # [4, 16] on each device: 256 bytes
        def body(_, x):
            x = jax.lax.all_to_all(x, ("b",), 0, 0, tiled=True)
            return jax.lax.ppermute(x, ("a",), [(0, 1)])

        x = jax.lax.fori_loop(0, 5, body, x)
        everything = jax.lax.all_gather(x, ("a", "b"))
        return x + jnp.sum(everything) + jax.lax.psum(x, ("a",))

    text = text_of(mesh, program)
    assert hlo.by_kind(hlo.collectives(text)) == {
        "all-to-all": (5, 5 * 256 * 3 / 4),  # a quarter stays
        "collective-permute": (5, 5 * 256),
        "all-gather": (1, 256 * 7),
        "all-reduce": (1, 256),  # 2 · (2 − 1) / 2
    }
    assert hlo.added(text) == []


def test_the_device_that_sends_most(mesh):
    line = ("a", "b")

    def program(x):
        # Device 3 sends twice, the others once at most.
        return jax.lax.ppermute(x, line, [(3, 4), (0, 1)]) + jax.lax.ppermute(2 * x, line, [(3, 2)])

    assert hlo.by_kind(hlo.collectives(text_of(mesh, program))) == {"collective-permute": (2, 512)}


def test_nested_loops(mesh):
    def program(x):
        def inner(_, x):
            return jax.lax.psum(x, ("b",)) * 0.5

        return jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.fori_loop(0, 7, inner, x), x)

    ((collective, count),) = hlo.collectives(text_of(mesh, program)).items()
    assert (collective.kind, count) == ("all-reduce", 21)
    assert sorted(collective.groups) == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_a_loop_of_unknown_length(mesh):
    def program(x):
        return jax.lax.while_loop(lambda x: jnp.max(x) < 9, lambda x: jax.lax.psum(x, ("a", "b")), x)

    with pytest.raises(ValueError, match="length is not known"):
        hlo.collectives(text_of(mesh, program))


def test_what_xla_adds_is_found(mesh):
    """A sum over sharded rows outside shard_map, and a result that is wanted elsewhere."""
    x = jax.ShapeDtypeStruct((32, 16), jnp.float32, sharding=NamedSharding(mesh, SPEC))
    elsewhere = NamedSharding(mesh, PartitionSpec(None, ("a", "b")))
    text = jax.jit(lambda x: x * 2, out_shardings=elsewhere).lower(x).compile().as_text()
    assert hlo.added(text)
    assert hlo.collectives(text)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("replica_groups={{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[4]", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
        ("source_target_pairs={{0,1},{3,2}}", ((0, 1), (3, 2))),
    ],
)
def test_groups_as_xla_prints_them(groups, expected):
    kind = "collective-permute" if groups.startswith("source") else "all-reduce"
    lines = ["ENTRY %main (p: bf16[3,5]) -> bf16[3,5] {", "  %p = bf16[3,5]{1,0} parameter(0)"]
    text = "\n".join([*lines, f"  ROOT %r = bf16[3,5]{{1,0}} {kind}(%p), {groups}", "}", ""])
    ((collective, count),) = hlo.collectives(text).items()
    assert (collective.operands, collective.operand_bytes, count) == ((("bf16", (3, 5)),), 30, 1)
    assert collective.groups == expected


def test_asynchronous_collectives_count_once():
    """As XLA prints them for GPUs: a start with operands and results in its shape, and a done."""
    one = "bf16[4,16]{1,0}"
    lines = [
        "ENTRY %main (p: bf16[4,16]) -> bf16[4,16] {",
        f"  %p = {one} parameter(0)",
        f"  %start = (({one}, {one}), ({one}, {one})) collective-permute-start(%p, %p), source_target_pairs={{{{0,1}},{{1,0}}}}",
        f"  %done = ({one}, {one}) collective-permute-done(%start)",
        f"  ROOT %r = {one} get-tuple-element(%done), index=0",
        "}",
    ]
    text = "\n".join(lines)
    assert hlo.by_kind(hlo.collectives(text)) == {"collective-permute": (1, 256)}


def test_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.collectives("nothing")
