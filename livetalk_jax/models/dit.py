"""The audio-conditioned video transformer: Wan2.1-I2V with InfiniteTalk's audio modules, as SoulX-FlashTalk streams it.

What does not change over the denoising steps is computed once and passed in: `DiT.context` (text and image keys and values, once a
session), `DiT.audio` (audio keys and values, once a chunk) and the rotary tables. `DiT.__call__` is one prediction of the velocity.

Sources: Wan2.1 (arXiv 2503.20314), MultiTalk (2505.22647, section 3: audio cross-attention and L-RoPE), InfiniteTalk (2508.14033).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.config import DiTConfig
from livetalk_jax.nn.layers import MLP, LayerNorm, Linear, RMSNorm, gelu_exact, gelu_tanh, standardize
from livetalk_jax.nn.rotary import rotary_1d, rotate
from livetalk_jax.nn.stack import LOOP, BlockStack, Execution
from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel
from livetalk_jax.shapes import PATCH, VAE_STRIDE

# L-RoPE (MultiTalk, section 3.4): the stretch of positions that each person's tokens are spread over, and the background's place.
PERSON_POSITIONS = ((0.0, 4.0), (20.0, 24.0))
BACKGROUND_POSITION = 12.0


class ContextKV(NamedTuple):
    """One layer's text and image keys and values: [B, L, A, K] and [B, I, A, K]."""

    text_k: jax.Array
    text_v: jax.Array
    image_k: jax.Array
    image_v: jax.Array


class AudioKV(NamedTuple):
    """One layer's audio keys and values, the persons' tokens one after the other: [B, T, P·S, A, K]."""

    k: jax.Array
    v: jax.Array


def _heads(x: jax.Array, num_heads: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], num_heads, -1)


def _merge_heads(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-2], -1)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Layer norm without parameters, then scale and shift [B, 1, D]; float32 out."""
    return standardize(x, eps) * (1.0 + scale) + shift


def pad_rows(x: jax.Array, rows: int) -> jax.Array:
    """[B, N, D] -> [B, rows, D], zeros below."""
    return jnp.pad(x, ((0, 0), (0, rows - x.shape[1]), (0, 0)))


class SelfAttention(nnx.Module):
    """Attention over all video tokens; q and k are RMS-normalised over the full width, then turned by 3D rotary positions."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs, dtype):
        dim = config.dim
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (Linear(dim, dim, rngs=rngs, dtype=dtype) for _ in range(4))
        self.norm_q, self.norm_k = (RMSNorm(dim, eps=config.eps, dtype=dtype) for _ in range(2))

    def qkv(self, x: jax.Array, rope, parallel: Parallel) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, N, D] -> q, k, v [B, N, A, K]."""
        x = self.q.prepare(x)
        q, k = (
            parallel.norm_rope(projection(x), norm.scale[...], *rope, eps=norm.eps)
            for projection, norm in ((self.q, self.norm_q), (self.k, self.norm_k))
        )
        return q, k, _heads(self.v(x), self.num_heads)


class CrossAttention(nnx.Module):
    """Attention to the text and, beside it, to the image tokens with keys and values of their own; the two results are added."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs, dtype):
        dim = config.dim
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o, self.k_img, self.v_img = (Linear(dim, dim, rngs=rngs, dtype=dtype) for _ in range(6))
        self.norm_q, self.norm_k, self.norm_k_img = (RMSNorm(dim, eps=config.eps, dtype=dtype) for _ in range(3))

    def keys_values(self, text: jax.Array, image: jax.Array) -> ContextKV:
        """text [B, L, D], image [B, I, D]."""
        pairs = (
            self.norm_k(self.k(text)),
            self.v(text),
            self.norm_k_img(self.k_img(image)),
            self.v_img(image),
        )
        return ContextKV(*(_heads(x, self.num_heads) for x in pairs))

    def __call__(self, x: jax.Array, kv: ContextKV, parallel: Parallel) -> jax.Array:
        q = _heads(self.norm_q(self.q(x)), self.num_heads)
        out = parallel.attend_local(q, kv.text_k, kv.text_v) + parallel.attend_local(q, kv.image_k, kv.image_v)
        return self.o(_merge_heads(out))


class AudioCrossAttention(nnx.Module):
    """Each frame's video tokens attend to that frame's audio tokens; with two persons, rotary positions tell who is heard."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs, dtype):
        dim = config.dim
        self.num_heads = config.num_heads
        self.q_linear = Linear(dim, dim, rngs=rngs, dtype=dtype)
        self.kv_linear = Linear(config.audio_output_dim, 2 * dim, rngs=rngs, dtype=dtype)
        self.proj = Linear(dim, dim, rngs=rngs, dtype=dtype)

    def keys_values(self, tokens: jax.Array) -> AudioKV:
        """tokens: [B, P, T, S, C]; two persons' keys are turned to the middle of each one's stretch of positions."""
        _, persons, _, per_person, _ = tokens.shape
        tokens = jnp.concatenate([tokens[:, i] for i in range(persons)], axis=2)
        k, v = jnp.split(self.kv_linear(tokens), 2, axis=-1)
        k = _heads(k, self.num_heads)
        if persons > 1:
            middles = np.repeat([(low + high) / 2 for low, high in PERSON_POSITIONS], per_person)
            k = rotate(k, *rotary_1d(jnp.asarray(middles), k.shape[-1]))
        return AudioKV(k, _heads(v, self.num_heads))

    def __call__(
        self, x: jax.Array, kv: AudioKV, positions: jax.Array | None, parallel: Parallel, tokens: int | None = None
    ) -> jax.Array:
        """x [B, N, D], the first `tokens` (None: all) of it no padding; `positions` [B, tokens] with two persons, else None."""
        batch, rows, dim = x.shape
        tokens = rows if tokens is None else tokens
        q = _heads(self.q_linear(x)[:, :tokens], self.num_heads)
        if positions is not None:
            q = rotate(q, *rotary_1d(positions, q.shape[-1]))
        frames = kv.k.shape[1]
        q = q.reshape(batch * frames, tokens // frames, *q.shape[2:])
        k, v = (a.reshape(batch * frames, *a.shape[2:]) for a in kv)
        return self.proj(pad_rows(parallel.attend_local(q, k, v).reshape(batch, tokens, dim), rows))


def person_positions(q: jax.Array, k: jax.Array, masks: jax.Array, grid: tuple[int, int, int], parallel: Parallel) -> jax.Array:
    """Where each video token stands for L-RoPE, from how much it attends to each person's place in the first frame.

    Args:
        q, k: [B, N, A, K] of this block's self-attention.
        masks: [3, h·w] of the whole picture, 1 inside: person 1, person 2, background.
        grid: (T, h, w) of the tokens held here.

    Returns:
        float32 [B, N].
    """
    _, h, w = grid
    first = k[:, : h * w].reshape(k.shape[0], h, w, *k.shape[2:])
    first = parallel.gather_spatial(first)
    first = first.reshape(k.shape[0], -1, *k.shape[2:])
    # The share of attention that falls on a mask is attention with that mask as the value; the head's unused width stays zero.
    values = jnp.zeros_like(first).at[..., :3].set(masks.T[None, :, None, :].astype(first.dtype))
    share = parallel.attend_local(q, first, values)[..., :3].astype(jnp.float32)
    # Persons who fill the picture leave no background: nobody attends to it.
    share = jnp.mean(share, axis=2) / jnp.maximum(jnp.sum(masks, axis=-1), 1.0)
    low, high = parallel.min(share, (1,)), parallel.max(share, (1,))
    relative = (share - low) / (high - low + 1e-8)
    starts = jnp.asarray([start for start, _ in PERSON_POSITIONS])
    spans = jnp.asarray([stop - start for start, stop in PERSON_POSITIONS])
    persons = relative[..., :2] * spans + starts
    places = jnp.concatenate([persons, jnp.full_like(persons[..., :1], BACKGROUND_POSITION)], axis=-1)
    return jnp.take_along_axis(places, jnp.argmax(share, -1)[..., None], axis=-1)[..., 0]


class Block(nnx.Module):
    """Self-attention, text and image cross-attention, audio cross-attention, feed-forward; six-way modulated by time."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs, dtype):
        dim, self.eps = config.dim, config.eps
        self.modulation = nnx.Param(jax.random.normal(rngs.params(), (6, dim), dtype) / dim**0.5)
        self.self_attn = SelfAttention(config, rngs=rngs, dtype=dtype)
        self.norm3 = LayerNorm(dim, eps=config.eps, dtype=dtype)
        self.cross_attn = CrossAttention(config, rngs=rngs, dtype=dtype)
        self.norm_x = LayerNorm(dim, eps=config.eps, dtype=dtype)
        self.audio_cross_attn = AudioCrossAttention(config, rngs=rngs, dtype=dtype)
        self.ffn = MLP(dim, config.ffn_dim, dim, gelu_tanh, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        x: jax.Array,
        modulation: jax.Array,
        rope: tuple[jax.Array, jax.Array],
        context: ContextKV,
        audio: AudioKV,
        masks: jax.Array | None,
        grid: tuple[int, int, int],
        parallel: Parallel,
    ) -> jax.Array:
        """x [B, N, D]; modulation float32 [B, 6, D]; the rest as in DiT.__call__."""
        dtype = x.dtype
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(self.modulation[...].astype(jnp.float32) + modulation, 6, axis=1)

        q, k, v = self.self_attn.qkv(modulate(x, shift1, scale1, self.eps).astype(dtype), rope, parallel)
        tokens = math.prod(grid)
        padding = {} if tokens == x.shape[1] else {"key_length": tokens}
        y = self.self_attn.o(_merge_heads(parallel.attend(q, k, v, **padding)))
        x = (x + y * gate1).astype(dtype)
        positions = None if masks is None else person_positions(q[:, :tokens], k, masks, grid, parallel)

        x = x + self.cross_attn(self.norm3(x), context, parallel)
        x = x + self.audio_cross_attn(self.norm_x(x), audio, positions, parallel, tokens)

        y = self.ffn(modulate(x, shift2, scale2, self.eps).astype(dtype))
        return (x + y * gate2).astype(dtype)


class AudioProjection(nnx.Module):
    """wav2vec2 windows -> S audio tokens for each latent frame."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs, dtype):
        self.window = config.audio_window
        frame = config.audio_blocks * config.audio_channels
        hidden, out = config.audio_intermediate_dim, config.audio_output_dim
        self.tokens = config.audio_context_tokens
        self.proj1 = Linear(self.window * frame, hidden, rngs=rngs, dtype=dtype)
        self.proj1_vf = Linear((self.window + VAE_STRIDE[0] - 1) * frame, hidden, rngs=rngs, dtype=dtype)
        self.proj2 = Linear(hidden, hidden, rngs=rngs, dtype=dtype)
        self.proj3 = Linear(hidden, self.tokens * out, rngs=rngs, dtype=dtype)
        self.norm = LayerNorm(out, eps=1e-5, dtype=dtype)

    def __call__(self, windows: jax.Array) -> jax.Array:
        """windows [B, P, F, window, layers, C] -> [B, P, T, S, C'].

        The first frame sees its whole window. Each later latent frame stands for four frames and sees the first one's window up
        to its centre, the centres of the two in the middle, and the last one's window from its centre on (3 + 2 + 3).
        """
        batch, persons, frames, window, *_ = windows.shape
        middle = window // 2
        first = windows[:, :, :1].reshape(batch, persons, 1, -1)
        groups = windows[:, :, 1:].reshape(batch, persons, (frames - 1) // VAE_STRIDE[0], VAE_STRIDE[0], *windows.shape[3:])
        later = jnp.concatenate(
            [groups[:, :, :, 0, : middle + 1], groups[:, :, :, 1:-1, middle], groups[:, :, :, -1, middle:]], axis=3
        ).reshape(*groups.shape[:3], -1)
        hidden = jnp.concatenate([jax.nn.relu(self.proj1(first)), jax.nn.relu(self.proj1_vf(later))], axis=2)
        tokens = self.proj3(jax.nn.relu(self.proj2(hidden)))
        return self.norm(tokens.reshape(*tokens.shape[:3], self.tokens, -1))


class ImageProjection(nnx.Module):
    """CLIP features -> image tokens of the model's width."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs, dtype):
        self.norm_in = LayerNorm(config.clip_dim, eps=1e-5, dtype=dtype)
        self.mlp = MLP(config.clip_dim, config.clip_dim, config.dim, gelu_exact, rngs=rngs, dtype=dtype)
        self.norm_out = LayerNorm(config.dim, eps=1e-5, dtype=dtype)

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.norm_out(self.mlp(self.norm_in(features)))


class Head(nnx.Module):
    """Modulated norm and projection to one patch of latents; float32 as published."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs, dtype):
        self.eps = config.eps
        self.modulation = nnx.Param(jax.random.normal(rngs.params(), (2, config.dim), dtype) / config.dim**0.5)
        self.head = Linear(config.dim, int(np.prod(PATCH)) * config.out_channels, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """x [B, N, D], time float32 [B, D]."""
        shift, scale = jnp.split(self.modulation[...].astype(jnp.float32) + time[:, None], 2, axis=1)
        return self.head(modulate(x, shift, scale, self.eps))


def sinusoids(timestep: jax.Array, dim: int) -> jax.Array:
    """Timestep in [0, 1000] -> float32 [B, dim]: cosines, then sines."""
    frequencies = jnp.asarray(10_000.0 ** (-np.arange(dim // 2) / (dim // 2)), jnp.float32)
    angles = timestep.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def token_grid(latents: jax.Array) -> tuple[int, int, int]:
    """(T, h, w) of latents [B, T, H, W, C]."""
    _, t, rows, columns, _ = latents.shape
    return t // PATCH[0], rows // PATCH[1], columns // PATCH[2]


def patchify(latents: jax.Array) -> jax.Array:
    """[B, T, H, W, C] -> [B, T·h·w, 4C], a patch's rows, columns and channels in that order."""
    b, t, rows, columns, c = latents.shape
    _, ph, pw = PATCH
    x = latents.reshape(b, t, rows // ph, ph, columns // pw, pw, c)
    return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, -1, ph * pw * c)


def unpatchify(tokens: jax.Array, grid: tuple[int, int, int]) -> jax.Array:
    """The inverse of `patchify` on the token grid (T, h, w)."""
    t, h, w = grid
    _, ph, pw = PATCH
    x = tokens.reshape(tokens.shape[0], t, h, w, ph, pw, -1)
    return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(tokens.shape[0], t, h * ph, w * pw, -1)


class DiT(nnx.Module):
    """See the module's docstring. Activations have the dtype of the parameters; modulation, norms and head are float32."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        dim = config.dim
        self.config, self.dtype = config, dtype
        self.patch_embedding = Linear(int(np.prod(PATCH)) * config.in_channels, dim, rngs=rngs, dtype=dtype)
        self.text_embedding = MLP(config.text_dim, dim, dim, gelu_tanh, rngs=rngs, dtype=dtype)
        self.time_embedding = MLP(config.freq_dim, dim, dim, jax.nn.silu, rngs=rngs, dtype=dtype)
        self.time_projection = Linear(dim, 6 * dim, rngs=rngs, dtype=dtype)
        self.img_emb = ImageProjection(config, rngs=rngs, dtype=dtype)
        self.audio_proj = AudioProjection(config, rngs=rngs, dtype=dtype)
        self.blocks = BlockStack(lambda rngs: Block(config, rngs=rngs, dtype=dtype), config.num_layers, rngs=rngs)
        self.head = Head(config, rngs=rngs, dtype=dtype)

    def context(self, text: jax.Array, image: jax.Array) -> list[ContextKV]:
        """Text and image keys and values of every layer.

        Args:
            text: umT5 states [B, L', text_dim], L' ≤ text_len; padded with zeros to text_len, as the model was trained.
            image: CLIP features [B, I, clip_dim].

        Raises:
            ValueError: the text is longer than text_len.
        """
        missing = self.config.text_len - text.shape[1]
        if missing < 0:
            raise ValueError(f"text of {text.shape[1]} tokens is longer than the model's {self.config.text_len}")
        text = jnp.pad(text.astype(self.dtype), ((0, 0), (0, missing), (0, 0)))
        text, image = self.text_embedding(text), self.img_emb(image.astype(self.dtype))
        return self.blocks.map(lambda block: block.cross_attn.keys_values(text, image))

    def audio(self, windows: jax.Array) -> list[AudioKV]:
        """Audio keys and values of every layer from wav2vec2 windows [B, P, F, window, layers, C], one or two persons."""
        tokens = self.audio_proj(windows.astype(self.dtype))
        return self.blocks.map(lambda block: block.audio_cross_attn.keys_values(tokens))

    def __call__(
        self,
        latents: jax.Array,
        condition: jax.Array,
        timestep: jax.Array,
        *,
        rope: tuple[jax.Array, jax.Array],
        context: list[ContextKV],
        audio: list[AudioKV],
        masks: jax.Array | None = None,
        parallel: Parallel = ONE_DEVICE,
        execution: Execution = LOOP,
    ) -> jax.Array:
        """Velocity ε − x0 of noisy latents.

        Args:
            latents: [B, T, H, W, 16].
            condition: mask and reference latents [B, T, H, W, 20].
            timestep: [B] in [0, 1000].
            rope: cos and sin of the tokens held here, `rotary_3d` [T·h·w, K/2] or [T, h, w, K/2].
            context, audio: from the methods of these names.
            masks: with two persons, person 1, person 2 and background [3, h·w] of the whole token picture, 1 inside.
            parallel: where devices talk.
            execution: how blocks run.

        Returns:
            float32 [B, T, H, W, 16].
        """
        grid = token_grid(latents)
        x = jnp.concatenate([latents.astype(self.dtype), condition.astype(self.dtype)], axis=-1)
        x = self.patch_embedding(patchify(x))
        tokens = x.shape[1]
        rows = -(-tokens // parallel.row_multiple) * parallel.row_multiple
        x = pad_rows(x, rows)
        cos, sin = (pad_rows(table.reshape(1, tokens, -1), rows)[0] for table in rope)
        time = self.time_embedding(sinusoids(timestep, self.config.freq_dim))
        modulation = self.time_projection(jax.nn.silu(time)).reshape(time.shape[0], 6, -1)

        def run(block: Block, x, layer):
            context, audio = layer
            return block(x, modulation, (cos, sin), context, audio, masks, grid, parallel)

        x = self.blocks(run, x, list(zip(context, audio, strict=True)), execution)
        return unpatchify(self.head(x[:, :tokens], time), grid)
