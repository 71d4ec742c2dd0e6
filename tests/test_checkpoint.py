import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from livetalk_jax import checkpoint
from livetalk_jax.checkpoint import CheckpointError, Manifest, Writer, load_network, read, read_manifest, save, tensors
from livetalk_jax.config import UMT5Config
from livetalk_jax.models.umt5 import UMT5Encoder

CONFIG = UMT5Config.tiny()
MANIFEST = Manifest(configurations={}, forms={}, origin="a test", tokenizer=None)


def abstract(config=CONFIG, dtype=jnp.float32) -> nnx.State:
    return nnx.state(nnx.eval_shape(lambda: UMT5Encoder(config, rngs=nnx.Rngs(0), dtype=dtype)), nnx.Param)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    network = UMT5Encoder(CONFIG, rngs=nnx.Rngs(0))
    path = tmp_path_factory.mktemp("checkpoint") / "saved"
    save(path, {"text": network}, {"text": CONFIG}, origin="random numbers")
    return network, path


def test_a_network_comes_back_in_the_dtype_asked_for(saved):
    network, path = saved
    for dtype in (jnp.float32, jnp.bfloat16):
        state = load_network(path, "text", abstract(dtype=dtype), config=CONFIG)
        pairs = list(zip(nnx.to_flat_state(nnx.state(network, nnx.Param)), nnx.to_flat_state(state), strict=True))
        assert pairs
        for (key, ours), (loaded_key, loaded) in pairs:
            assert key == loaded_key and loaded.get_value().dtype == dtype
            np.testing.assert_array_equal(ours.get_value().astype(dtype), loaded.get_value())
    fresh = nnx.eval_shape(lambda: UMT5Encoder(CONFIG, rngs=nnx.Rngs(0)))
    nnx.update(fresh, load_network(path, "text", abstract(), config=CONFIG))
    ids = jnp.arange(8)[None]
    np.testing.assert_array_equal(fresh(ids, jnp.ones_like(ids)), network(ids, jnp.ones_like(ids)))


def test_arrays_larger_than_what_is_read_at_a_time(saved, monkeypatch):
    """As umT5's embeddings of 2.1 GB are."""
    network, path = saved
    monkeypatch.setattr(checkpoint, "READ_BYTES", 100)
    state = nnx.state(network, nnx.Param)
    loaded = load_network(path, "text", abstract(), config=CONFIG)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(loaded), nnx.to_pure_dict(state))
    assert sum(array.size for _, array in read(path, "text")) == sum(x.size for x in jax.tree.leaves(state))


def test_every_device_reads_its_own_part(saved):
    """In a process of its own, because the number of devices is fixed when JAX starts."""
    _, path = saved
    code = f"""
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from livetalk_jax.checkpoint import load_network
from tests.test_checkpoint import CONFIG, abstract
mesh = jax.make_mesh((4,), ("x",))
rows, whole = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
one = load_network({str(path)!r}, "text", abstract(), config=CONFIG)
many = load_network({str(path)!r}, "text", abstract(), config=CONFIG, sharding=lambda p: rows if p.endswith("kernel") else whole)
kernel = many["blocks"][0]["attn"]["q"]["kernel"].get_value()
assert kernel.sharding == rows and {{s.data.shape for s in kernel.addressable_shards}} == {{(8, 32)}}
assert many["norm"]["scale"].get_value().sharding == whole
jax.tree.map(np.testing.assert_array_equal, one, many)
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_not_a_checkpoint_is_one_line(saved, tmp_path):
    _, path = saved
    for folder, words in ((tmp_path / "none", "there is no folder"), (tmp_path, "python -m livetalk_jax.conversion import")):
        with pytest.raises(CheckpointError, match=words) as raised:
            load_network(folder, "text", abstract(), config=CONFIG)
        assert "\n" not in str(raised.value)
    with pytest.raises(CheckpointError, match="has no network 'dit', only text"):
        load_network(path, "dit", abstract(), config=CONFIG)
    for text in ("{", "[]", "{}", '{"format": 1}'):
        (tmp_path / "livetalk.json").write_text(text)
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_manifest(tmp_path)
    (tmp_path / "livetalk.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="another version"):
        read_manifest(tmp_path)


def test_another_configuration_lists_the_sizes_that_differ(saved):
    _, path = saved
    other = dataclasses.replace(CONFIG, num_heads=8, dim_ffn=96)
    with pytest.raises(CheckpointError, match=r"another configuration: dim_ffn 64 \(not 96\), num_heads 2 \(not 8\)$"):
        load_network(path, "text", abstract(other), config=other)


def test_damage_is_one_line(saved, tmp_path):
    network, _ = saved
    path = tmp_path / "damaged"
    save(path, {"text": network}, {"text": CONFIG}, origin="random numbers")
    for file in (path / "text").rglob("manifest.ocdbt"):
        file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged") as raised:
        load_network(path, "text", abstract(), config=CONFIG)
    assert "\n" not in str(raised.value)


def test_groups_keep_names_shapes_and_dtypes(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "GROUP_BYTES", 64)  # so that many groups are written
    rng = np.random.default_rng(0)
    arrays = {
        f"{kind}.{i}": rng.standard_normal((3, 5)).astype(kind)
        for i in range(4)
        for kind in ("float32", "float16", ml_dtypes.bfloat16)
    }
    arrays |= {"transposed": rng.standard_normal((700, 300)).T, "scalar": np.array(2.5, np.float32), "ids": np.arange(9)}
    with Writer(tmp_path / "new", MANIFEST) as writer:
        for group in ("clip", "clip.unused"):
            for name, array in arrays.items():
                writer.add(group, name, array)
    for group in ("clip", "clip.unused"):
        stored = dict(read(tmp_path / "new", group))
        assert set(stored) == set(arrays) == set(tensors(tmp_path / "new", group))
        for name, array in arrays.items():
            assert stored[name].dtype == array.dtype and stored[name].shape == array.shape
            np.testing.assert_array_equal(stored[name], array)
    assert list(read(tmp_path / "new", "vae")) == []


def test_nothing_half_written_appears(tmp_path):
    with pytest.raises(RuntimeError), Writer(tmp_path / "new", MANIFEST) as writer:
        writer.add("vae", "a", np.ones(3))
        raise RuntimeError
    with pytest.raises(CheckpointError, match="two tensors a"), Writer(tmp_path / "new", MANIFEST) as writer:
        writer.add("vae", "a", np.ones(3))
        writer.add("vae", "a", np.ones(3))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="exists already"):
        Writer(tmp_path, MANIFEST)


def test_a_trained_network_takes_the_rest_from_another_checkpoint(tmp_path):
    manifest = Manifest(configurations={"vae": {"dim": 1}, "text": {}}, forms={"vae": "wan"}, origin="first", tokenizer="files/t")
    with Writer(tmp_path / "first", manifest) as writer:
        writer.add("vae", "a", np.ones(3))
        writer.add("text", "b", np.ones(3))
        writer.add("text.unused", "c", np.ones(3))
        (tmp_path / "t.json").write_text("{}")
        writer.add_file(tmp_path / "t.json", "t/t.json")
    network = UMT5Encoder(CONFIG, rngs=nnx.Rngs(1))
    save(tmp_path / "second", {"text": network}, {"text": CONFIG}, origin="second", like=tmp_path / "first")
    manifest = read_manifest(tmp_path / "second")
    assert (
        manifest.origin == "second"
        and manifest.tokenizer == str(tmp_path / "second/files/t")
        and manifest.forms == {"vae": "wan"}
        and manifest.configurations["vae"] == {"dim": 1}
    )
    assert manifest.configurations["text"] == json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert (tmp_path / "second" / "files/t/t.json").read_text() == "{}"
    assert set(tensors(tmp_path / "second", "vae")) == {"a"} and set(tensors(tmp_path / "second", "text.unused")) == {"c"}
    loaded = load_network(tmp_path / "second", "text", abstract(), config=CONFIG)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(network, nnx.Param), loaded)
