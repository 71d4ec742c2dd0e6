"""The VAE against published numbers, diffusers, and itself: streamed, split over devices, in 16 bits."""

import dataclasses
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open

from livetalk_jax.config import VAEConfig
from livetalk_jax.conversion.engine import load, make_plan, parameters, unload
from livetalk_jax.conversion.vae import TABLE, diffusers_table
from livetalk_jax.models.vae import VAE
from livetalk_jax.nn.conv import Past
from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel

TESTS = Path(__file__).parents[1]
# The models under test are deep, so compiling is what costs: one pair of shapes serves all tests of our own numbers.
VIDEO, LATENTS = (1, 9, 32, 48, 3), (1, 3, 4, 6, 16)


def relative_error(got, want) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def abstract(config: VAEConfig, dtype=jnp.float32) -> VAE:
    """The model without numbers, ready to be filled."""
    return nnx.eval_shape(lambda: VAE(config, rngs=nnx.Rngs(0), dtype=dtype))


def converted(config: VAEConfig, tensors: dict[str, np.ndarray], table) -> VAE:
    """A model of published tensors, which come back bit for bit."""
    model = abstract(config)
    load(model, tensors, table)
    back = unload(model, table)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, strict=True)
    return model


@pytest.fixture(scope="module")
def golden():
    with safe_open(TESTS / "golden" / "vae.safetensors", "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = VAEConfig.wan21(**json.loads(file.metadata()["config"]))
    weights = {name.removeprefix("weights/"): tensor for name, tensor in tensors.items() if name.startswith("weights/")}
    videos = {name: channels_last(tensor) for name, tensor in tensors.items() if not name.startswith("weights/")}
    return converted(config, weights, TABLE), videos


def tiny(dtype=jnp.float32) -> VAE:
    """A small model of random numbers, in biases and norms too; the same in every dtype."""
    random = np.random.default_rng(0)
    model = abstract(VAEConfig.tiny(), dtype)
    for path, parameter in parameters(model).items():
        scale = math.prod(parameter.shape[:-1]) ** -0.5 if path.endswith("kernel") else 0.2
        value = scale * random.standard_normal(parameter.shape) + path.endswith("scale")
        parameter.set_value(jnp.asarray(value, dtype))
    return model


def inputs() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.uniform(-1, 1, VIDEO).astype(np.float32), random.standard_normal(LATENTS).astype(np.float32)


encode = nnx.jit(lambda model, video: model.encode(video))
decode = nnx.jit(lambda model, latents: model.decode(latents))


def test_golden_encode_and_decode(golden):
    model, arrays = golden
    assert relative_error(encode(model, arrays["in/video"]), arrays["out/latents"]) < 1e-5
    assert relative_error(decode(model, arrays["in/latents"]), arrays["out/video"]) < 1e-5


def test_streaming_decode_equals_whole_and_compiles_twice():
    model, (_, latents) = tiny(), inputs()
    compilations = []

    @nnx.jit
    def first(model, latents):
        compilations.append("first")
        return model.decode_first(latents)

    @nnx.jit
    def following(model, latents, cache):
        compilations.append("next")
        return model.decode_next(latents, cache)

    frames, cache = first(model, latents[:, :1])
    shapes = [part.shape for part in cache]
    pieces = [frames]
    assert frames.shape == (1, 1, 32, 48, 3)
    for index in range(1, 3):
        frames, cache = following(model, latents[:, index : index + 1], cache)
        assert frames.shape == (1, 4, 32, 48, 3)
        assert [part.shape for part in cache] == shapes
        pieces.append(frames)
    assert compilations == ["first", "next"]
    whole = decode(model, latents)
    assert relative_error(jnp.concatenate(pieces, 1), whole) < 1e-5
    # A piece may have several latent frames.
    frames, cache = first(model, latents[:, :2])
    assert relative_error(jnp.concatenate([frames, following(model, latents[:, 2:], cache)[0]], 1), whole) < 1e-5


def test_encode_is_causal():
    model, (video, _) = tiny(), inputs()
    latents = encode(model, video)
    assert relative_error(encode(model, video[:, :5]), latents[:, :2]) < 1e-5
    assert relative_error(encode(model, video[:, :1]), latents[:, :1]) < 1e-5


def test_the_first_frame_apart_changes_nothing():
    """`encode` walks through a video in two pieces; one pass over all frames gives the same moments."""
    model, (video, _) = tiny(), inputs()

    @nnx.jit
    def at_once(model, video):
        shift, scale = model._statistics()
        return (model.quant(model.encoder(video, Past(), ONE_DEVICE))[..., : model.config.z_dim] - shift) / scale

    assert relative_error(at_once(model, video), encode(model, video)) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_res_blocks": 2, "dim_mult": (1, 2, 2, 3), "temporal_downsample": (True, False, True)}],
)
def test_parity_with_diffusers(changes):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    config = dataclasses.replace(VAEConfig.wan21(dim=8, num_res_blocks=1), **changes)
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLWan(
        base_dim=config.dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith(("gamma", "bias")):
                parameter.add_(0.2 * torch.randn_like(parameter))
    ours = converted(config, {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}, diffusers_table(config))

    random = np.random.default_rng(3)
    video = random.uniform(-1, 1, (1, 9, 16, 24, 3)).astype(np.float32)
    latents = random.standard_normal((1, 3, 2, 3, 16)).astype(np.float32)
    mean, std = np.float32(config.latent_mean), np.float32(config.latent_std)
    with torch.no_grad():
        want = theirs.encode(torch.from_numpy(np.moveaxis(video, -1, 1))).latent_dist.mean.numpy()
        assert relative_error(encode(ours, video), (channels_last(want) - mean) / std) < 1e-5
        want = theirs.decode(torch.from_numpy(np.moveaxis(latents * std + mean, -1, 1))).sample.numpy()
    assert (np.abs(want) < 1).mean() > 0.5
    assert relative_error(jnp.clip(decode(ours, latents), -1, 1), channels_last(want)) < 1e-5


def test_every_published_name_at_full_size():
    shapes = json.loads((TESTS / "names" / "wan21_vae.json").read_text())
    published = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    ours = parameters(abstract(VAEConfig.wan21()))
    plan = make_plan(TABLE, ours, published)
    assert len(plan.steps) == len(ours) == len(shapes) == 194
    assert sum(math.prod(shape) for shape in shapes.values()) == sum(math.prod(value.shape) for value in ours.values())


def test_full_size_shapes():
    model = abstract(VAEConfig.wan21(), jnp.bfloat16)
    video = jax.ShapeDtypeStruct((1, 33, 720, 416, 3), jnp.bfloat16)
    latents = nnx.eval_shape(lambda model, video: model.encode(video), model, video)
    assert (latents.shape, latents.dtype) == ((1, 9, 90, 52, 16), jnp.bfloat16)
    out = nnx.eval_shape(lambda model, latents: model.decode(latents), model, latents)
    assert (out.shape, out.dtype) == (video.shape, video.dtype)


def test_bfloat16_is_close_to_float32():
    wide, narrow = tiny(), tiny(jnp.bfloat16)
    for run, x in zip((encode, decode), inputs(), strict=True):
        got = run(narrow, jnp.asarray(x, jnp.bfloat16))
        assert got.dtype == jnp.bfloat16
        assert relative_error(got.astype(jnp.float32), run(wide, x)) < 3e-2


def test_a_split_picture_gives_the_same_numbers():
    """Two rows by two columns of devices, played by vmapped axes: halo exchange and gathered keys are all that is needed."""
    model, (video, latents) = tiny(), inputs()
    mesh = ("rows", "columns")

    def halo(x, axis, low, high):
        name = mesh[axis - 2]
        size = x.shape[axis]
        index = jax.lax.axis_index(name)
        before = jax.lax.ppermute(jax.lax.slice_in_dim(x, size - low, size, axis=axis), name, [(0, 1), (1, 0)])
        after = jax.lax.ppermute(jax.lax.slice_in_dim(x, 0, high, axis=axis), name, [(0, 1), (1, 0)])
        return jnp.concatenate([jnp.where(index == 1, before, 0), x, jnp.where(index == 0, after, 0)], axis)

    def gather(x):
        return jax.lax.all_gather(jax.lax.all_gather(x, "rows", axis=1, tiled=True), "columns", axis=2, tiled=True)

    parallel = Parallel(pad_spatial=lambda x, low, high: halo(halo(x, 2, low, high), 3, low, high), gather_spatial=gather)

    def split(x):
        b, f, y, x_, c = x.shape
        return x.reshape(b, f, 2, y // 2, 2, x_ // 2, c).transpose(2, 4, 0, 1, 3, 5, 6)

    def join(x):
        rows, columns, b, f, y, x_, c = x.shape
        return x.transpose(2, 3, 0, 4, 1, 5, 6).reshape(b, f, rows * y, columns * x_, c)

    def on_mesh(run):
        return jax.jit(lambda x: join(jax.vmap(jax.vmap(run, axis_name="columns"), axis_name="rows")(split(x))))

    assert relative_error(on_mesh(lambda x: model.encode(x, parallel=parallel))(video), encode(model, video)) < 1e-5
    assert relative_error(on_mesh(lambda x: model.decode(x, parallel=parallel))(latents), decode(model, latents)) < 1e-5


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 16, 16, 3), "a video of 4 frames does not fit the VAE: it must have 4n+1 frames"),
        ((1, 5, 16, 20, 3), "a picture of 16×20 does not fit the VAE: both must be multiples of 8"),
    ],
)
def test_sizes_that_do_not_fit(shape, message):
    model = abstract(VAEConfig.tiny())
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        model.encode(jnp.zeros(shape))
    assert "\n" not in str(error.value)


def test_other_strides_are_refused():
    config = dataclasses.replace(VAEConfig.tiny(), temporal_downsample=(True, True, True))
    with pytest.raises(ValueError, match="4×8×8"):
        VAE(config, rngs=nnx.Rngs(0))
