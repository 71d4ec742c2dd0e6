"""Training the VAE: pictures in, the same pictures out, through latents that stay near a normal distribution.

Every frame is encoded and decoded as in a stream: from the first on, causally, by the networks' own functions. After training the
latents' mean and deviation are measured and made those of the published VAE, by the two linear maps on either side of them, so that
what the transformer sees, which is normalised by these, has mean 0 and deviation 1.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.models.vae import VAE
from livetalk_jax.nn.conv import Past
from livetalk_jax.parallel.seams import ONE_DEVICE
from livetalk_jax.stream.chunk import to_uint8
from livetalk_jax.training.config import AutoencoderConfig, AutoencodingConfig
from livetalk_jax.training.pictures import edge_error, mouth_weights
from livetalk_jax.training.single import SingleNetwork
from livetalk_jax.training.stages import Metrics, State
from livetalk_jax.training.state import Placement, Weights

LOG_VARIANCE = (-20.0, 10.0)  # bounds
MEASURED = 32  # batches from which mean and deviation are taken


class VideoBatch(NamedTuple):
    """Attributes:
    frames: uint8 [B, F, Y, X, 3].
    mouth: float32 [B, F, 3]: column and row of the mouth's middle, and a face unit, in pixels.
    closed: bool [B, F]: the lips of an /m/, /b/ or /p/ touch.
    """

    frames: Any
    mouth: Any
    closed: Any


class Posterior(NamedTuple):
    """Mean and log-variance of latents, [B, T, H, W, z_dim]."""

    mean: jax.Array
    log_variance: jax.Array


def pixels(frames: jax.Array, dtype: Any) -> jax.Array:
    return (frames.astype(jnp.float32) / 127.5 - 1).astype(dtype)


def posterior(vae: VAE, video: jax.Array) -> Posterior:
    """Of a video [B, F, Y, X, 3] in [−1, 1]; float32."""
    both = vae.quant(vae.encoder(video, Past(), ONE_DEVICE)).astype(jnp.float32)
    mean, log_variance = jnp.split(both, 2, axis=-1)
    return Posterior(mean, jnp.clip(log_variance, *LOG_VARIANCE))


def divergence(of: Posterior) -> jax.Array:
    """From a standard normal distribution: nats a number, averaged."""
    return 0.5 * jnp.mean(jnp.square(of.mean) + jnp.exp(of.log_variance) - 1.0 - of.log_variance)


def autoencoding_loss(
    video: jax.Array, decoded: jax.Array, latents: Posterior, weights: jax.Array, config: AutoencodingConfig
) -> tuple[jax.Array, Metrics]:
    """Weighted absolute error, edges and divergence. Videos [B, F, Y, X, 3] in [−1, 1], weights [B, F, Y, X, 1]."""
    error = decoded.astype(jnp.float32) - video.astype(jnp.float32)
    absolute, edges, kl = jnp.mean(weights * jnp.abs(error)), edge_error(error, weights), divergence(latents)
    metrics = {"absolute": absolute, "edges": edges, "kl": kl, "psnr": -10 * jnp.log10(jnp.mean(jnp.square(error)) / 4 + 1e-9)}
    return absolute + config.edge_weight * edges + config.kl_weight * kl, metrics


def rescaled(weights: Mapping[str, jax.Array], factor: jax.Array, shift: jax.Array) -> Weights:
    """The same VAE with latents z · factor + shift, both [z_dim]: `quant` and `post_quant` take them up."""
    changed, z_dim = dict(weights), len(factor)
    kernel, bias = weights["quant.kernel"], weights["quant.bias"]
    changed["quant.kernel"] = kernel.at[:, :z_dim].multiply(factor)
    changed["quant.bias"] = bias.at[:z_dim].multiply(factor).at[:z_dim].add(shift)
    kernel = weights["post_quant.kernel"] / factor[:, None]
    changed["post_quant.kernel"] = kernel
    changed["post_quant.bias"] = weights["post_quant.bias"] - shift @ kernel
    return changed


class Autoencoding(SingleNetwork):
    """The VAE's training; see the module's docstring. ValueError: a decoder is to learn alone and no checkpoint has its encoder."""

    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig, where: Placement):
        if config.autoencoding.decoder_alone and not config.checkpoint:
            raise ValueError("config.autoencoding.decoder_alone needs an encoder: give its folder as config.checkpoint")
        super().__init__(config, where, "vae")
        self._shift, self._scale = (jnp.asarray(x) for x in (config.model.vae.latent_mean, config.model.vae.latent_std))
        self._moments = jax.jit(self.moments, compiler_options=self.options)
        self._through = jax.jit(self.through, compiler_options=self.options)

    def frames_of(self, batch: VideoBatch) -> int:
        return batch.frames.shape[0] * batch.frames.shape[1]

    def synthetic_batch(self) -> VideoBatch:
        rng, rows, (height, width) = np.random.default_rng(0), self.config.data.batch, self.config.stream.buckets[0]
        size = (rows, self.config.autoencoding.frames, height, width, 3)
        mouth = np.array([width / 2, height / 2, width / 4], np.float32)
        return VideoBatch(
            rng.integers(0, 256, size, np.uint8), np.broadcast_to(mouth, (*size[:2], 3)), rng.integers(0, 2, size[:2]).astype(bool)
        )

    def loss(self, weights: Weights, batch: VideoBatch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        config, dtype = self.config.autoencoding, self.config.runtime.dtype
        vae, video = self.build(weights, dtype), pixels(batch.frames, dtype)
        latents = posterior(vae, video)
        if config.decoder_alone:
            latents = jax.lax.stop_gradient(latents)
        z = latents.mean + jnp.exp(0.5 * latents.log_variance) * jax.random.normal(key, latents.mean.shape)
        decoded = vae.decode(((z - self._shift) / self._scale).astype(dtype))
        weight = config.mouth_weight * (1.0 + config.closed_weight * batch.closed)
        at_mouth = mouth_weights(batch.mouth, video.shape[2], video.shape[3], weight)
        return autoencoding_loss(video, decoded, latents, at_mouth, config)

    def moments(self, weights: Weights, batch: VideoBatch) -> tuple[jax.Array, jax.Array]:
        """Sums over a batch's latents a channel: of the means, and of squared means and variances."""
        latents = posterior(self.build(weights, jnp.float32), pixels(batch.frames, jnp.float32))
        axes = (0, 1, 2, 3)
        return jnp.mean(latents.mean, axes), jnp.mean(jnp.square(latents.mean) + jnp.exp(latents.log_variance), axes)

    def exported(self, state: State, frozen: Any, feed: Iterator[VideoBatch]) -> dict[str, nnx.State]:
        """With the published statistics of latents; the posterior's deviation counts, so a channel that tells nothing stays small."""
        weights = state[self.name].best
        if self.config.autoencoding.decoder_alone:  # they have them already
            return super().exported(state, frozen, feed)
        moments = [self._moments(weights, next(feed)) for _ in range(MEASURED)]
        mean, square = (sum(parts) / MEASURED for parts in zip(*moments, strict=True))
        factor = self._scale / jnp.sqrt(square - jnp.square(mean))
        return {self.name: self.template.state(rescaled(weights, factor, self._shift - mean * factor))}

    def through(self, weights: Weights, batch: VideoBatch) -> jax.Array:
        vae, video = self.build(weights, jnp.float32), pixels(batch.frames[:1], jnp.float32)
        return to_uint8(jnp.concatenate([video, vae.decode(vae.encode(video))], axis=3)[0])

    def sample_video(self, state: State, frozen: Any, batch: VideoBatch) -> np.ndarray:
        """The first clip and beside it what the VAE makes of it."""
        return np.asarray(self._through(state[self.name].best, batch))
