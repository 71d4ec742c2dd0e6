"""Sessions: the host's side of streaming. A `Pipeline` holds compiled functions, a `Session` the stream of one or two persons."""

import copy
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.config import RunConfig
from livetalk_jax.diffusion.sampler import Motion, noise_draws
from livetalk_jax.kernels import attention, norm_rope
from livetalk_jax.models.wav2vec2 import normalize_waveform
from livetalk_jax.nn.quantization import DIT_FP8, is_quantized, quantize
from livetalk_jax.nn.stack import gather_around
from livetalk_jax.parallel import placement
from livetalk_jax.parallel.layout import WHOLE, Layout
from livetalk_jax.parallel.mesh import choose_devices, per_host
from livetalk_jax.parallel.placement import put
from livetalk_jax.parallel.plan import make_plan
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream import conditioning
from livetalk_jax.stream.audio import SpeechBuffer, chunk_slices, normalize_loudness, video_frames, windows
from livetalk_jax.stream.chunk import denoise, draw_noise, first_frames, other_frames, to_uint8
from livetalk_jax.stream.networks import Networks, compiled
from livetalk_jax.tokenizer import Tokenize

logger = logging.getLogger(__name__)


def layout(config: RunConfig, size: tuple[int, int], devices: Sequence[jax.Device] | None = None) -> Layout:
    """Where one video of (height, width) pixels runs; arguments as of `Pipeline`.

    Raises:
        ValueError: the plan cannot work; the line names the nearest that can.
    """
    parallel, stream = config.parallel, config.stream
    if devices is None:
        devices = choose_devices(parallel.devices)
    _, h, w = Geometry(*size, stream.frames, stream.motion_frames).token_grid
    plan = make_plan(
        len(devices), config.model.dit.num_heads, (h, w), sequence=parallel.sequence, grid=parallel.grid,
        head_groups=parallel.head_groups, vae_split=parallel.vae_split, per_host=per_host(devices),
    )  # fmt: skip
    return Layout(plan, config.model.dit.num_heads, (h, w), tuple(devices), parallel.weights)


class Pipeline:
    """Networks compiled for one picture size; any number of sessions share it.

    Args:
        networks: the five networks, wherever they are; best where `layout(...)` has their weights, which saves a copy. Networks of
            shapes (`nnx.eval_shape`) give programs that can be compiled but not run.
        config: of the run.
        size: (height, width) of the video, one of the configuration's buckets.
        tokenize: prompts to (ids, mask).
        devices: those to run on, process by process; by default the first `config.parallel.devices` of all.

    Raises:
        ValueError: sizes that do not fit the networks, or a parallel plan that cannot work.
    """

    def __init__(
        self,
        networks: Networks,
        config: RunConfig,
        size: tuple[int, int],
        tokenize: Tokenize,
        devices: Sequence[jax.Device] | None = None,
    ):
        stream, sampler = config.stream, config.sampler
        self.config = config
        self.geometry = Geometry(*size, stream.frames, stream.motion_frames)
        self.tokenize = tokenize
        self.dtype = networks.dit.dtype
        self.layout = layout(config, size, devices)
        logger.info("plan: %s", self.layout.explain())
        self.attention, attend = attention.select(config.runtime.attention, config.runtime.dtype, self.layout.devices[0])
        logger.info("attention: %s", self.attention)
        self.norm_rope, norm = norm_rope.select(config.runtime.dtype, self.attention, self.layout.devices[0])
        logger.info("norm and rotary positions: %s", self.norm_rope)
        if config.runtime.linear == "fp8" and not is_quantized(networks.dit):
            logger.info("8 bits with a scale for each token, found as it comes; `livetalk quantize` fixes them, which is faster")
            networks = networks._replace(dit=quantize(networks.dit, DIT_FP8))
        placed = {name: put(network, self.layout.weight_shardings(network)) for name, network in networks._asdict().items()}
        if config.runtime.text_encoder == "host":
            placed["text"] = jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, networks.text)
        self.networks = networks = Networks(**placed)
        self.parallel = parallel = self.layout.parallel(attend, norm)
        self.specs = conditioning.specs(self.layout)

        def first(dit, vae, conditions, features, key, number, motion):
            shape = (noise_draws(sampler.method, sampler.steps), 1, *self.geometry.latent_grid, networks.dit.config.out_channels)
            noise = parallel.take_spatial(draw_noise(key, number, shape), 3)
            latents = denoise(dit, conditions, features, noise, motion, sampler=sampler, parallel=parallel)
            frames, rest = first_frames(
                self.layout.vae(vae), latents.astype(conditions.reference.dtype), conditions.color, self.geometry.first_latents,
                motion_frames=stream.motion_frames, color_strength=stream.color_strength, parallel=parallel,
            )  # fmt: skip
            return parallel.gather_spatial(to_uint8(frames[0, stream.motion_frames :])), rest

        def others(vae, color, rest):
            frames, motion = other_frames(
                self.layout.vae(vae), rest, color, color_strength=stream.color_strength, parallel=parallel
            )
            return parallel.gather_spatial(to_uint8(frames[0])), motion

        def audio_windows(audio, waveforms, *, last: int | None):
            """Windows of the last frames (None: of all): [P, samples] -> [1, P, F, 5, layers, C]."""
            frames = waveforms.shape[1] * stream.fps // stream.sample_rate
            states = audio(jnp.stack([normalize_waveform(w) for w in waveforms]), frames)
            start = 0 if last is None else frames - last
            return jnp.stack([windows(person, start, frames) for person in states])[None]

        def prepare(dit, vae, clip, portrait, text, negative, masks):
            return conditioning.prepare(
                dit, self.layout.vae(vae), clip, portrait, text, negative, masks, self.geometry, stream.reference, parallel
            )

        def encode_motion(vae, frames):
            latents = self.layout.vae(vae).encode(parallel.take_spatial(frames, 2), parallel=parallel)
            return Motion(latents, jnp.int32(latents.shape[1]))

        conditions, motion = self.specs
        self.encode_motion = self.spread(encode_motion, networks.vae, in_specs=(WHOLE,), out_specs=motion)
        rest = self.layout.cut(2)
        self.first_frames = self.spread(
            first, networks.dit, networks.vae,
            in_specs=(conditions, WHOLE, WHOLE, WHOLE, motion), out_specs=(WHOLE, rest),
        )  # fmt: skip
        self.other_frames = self.spread(others, networks.vae, in_specs=(conditions.color, rest), out_specs=(WHOLE, motion))
        self.chunk_windows, self.all_windows = (
            self.spread(functools.partial(audio_windows, last=last), networks.audio, in_specs=(WHOLE,), out_specs=WHOLE)
            for last in (stream.frames, None)
        )
        self._prepare = self.spread(
            prepare, networks.dit, networks.vae, networks.clip, in_specs=(WHOLE,) * 4, out_specs=(conditions, motion)
        )
        self._encode_text = self.spread(
            lambda text, ids, mask: text(ids, mask) * mask[..., None], networks.text, in_specs=(WHOLE,) * 2, out_specs=WHOLE
        )

    def spread(self, fn: Callable, *networks: nnx.Module, in_specs: Sequence, out_specs: Any) -> compiled:
        """`fn(*networks, *args)` as one program on all devices of the layout, each with its part of the arguments and results.

        in_specs: of `args`; out_specs: of the results (`Layout.spread`). Weights are whole in `fn`, but for those of block stacks,
        which gather their own.
        """
        specs = self.layout.weight_specs(networks)

        def on_each(networks, *args):
            return fn(*map(gather_around, placement.parts(networks, specs)), *args)

        spread = self.layout.spread(on_each, (specs, *in_specs), out_specs)
        return compiled(lambda *args: spread(args[: len(networks)], *args[len(networks) :]), *networks)

    def chunk(
        self, conditions: conditioning.Conditions, windows: jax.Array, key: jax.Array, number: np.uint32, motion: Motion
    ) -> tuple[list[jax.Array], Motion]:
        """Frames of a chunk in the pieces in which they are made, uint8 [F, Y, X, 3] each, and the motion of the next.

        Both programs are under way when this returns; a piece can be fetched as soon as it is there.
        """
        first, rest = self.first_frames(conditions, windows, key, number, motion)
        others, motion = self.other_frames(conditions.color, rest)
        return [piece for piece in (first, others) if len(piece)], motion

    @property
    def chunk_programs(self) -> int:
        """How many programs chunks took so far: two, or one was compiled anew."""
        return self.first_frames.programs + self.other_frames.programs

    def start(
        self, portrait: np.ndarray, *, prompt: str | None = None, masks: np.ndarray | None = None, seed: int = 0
    ) -> "Session":
        """Begin a session.

        Args:
            portrait: float32 [Y, X, 3] in [−1, 1], of the pipeline's size.
            prompt: None for the configuration's.
            masks: `conditioning.person_masks`, for two persons.
            seed: of the noise.
        """
        sampler = self.config.sampler
        prompts = [sampler.prompt if prompt is None else prompt, sampler.negative_prompt]
        with jax.default_device(self.layout.devices[0]):  # for weights that are not on it
            text, negative = jnp.split(self._encode_text(*self.tokenize(prompts)), 2)
        guided = sampler.text_guidance != 1.0
        pixels = np.asarray(portrait, self.dtype)[None, None]
        conditions, motion = self._prepare(pixels, text, negative if guided else None, masks)
        return Session(self, conditions, motion, persons=1 if masks is None else 2, seed=seed)

    def warm_up(self, session: "Session") -> None:
        """Compile all that a session's chunks run, without moving the session on."""
        stream = self.config.stream
        silence = np.zeros((session.persons, stream.audio_context_seconds * stream.sample_rate), np.float32)
        jax.block_until_ready(session.generate(self.chunk_windows(silence), commit=False))


class Session:
    """One stream: what was heard and shown so far. Made by `Pipeline.start`.

    Attributes:
        conditions: what stays the same.
        motion: what the next chunk goes on from.
    """

    def __init__(self, pipeline: Pipeline, conditions: conditioning.Conditions, motion: Motion, *, persons: int, seed: int):
        stream = pipeline.config.stream
        self.pipeline = pipeline
        self.persons = persons
        self.conditions, self.motion = conditions, motion
        self._key = put(jax.random.key(seed), pipeline.layout.whole)
        self._chunks = 0
        self._buffers = [SpeechBuffer(stream.audio_context_seconds, stream.sample_rate) for _ in range(persons)]

    def copy(self) -> "Session":
        """The same stream once more; what either does from here on does not change the other."""
        other = copy.copy(self)
        other._buffers = [copy.copy(buffer) for buffer in self._buffers]
        return other

    def go_on_from(self, frames: np.ndarray, dropped: int) -> None:
        """Go on from frames that were really shown, because the last that were made will not be.

        Args:
            frames: uint8 [motion_frames, Y, X, 3], the last that are shown.
            dropped: frames made after them. The speech of these counts as not heard.
        """
        stream = self.pipeline.config.stream
        pixels = (frames.astype(np.float32) / 127.5 - 1)[None]
        self.motion = self.pipeline.encode_motion(pixels.astype(self.pipeline.dtype))
        for buffer in self._buffers:
            buffer.drop(dropped * stream.sample_rate // stream.fps)

    def listen(self, speech: Sequence[np.ndarray]) -> jax.Array:
        """Take in new speech and return the audio windows of the chunk that it belongs to.

        Args:
            speech: a waveform for each person, float [samples], as long as a chunk's new frames.

        Returns:
            [1, P, F, 5, layers, C].
        """
        for buffer, samples in zip(self._buffers, speech, strict=True):
            buffer.push(samples)
        return self.pipeline.chunk_windows(self._loud([buffer.waveform for buffer in self._buffers]))

    def _loud(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        rate = self.pipeline.config.stream.sample_rate
        return np.stack([normalize_loudness(waveform, rate) for waveform in waveforms])

    def generate(self, audio_windows: jax.Array, *, commit: bool = True) -> list[jax.Array]:
        """The next frames in pieces, uint8 [F, Y, X, 3] each; returns before they are computed, as JAX does.

        The first piece is computed before the others: whoever wants it early fetches them in their order. Without `commit` the
        session stays where it is: the same call gives the same frames again.
        """
        frames, motion = self.pipeline.chunk(self.conditions, audio_windows, self._key, np.uint32(self._chunks), self.motion)
        if commit:
            self.motion, self._chunks = motion, self._chunks + 1
        return frames

    def recorded_windows(self, speech: Sequence[np.ndarray]) -> Iterator[jax.Array]:
        """Audio windows of every chunk of a finished recording, by the configuration's `audio_mode`.

        speech: a waveform for each person, float [samples], equally long.
        """
        stream, geometry = self.pipeline.config.stream, self.pipeline.geometry
        cut = functools.partial(chunk_slices, sample_rate=stream.sample_rate, fps=stream.fps, new_frames=geometry.new_frames)
        pieces = [list(cut(waveform)) for waveform in speech]
        if stream.audio_mode == "stream":
            yield from map(self.listen, zip(*pieces, strict=True))
            return
        # The first chunk's motion frames come before the speech: silence, as in the live buffer.
        lead = np.zeros(stream.motion_frames * stream.sample_rate // stream.fps, np.float32)
        whole = self.pipeline.all_windows(self._loud([np.concatenate([lead, *person]) for person in pieces]))
        for begin in range(0, whole.shape[2] - stream.motion_frames, geometry.new_frames):
            yield whole[:, :, begin : begin + geometry.frames]

    def speak(self, speech: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Frames of a whole recording as they come, uint8 [F, Y, X, 3]; together as long as the recording to within a frame.

        The next chunk is under way while the caller deals with the pieces of one.

        Raises:
            ValueError: not one waveform a person.
        """
        if len(speech) != self.persons:
            raise ValueError(f"this session has {self.persons} person(s) but was given {len(speech)} recording(s)")
        longest = max(map(len, speech))
        speech = [np.pad(waveform, (0, longest - len(waveform))) for waveform in speech]
        left = video_frames(longest, self.pipeline.config.stream.sample_rate, self.pipeline.config.stream.fps)
        for piece in self._pieces(speech):
            if left > 0:
                yield np.asarray(piece)[:left]
                left -= len(piece)

    def _pieces(self, speech: Sequence[np.ndarray]) -> Iterator[jax.Array]:
        under_way: list[jax.Array] = []
        for audio_windows in self.recorded_windows(speech):
            pieces, under_way = under_way, self.generate(audio_windows)
            yield from pieces
        yield from under_way
