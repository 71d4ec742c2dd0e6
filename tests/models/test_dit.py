"""The DiT against diffusers (which has no audio), against its published names, and against itself; audio against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from flax import nnx

from livetalk_jax.config import DiTConfig
from livetalk_jax.conversion.dit import DIFFUSERS_TABLE, TABLE
from livetalk_jax.conversion.engine import load, parameters, steps
from livetalk_jax.models.dit import (
    BACKGROUND_POSITION,
    PERSON_POSITIONS,
    AudioCrossAttention,
    AudioProjection,
    DiT,
    patchify,
    person_positions,
    unpatchify,
)
from livetalk_jax.models.keys import Keys
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.nn.stack import LOOP, Execution
from livetalk_jax.parallel.seams import ONE_DEVICE
from tests.models.published import count, error, in_bfloat16, plan, published_shapes

# Widths that cannot be mistaken for one another; text of 512 tokens, because diffusers counts on that.
CONFIG = DiTConfig(
    dim=48, ffn_dim=80, num_heads=2, num_layers=2, freq_dim=32, text_dim=20, text_len=512, clip_dim=28, in_channels=36,
    out_channels=16, audio_window=5, audio_blocks=3, audio_channels=10, audio_intermediate_dim=18, audio_output_dim=22,
    audio_context_tokens=6, eps=1e-6,
)  # fmt: skip
LATENTS = (2, 3, 6, 8)  # [B, T, H, W]
GRID = (3, 3, 4)
FRAMES = 9


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def abstract(config=CONFIG, dtype=jnp.float32):
    return nnx.eval_shape(lambda: DiT(config, rngs=Keys(jax.random.key(0)), dtype=dtype))


@pytest.fixture(scope="module")
def network():
    """Random numbers in all parameters, biases and norms too."""
    model = abstract()
    for seed, (path, parameter) in enumerate(parameters(model).items()):
        scale = parameter.shape[0] ** -0.5 if path.endswith("kernel") else 0.3
        value = scale * random(seed, *parameter.shape) + path.endswith("scale")
        parameter.set_value(jnp.asarray(value, parameter.dtype))
    return model


def inputs(persons=1):
    batch = LATENTS[0]
    return {
        "latents": random(0, *LATENTS, 16),
        "condition": random(1, *LATENTS, 20),
        "timestep": np.array([937.5, 20.0], np.float32),
        "text": random(2, batch, 512, CONFIG.text_dim),
        "image": random(3, batch, 257, CONFIG.clip_dim),
        "windows": random(4, batch, persons, FRAMES, CONFIG.audio_window, CONFIG.audio_blocks, CONFIG.audio_channels),
    }


def two_masks():
    masks = np.zeros((3, *GRID[1:]), np.float32)
    masks[0, :2, :2], masks[1, 1:, 3] = 1, 1
    masks[2] = 1 - masks[:2].max(0)
    return masks.reshape(3, -1)


@nnx.jit(static_argnames="execution")
def velocity(network, latents, condition, timestep, text, image, windows, masks=None, execution=LOOP):
    rope = rotary_3d(GRID, network.config.head_dim)
    context, audio = network.context(text, image), network.audio(windows)
    return network(latents, condition, timestep, rope=rope, context=context, audio=audio, masks=masks, execution=execution)


# Against diffusers and the published names


def test_diffusers_parity():
    """All but the audio, whose last projection is zero here; its other weights are random and must not matter."""
    torch.manual_seed(0)
    theirs = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=CONFIG.num_heads,
        attention_head_dim=CONFIG.head_dim,
        in_channels=CONFIG.in_channels,
        out_channels=CONFIG.out_channels,
        text_dim=CONFIG.text_dim,
        freq_dim=CONFIG.freq_dim,
        ffn_dim=CONFIG.ffn_dim,
        num_layers=CONFIG.num_layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=CONFIG.eps,
        image_dim=CONFIG.clip_dim,
        added_kv_proj_dim=CONFIG.dim,
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(scale * torch.randn(parameter.shape) + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    model = abstract()
    tensors = {name: parameter.detach().numpy() for name, parameter in theirs.named_parameters()}
    missing = [step for step in steps(DIFFUSERS_TABLE, parameters(model))[0] if step.names[0] not in tensors]
    assert len(missing) == 8 * CONFIG.num_layers + 10
    ours = parameters(model)
    for step in missing:
        assert "audio" in step.path or "norm_x" in step.path
        shape = step.transform.to_published(np.broadcast_to(np.float32(0), ours[step.path].shape), 1)[0].shape
        silent = ".audio_cross_attn.proj." in step.path
        tensors[step.names[0]] = np.zeros(shape, np.float32) if silent else random(len(tensors), *shape)
    load(model, tensors, DIFFUSERS_TABLE)
    x = inputs()
    with torch.no_grad():
        expected = theirs(
            hidden_states=torch.from_numpy(np.moveaxis(np.concatenate([x["latents"], x["condition"]], -1), -1, 1).copy()),
            timestep=torch.from_numpy(x["timestep"]),
            encoder_hidden_states=torch.from_numpy(x["text"]),
            encoder_hidden_states_image=torch.from_numpy(x["image"]),
            return_dict=False,
        )[0]
    assert error(velocity(model, **x), np.moveaxis(expected.numpy(), 1, -1)) < 1e-5


@pytest.fixture(scope="module")
def full_size():
    """The 14B model's number of parameters, and how the published tensors fill it: an error where one is not accounted for."""
    model = abstract(DiTConfig.wan_14b(), jnp.bfloat16)
    return count(model), plan(model, TABLE, published_shapes("soulx_flashtalk_14b_dit"))


def test_full_size_has_the_published_parameters(full_size):
    parameters, whole = full_size
    assert parameters == 18_882_046_784
    assert len(whole.steps) == len(published_shapes("soulx_flashtalk_14b_dit")) == 1633
    assert not whole.unused


def test_infinitetalks_audio_is_a_part_of_it(full_size):
    audio, whole = published_shapes("infinitetalk_audio"), published_shapes("soulx_flashtalk_14b_dit")
    assert len(audio) == 330
    assert {name: whole[name].shape for name in audio} == {name: tensor.shape for name, tensor in audio.items()}
    ours = {step.path for step in full_size[1].steps if step.names[0] in audio}
    assert len(ours) == 330
    assert all("audio" in path or "norm_x" in path for path in ours)


# Against itself


def test_bfloat16_is_near_float32(network):
    """Measured on these sizes: 0.6 %."""
    coarse = in_bfloat16(network)
    coarse.dtype = jnp.bfloat16
    out = velocity(coarse, **inputs())
    assert out.dtype == jnp.float32, "the head is float32"
    assert 1e-4 < error(out, velocity(network, **inputs())) < 1.5e-2


def test_keys_and_values_once_for_all_timesteps(network):
    x, masks = inputs(2), jnp.asarray(two_masks())
    context = nnx.jit(lambda n, text, image: n.context(text, image))(network, x["text"], x["image"])
    audio = nnx.jit(lambda n, windows: n.audio(windows))(network, x["windows"])

    @nnx.jit
    def step(network, timestep, context, audio):
        rope = rotary_3d(GRID, network.config.head_dim)
        return network(x["latents"], x["condition"], timestep, rope=rope, context=context, audio=audio, masks=masks)

    results = []
    for time in (1000.0, 625.0):
        x["timestep"] = np.full(2, time, np.float32)
        results.append(step(network, x["timestep"], context, audio))
        assert error(results[-1], velocity(network, **x, masks=masks)) < 1e-6
    assert error(*results) > 1e-2


def test_scan_and_remat_change_nothing(network):
    x, masks = inputs(2), jnp.asarray(two_masks())
    scanned = velocity(network, **x, masks=masks, execution=Execution(scan=True, remat="save_dots"))
    assert error(scanned, velocity(network, **x, masks=masks)) < 1e-6


def test_every_input_matters_and_batches_are_apart(network):
    x = inputs()
    whole = np.asarray(velocity(network, **x))
    for name, value in x.items():
        moved = value.copy()
        moved[0] += 10 * random(5, *value.shape[1:])
        changed = velocity(network, **{**x, name: moved})
        assert error(changed[0], whole[0]) > 1e-3, name
        assert error(changed[1], whole[1]) < 1e-6, name


def test_short_text_is_padded_with_zeros_and_long_text_is_refused(network):
    short = random(0, 1, 7, CONFIG.text_dim)
    padded = np.concatenate([short, np.zeros((1, 505, CONFIG.text_dim), np.float32)], 1)
    image = random(1, 1, 257, CONFIG.clip_dim)
    for a, b in zip(jax.tree.leaves(network.context(short, image)), jax.tree.leaves(network.context(padded, image)), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="text of 513 tokens is longer than the model's 512"):
        network.context(np.zeros((1, 513, CONFIG.text_dim), np.float32), image)


def test_patches():
    """As a convolution of stride 2 sees them; and back."""
    x = random(0, 2, 3, 4, 6, 5)
    tokens = patchify(jnp.asarray(x))
    assert tokens.shape == (2, 3 * 2 * 3, 20)
    np.testing.assert_array_equal(tokens[1, 1 * 6 + 1 * 3 + 2].reshape(2, 2, 5), x[1, 1, 2:4, 4:6])
    np.testing.assert_array_equal(unpatchify(tokens, (3, 2, 3)), x)


# Audio


def test_audio_projection_sees_5_then_3_2_3():
    """Which positions of which frames' windows reach the tokens of which latent frame."""
    model = AudioProjection(CONFIG, rngs=nnx.Rngs(0), dtype=jnp.float32)
    windows = random(0, 1, 1, FRAMES, CONFIG.audio_window, CONFIG.audio_blocks, CONFIG.audio_channels)
    forward = nnx.jit(lambda model, windows: model(windows))
    whole = forward(model, windows)
    assert whole.shape == (1, 1, 3, CONFIG.audio_context_tokens, CONFIG.audio_output_dim)
    heard = {0: (0, range(5)), 1: (1, [0, 1, 2]), 2: (1, [2]), 3: (1, [2]), 4: (1, [2, 3, 4]), 5: (2, [0, 1, 2]), 8: (2, [2, 3, 4])}
    for frame, (latent, positions) in heard.items():
        for position in range(5):
            changed = windows.copy()
            changed[:, :, frame, position] += 1
            moved = np.abs(forward(model, changed) - whole).max(axis=(0, 1, 3, 4)) > 1e-6
            expected = np.arange(3) == latent if position in positions else np.zeros(3, bool)
            np.testing.assert_array_equal(moved, expected, err_msg=f"frame {frame}, position {position}")


def torch_rotated(x, positions):
    """L-RoPE: channel pairs of x [..., A, K] turned by positions [...]."""
    frequencies = 10_000.0 ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    factors = torch.polar(torch.ones(()).double(), positions.double()[..., None, None] * frequencies)
    pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * factors).flatten(-2)


def torch_positions(q, k, masks):
    """Where tokens stand, by the published steps: q, k [N, A, K] and masks [3, h·w] of one video."""
    first = k[: masks.shape[1]]
    attention = torch.softmax(torch.einsum("nak,mak->anm", q, first) * q.shape[-1] ** -0.5, -1)
    shares = torch.stack([((attention * mask).sum(-1) / mask.sum()).mean(0) for mask in masks])
    rows = [
        (share - share.min()) / (share.max() - share.min() + 1e-8) * (high - low) + low
        for share, (low, high) in zip(shares, PERSON_POSITIONS, strict=False)
    ]
    rows.append(torch.full_like(rows[0], BACKGROUND_POSITION))
    return torch.stack(rows)[shares.argmax(0), torch.arange(len(q))]


def queries_and_keys(seed=0):
    tokens = GRID[0] * GRID[1] * GRID[2]
    return (3 * random(seed + i, 2, tokens, CONFIG.num_heads, CONFIG.head_dim) for i in range(2))


@jax.jit
def _places(q, k, masks):
    return person_positions(q, k, masks, GRID, ONE_DEVICE)


def places(q, k, masks):
    return np.asarray(_places(q, k, masks))


def test_person_positions():
    q, k = queries_and_keys()
    masks = two_masks()
    ours = places(q, k, masks)
    expected = [torch_positions(*(torch.from_numpy(x[i]).double() for x in (q, k)), torch.from_numpy(masks)) for i in range(2)]
    np.testing.assert_allclose(ours, torch.stack(expected).numpy(), atol=1e-4)
    # All three places occur, so that the comparison says something of each.
    assert ((ours <= 4).any(), (ours >= 20).any(), (ours == 12).any()) == (True, True, True)


def test_persons_change_places_with_their_masks():
    q, k = queries_and_keys()
    before, after = places(q, k, two_masks()), places(q, k, two_masks()[[1, 0, 2]])
    np.testing.assert_allclose(after, np.where(before < 12, before + 20, np.where(before > 12, before - 20, before)), atol=1e-4)


def test_persons_who_fill_the_picture():
    """Without a background nobody stands there; the published code divides by its size, zero."""
    masks = np.zeros((3, *GRID[1:]), np.float32)
    masks[0, :, :2], masks[1, :, 2:] = 1, 1
    found = places(*queries_and_keys(), masks.reshape(3, -1))
    assert ((found >= 0) & (found <= 4) | (found >= 20) & (found <= 24)).all()


@nnx.jit
def hear(model, x, tokens, positions=None):
    """Audio attention of x [B, N, D] to tokens [B, P, T, S, C]."""
    return model(x, model.keys_values(tokens), positions, ONE_DEVICE)


def audio_attention():
    model = AudioCrossAttention(CONFIG, rngs=nnx.Rngs(0), dtype=jnp.float32)
    for seed, layer in enumerate((model.q_linear, model.kv_linear, model.proj)):
        layer.bias.set_value(jnp.asarray(random(seed, *layer.bias.shape)))
    return model


@pytest.mark.parametrize("persons", [1, 2])
def test_audio_attention_against_torch(persons):
    model = audio_attention()
    frames, per_frame, spoken = 3, 12, CONFIG.audio_context_tokens
    x = random(0, 2, frames * per_frame, CONFIG.dim)
    tokens = random(1, 2, persons, frames, spoken, CONFIG.audio_output_dim)
    positions = 24 * np.random.default_rng(2).random((2, frames * per_frame)).astype(np.float32) if persons == 2 else None
    ours = hear(model, x, tokens, positions)

    def linear(layer, y):
        return y @ torch.from_numpy(np.array(layer.kernel[...])).double() + torch.from_numpy(np.array(layer.bias[...])).double()

    def heads(y):
        return y.unflatten(-1, (CONFIG.num_heads, -1))

    q = heads(linear(model.q_linear, torch.from_numpy(x).double()))
    joined = torch.from_numpy(tokens).double().movedim(1, 2).flatten(2, 3)  # of a frame: person 1's tokens, then person 2's
    k, v = map(heads, linear(model.kv_linear, joined).chunk(2, -1))
    if persons == 2:
        q = torch_rotated(q, torch.from_numpy(positions))
        k = torch_rotated(k, torch.tensor([2.0] * spoken + [22.0] * spoken).expand(2, frames, -1))
    q = q.unflatten(1, (frames, per_frame))
    out = torch.nn.functional.scaled_dot_product_attention(*(y.movedim(-2, -3) for y in (q, k, v))).movedim(-3, -2)
    assert error(ours, linear(model.proj, out.flatten(-2).flatten(1, 2)).numpy()) < 1e-5


def test_a_frame_hears_its_own_audio_only():
    model = audio_attention()
    x = random(0, 2, 36, CONFIG.dim)
    tokens = random(1, 2, 1, 3, CONFIG.audio_context_tokens, CONFIG.audio_output_dim)
    before = np.asarray(hear(model, x, tokens))
    tokens[:, :, 1] += 1
    changed = np.abs(hear(model, x, tokens) - before).max((0, 2)).reshape(3, 12) > 1e-5
    np.testing.assert_array_equal(changed, np.array([[False], [True], [False]]).repeat(12, 1))


def test_a_token_hears_the_person_it_stands_by():
    """With queries and keys all alike but for their turns, the nearer person's audio weighs more."""
    model = audio_attention()
    dim, zeros, ones = CONFIG.dim, np.zeros, np.ones
    only_values = np.arange(2 * dim) >= dim  # keys do not depend on the audio
    for layer, kernel, bias in (
        (model.q_linear, zeros((dim, dim)), ones(dim)),
        (model.kv_linear, ones((CONFIG.audio_output_dim, 1)) * only_values, ones(2 * dim)),
        (model.proj, np.eye(dim), zeros(dim)),
    ):
        layer.kernel.set_value(jnp.asarray(kernel, jnp.float32))
        layer.bias.set_value(jnp.asarray(bias, jnp.float32))
    tokens = zeros((1, 2, 1, 4, CONFIG.audio_output_dim), np.float32)
    tokens[:, 1] = 1 / CONFIG.audio_output_dim  # values are 1 for person 1 and 2 for person 2
    share = hear(model, zeros((1, 2, dim), np.float32), tokens, np.float32([[2, 22]]))[0, :, 0]
    assert 1.0 < share[0] < 1.4
    assert 1.6 < share[1] < 2.0


def test_two_persons_are_told_apart(network):
    """Their audio cannot change places without the picture changing, nor can one of them be left out."""
    x, masks = inputs(2), jnp.asarray(two_masks())
    whole = velocity(network, **x, masks=masks)
    swapped = velocity(network, **{**x, "windows": x["windows"][:, ::-1]}, masks=masks)
    assert error(swapped, whole) > 1e-4
    alone = velocity(network, **{**x, "windows": x["windows"][:, :1]})
    assert error(alone, whole) > 1e-4


def test_gradients_reach_every_parameter(network):
    x, masks = inputs(2), jnp.asarray(two_masks())
    graph, state = nnx.split(network)

    def loss(state):
        return jnp.sum(jnp.square(velocity(nnx.merge(graph, state), **x, masks=masks, execution=Execution(scan=True))))

    flat = nnx.to_flat_state(jax.jit(jax.grad(loss))(state))
    assert len(flat) == len(parameters(network))
    for path, value in flat:
        value = np.asarray(value.get_value())
        assert np.isfinite(value).all(), path
        assert value.any(), path
