import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from livetalk_jax.config import ModelConfig
from livetalk_jax.conversion import forms
from livetalk_jax.conversion.engine import ConversionError, Problem, load, make_plan, parameters, unload
from livetalk_jax.conversion.sizes import NETWORKS
from livetalk_jax.conversion.table import LINEAR, SAME, Rule, Unused, concat, drop
from livetalk_jax.nn.layers import Linear

NAMES = Path(__file__).parents[1] / "names"


class Toy(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, dtype=jnp.float32):
        self.layers = nnx.List([Linear(3, 6, rngs=rngs, dtype=dtype) for _ in range(2)])
        self.table = nnx.Param(jnp.ones((4, 3), dtype))


TOY = (
    Rule(("h.{i}.q.weight", "h.{i}.k.weight"), "layers.{i}.kernel", concat(0, LINEAR)),
    Rule("h.{i}.bias", "layers.{i}.bias", SAME),
    Rule("table", "table", drop(0)),
    Unused("text.{name}"),
)


def toy_tensors(dtype=np.float32) -> dict[str, np.ndarray]:
    shapes = {"table": (1, 4, 3), "text.a.b": (2,)}
    for i in range(2):
        shapes |= {f"h.{i}.k.weight": (3, 3), f"h.{i}.q.weight": (3, 3), f"h.{i}.bias": (6,)}
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def toy_plan(tensors, **options):
    return make_plan(TOY, parameters(Toy(nnx.Rngs(0))), tensors, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_plan_moves_numbers_exactly(dtype):
    tensors = toy_tensors(dtype)
    plan = toy_plan(tensors)
    ours = {step.path: array for step, array in plan.to_ours(tensors.__getitem__)}
    assert plan.unused == ("text.a.b",)
    np.testing.assert_array_equal(ours["layers.1.kernel"], np.concatenate([tensors["h.1.q.weight"], tensors["h.1.k.weight"]]).T)
    for step in plan.steps:
        for name, part in zip(step.names, step.transform.to_published(ours[step.path], len(step.names)), strict=True):
            assert part.dtype == dtype
            np.testing.assert_array_equal(part, tensors[name])


def test_load_casts_to_the_network_and_unload_is_its_inverse():
    network, tensors = Toy(nnx.Rngs(0), jnp.bfloat16), toy_tensors()
    load(network, tensors, TOY)
    assert network.layers[0].kernel.get_value().dtype == jnp.bfloat16
    back = unload(network, TOY)
    assert set(back) == set(tensors) - {"text.a.b"}
    for name, array in back.items():
        np.testing.assert_array_equal(array, tensors[name].astype(ml_dtypes.bfloat16))


def test_all_problems_are_in_one_report_and_the_network_stays_as_it_was():
    network, tensors = Toy(nnx.Rngs(0)), toy_tensors()
    before = unload(network, TOY)
    tensors["h.0.biass"] = tensors.pop("h.0.bias")
    tensors["h.1.q.weight"] = np.zeros((3, 4), np.float32)
    tensors["h.1.k.weight"] = tensors["h.1.k.weight"].astype(np.float16)
    with pytest.raises(ConversionError) as raised:
        load(network, tensors, TOY)
    assert {(p.what, p.name, p.detail) for p in raised.value.problems} == {
        ("unknown tensor", "h.0.biass", ""),
        ("missing tensor", "h.0.bias", ""),
        ("wrong shape", "h.1.q.weight", "[3, 4], must be [3, 3]"),
        ("tensors of several dtypes make one parameter", "layers.1.kernel", "float16, float32"),
    }
    for problem in raised.value.problems:
        assert problem.name in str(raised.value)
    assert str(raised.value).startswith("4 problems, nothing written:\n")
    after = unload(network, TOY)
    assert all((after[name] == before[name]).all() for name in before)


def test_duplicates_and_faults_of_a_table():
    with pytest.raises(ConversionError, match=r"duplicate tensor: table \(in a and b\)"):
        toy_plan(toy_tensors(), duplicates={"table": ("a", "b")})
    ours = parameters(Toy(nnx.Rngs(0)))
    with pytest.raises(ConversionError, match="no rule fills the parameter: table"):
        make_plan(TOY[:2], ours, toy_tensors())
    with pytest.raises(ConversionError, match="several rules fill the parameter: table"):
        make_plan((*TOY, TOY[2]), ours, toy_tensors())
    twice = (TOY[0], Rule("h.0.bias", "layers.{i}.bias", SAME), *TOY[2:])
    with pytest.raises(ConversionError, match=r"two parameters are made of the tensor: h\.0\.bias"):
        make_plan(twice, ours, toy_tensors())


def test_a_range_of_numbered_tensors_is_one_line():
    names = [f"blocks.{i}.{j}.w" for i in (0, 1, 2, 5) for j in range(2)]
    report = str(ConversionError([Problem("missing tensor", name) for name in names] + [Problem("missing tensor", "blocks.7.0.b")]))
    assert "missing tensor: blocks.[0-2,5].[0-1].w (8 tensors)" in report
    assert "missing tensor: blocks.7.0.b" in report
    sparse = [name for name in names if name != "blocks.1.1.w"]
    report = str(ConversionError([Problem("missing tensor", name) for name in sparse]))
    assert all(f": {name}\n" in report + "\n" for name in sparse)


@pytest.mark.parametrize(
    ("network", "form", "file"),
    [
        ("dit", "soulx", "soulx_flashtalk_14b_dit"),
        ("vae", "wan", "wan21_vae"),
        ("text", "wan", "umt5_xxl_encoder"),
        ("clip", "wan", "clip_xlm_roberta_vit_h_14"),
        ("audio", "pretraining", "chinese_wav2vec2_base"),
    ],
)
def test_every_published_tensor_is_accounted_for_at_full_size(network, form, file):
    shapes = json.loads((NAMES / f"{file}.json").read_text())
    published = {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}
    entry = forms.recognise(published)
    assert (entry.network, entry.name) == (network, form)
    config, problems = forms.configuration(entry, published, None, None, [getattr(ModelConfig.wan_14b(), network)], {})
    assert not problems and config == getattr(ModelConfig.wan_14b(), network)

    few = dataclasses.replace(config, num_layers=3) if network == "dit" else config  # tracing forty blocks takes a while
    prefix = ("blocks.0.", "blocks.1.", "blocks.2.")
    if network == "dit":
        published = {
            name: tensor for name, tensor in published.items() if not name.startswith("blocks.") or name.startswith(prefix)
        }
    ours = parameters(nnx.eval_shape(lambda: NETWORKS[network].make(few, rngs=nnx.Rngs(0))))
    plan = make_plan(entry.table(few), ours, published)
    assert len(plan.steps) == len(ours)
    assert {name for step in plan.steps for name in step.names} | set(plan.unused) == set(published)


def test_sizes_are_told_from_shapes_and_what_cannot_be_told_is_asked_for():
    shapes = json.loads((NAMES / "umt5_xxl_encoder.json").read_text())
    published = {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}
    entry = forms.recognise(published)
    assert forms.configuration(entry, published, None, None, [], {}) == (ModelConfig.wan_14b().text, [])

    shapes = json.loads((NAMES / "soulx_flashtalk_14b_dit.json").read_text())
    published = {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}
    entry = forms.recognise(published)
    config, (problem,) = forms.configuration(entry, published, None, None, [], {})
    assert config is None and problem.name == "dit" and "num_heads" in problem.detail and "--config" in problem.detail
    stated = {"num_heads": 40, "dim": 5120}
    assert forms.configuration(entry, published, stated, None, [], {}) == (ModelConfig.wan_14b().dit, [])
    chosen = dataclasses.replace(ModelConfig.wan_14b().dit, num_heads=20)
    config, (problem,) = forms.configuration(entry, published, stated, chosen, [], {})
    assert config is None and problem == Problem("another configuration", "dit.num_heads", "40 in config.json, 20 in --config")
