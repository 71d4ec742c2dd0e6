"""The two stages as programs on global arrays: what an iteration does, from batches to new weights."""

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.diffusion.sampler import Motion, add_noise, noise_draws, predict_x0, with_motion
from livetalk_jax.diffusion.schedule import NUM_TIMESTEPS
from livetalk_jax.kernels import attention
from livetalk_jax.models.dit import token_grid
from livetalk_jax.nn.stack import Execution
from livetalk_jax.parallel import placement
from livetalk_jax.shapes import latent_frames
from livetalk_jax.stream.chunk import draw_noise
from livetalk_jax.stream.conditioning import portrait_motion
from livetalk_jax.stream.networks import GPU_OPTIONS, random_network
from livetalk_jax.training import distillation, flow_matching, lora, rollout
from livetalk_jax.training.batch import TrainBatch
from livetalk_jax.training.config import AdaptationConfig, DistillationConfig, OptimizerConfig
from livetalk_jax.training.state import (
    Learner,
    Placement,
    Template,
    Weights,
    at_a_time,
    descend,
    in_turn,
    materialize,
    new_learner,
    starting_weights,
)
from livetalk_jax.training.throughput import forward_flops

TRAINED = 3  # a prediction with its gradients by inputs and weights costs as much as three without

# XLA joins sums over devices, of hundreds of biases say, by kernels of as many operands: of some hundred they compile in seconds.
TRAINING_OPTIONS = GPU_OPTIONS | {"xla_gpu_collective_combine_threshold_count": 64}

State = dict[str, Learner]
Metrics = dict[str, jax.Array]


class Frozen(NamedTuple):
    """What no stage changes: in the run's dtype, read from where training starts, never saved again.

    Attributes:
        base: the transformer before training: the real score, and what LoRA's changes are added to; empty where neither is there.
        vae: for handovers and samples.
        negative_text: [L, text_dim].
    """

    base: Weights
    vae: Weights
    negative_text: jax.Array


class When(NamedTuple):
    """Which random numbers: uint32 scalars. With the configuration's seed they determine every draw of a program."""

    step: Any
    batch: Any


NOW = When(np.uint32(0), np.uint32(0))


class Work(NamedTuple):
    """What an iteration was worth: video tokens that were trained on, and floating-point operations without recomputation."""

    tokens: int
    flops: float


class Program(NamedTuple):
    """A part of an iteration.

    Attributes:
        run: the compiled function.
        arguments: arrays, or shapes with shardings where none were given.
        learner: the name of that which it updates; its first argument, whose memory it takes, and its first result.
    """

    run: Any
    arguments: tuple
    learner: str | None = None


def compile_together(programs: Iterable[Program]) -> None:
    """Compile programs at the same time, so that calls find them compiled: XLA takes minutes for one, most of them in one thread."""
    with ThreadPoolExecutor() as pool:
        compiling = [pool.submit(program.run.lower(*program.arguments).compile) for program in programs]
    for one in compiling:
        one.result()


class Turn(NamedTuple):
    """A chunk of a rollout: its random numbers, its number from 0, and the step at which it leaves; integer scalars."""

    when: When
    chunk: Any
    exit_step: Any


def given_of(batch: TrainBatch, chunk: Any, negative_text: jax.Array | None = None) -> rollout.Given:
    """What predictions for a chunk of a batch are conditioned on."""
    return rollout.Given(batch.reference_latents, batch.clip, batch.color, batch.text, negative_text, batch.audio[:, :, chunk])


class Stage:
    """What both stages share: networks without weights, the start, the update of one network, samples.

    Args:
        config: of the run.
        where: arrays lie.
        negative_text: [L, text_dim], of the negative prompt.
    """

    def __init__(self, config: Any, where: Placement, negative_text: np.ndarray):
        self.config, self.placement = config, where
        dtype = jnp.dtype(config.runtime.dtype)
        device = where.devices[0]
        self.attention, attend = attention.select(config.runtime.attention, config.runtime.dtype, device, gradients=True)
        if where.plan.ring > 1 and self.attention == "cudnn":
            most = math.gcd(config.model.dit.num_heads, where.plan.model_devices)
            raise ValueError(
                f"attention 'cudnn' cannot be differentiated through a ring: give config.execution.sequence={most}x1, or "
                "config.runtime.attention=reference"
            )
        self.execution = Execution(scan=config.execution.scan, remat=config.execution.remat)
        self.dit = Template(lambda: random_network(config.model, "dit", dtype, 0))
        self.vae = Template(lambda: random_network(config.model, "vae", dtype, 0))
        self.runner = rollout.Runner(config.sampler, config.model.dit.num_heads, self.dit, self.vae, where, attend, self.execution)
        self.conditional = self.runner.guided(1.0, 1.0)
        self.motion_latents = latent_frames(config.stream.motion_frames)
        self._negative_text = negative_text
        self._options = TRAINING_OPTIONS if device.platform == "gpu" else {}
        # Motion lies the same way whichever program it comes from: a second chunk compiles nothing.
        self._motion_at = Motion(where.rows, where.whole)  # type: ignore[arg-type]
        self._sample = self.program(self.sample, out_shardings=(where.rows, self._motion_at))

    watched: str  # the number whose least marks the best checkpoint
    needs_base = False

    @property
    def optimizers(self) -> dict[str, OptimizerConfig]:
        """The networks that are trained, by name."""
        raise NotImplementedError

    def step(self, state: State, frozen: Frozen, step: int, feed: Iterator[TrainBatch]) -> tuple[State, Metrics, Work]:
        """One iteration; it takes as many batches from `feed` as it needs."""
        raise NotImplementedError

    def programs(self, state: State, frozen: Frozen, batch: TrainBatch) -> dict[str, Program]:
        """What `step` runs, by name; of `abstract_state`, `abstract_frozen` and the shapes of a batch, or of arrays."""
        raise NotImplementedError

    # The start

    def start(self) -> State:
        """Learners at the beginning of training."""
        config = self.config
        if config.lora.rank:
            weights = lora.factors(jax.random.key(config.loop.seed), self.dit.shapes, config.lora)
        else:
            weights = starting_weights(config, "dit", self.dit, self.placement.place(self.dit.abstract(jnp.float32)))
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state())
        return jax.jit(self._new_learners, out_shardings=shardings)(weights)

    def abstract_state(self) -> State:
        """Shapes, dtypes and shardings of `start`, without memory."""
        shapes = self.dit.abstract(jnp.float32)
        if self.config.lora.rank:
            shapes = jax.eval_shape(lambda: lora.factors(jax.random.key(0), shapes, self.config.lora))
        return self.placement.place(jax.eval_shape(self._new_learners, shapes))

    def _new_learners(self, weights: Weights) -> State:
        return {name: new_learner(jax.tree.map(jnp.copy, weights), config) for name, config in self.optimizers.items()}

    def frozen(self) -> Frozen:
        """What stays as it is."""
        abstract = self.abstract_frozen()
        return Frozen(
            base=starting_weights(self.config, "dit", self.dit, abstract.base) if abstract.base else {},
            vae=starting_weights(self.config, "vae", self.vae, abstract.vae),
            negative_text=placement.put(self._negative_text, self.placement.whole),
        )

    def abstract_frozen(self) -> Any:
        """Shapes, dtypes and shardings of `frozen`, as a `Frozen`, without memory."""
        dtype = jnp.dtype(self.config.runtime.dtype)
        needed = self.needs_base or self.config.lora.rank > 0
        return Frozen(
            base=self.placement.place(self.dit.abstract(dtype)) if needed else {},
            vae=self.placement.place(self.vae.abstract(dtype)),
            negative_text=self.placement.place(self._negative_text, self.placement.whole),
        )

    # Programs

    def program(self, fn, **options):
        return jax.jit(fn, compiler_options=self._options, **options)

    def update_program(self, fn, name: str):
        """`fn(learner, …) -> (learner, metrics)` compiled; the learner's memory is used again."""
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state()[name])
        return self.program(fn, donate_argnums=0, out_shardings=(shardings, None))

    def key(self, when: When) -> jax.Array:
        key = jax.random.key(self.config.loop.seed)
        return jax.random.fold_in(jax.random.fold_in(key, when.step), when.batch)

    def weights(self, trained: Weights, frozen: Frozen) -> Weights:
        """Weights of the network, in the dtype that they are kept in."""
        return materialize(trained, frozen.base, self.config.lora)

    def update(self, learner: Learner, name: str, loss) -> tuple[Learner, Metrics]:
        """One step of a learner down the gradient of loss(weights) -> (loss, metrics)."""
        return descend(learner, loss, self.optimizers[name], self.placement.norm)

    def worked(self, work: Work, batch: TrainBatch, predictions: float) -> Work:
        """`work` and that of one batch more."""
        rows, grid = batch.chunk_latents.shape[0], token_grid(batch.reference_latents)
        flops = rows * predictions * forward_flops(self.config.model.dit, grid)
        return Work(work.tokens + rows * math.prod(grid), work.flops + flops)

    def sample(
        self, trained: Weights, frozen: Frozen, batch: TrainBatch, chunk: jax.Array, key: jax.Array, motion: Motion
    ) -> tuple[jax.Array, Motion]:
        """One chunk of video as it will be streamed: uint8 [B, F', Y, X, 3], and the motion of the next."""
        sampler = self.config.sampler
        given = given_of(batch, chunk, negative_text=frozen.negative_text if sampler.text_guidance != 1.0 else None)
        noise = draw_noise(key, chunk, (noise_draws(sampler.method, sampler.steps), *batch.reference_latents.shape))
        return self.runner.chunk(self.weights(trained, frozen), frozen.vae, given, noise, motion, self.config.stream)

    def sample_video(self, state: State, frozen: Frozen, batch: TrainBatch) -> np.ndarray:
        """A video of the first row's portrait and speech, uint8 [F, Y, X, 3]; the same noise whenever it is called."""
        chunks = min(self.config.loop.sample_chunks, batch.audio.shape[2])
        begin = jax.jit(portrait_motion, static_argnums=1, out_shardings=self._motion_at)
        motion = begin(batch.portrait_latent, self.motion_latents)
        key = jax.random.key(self.config.loop.seed)
        video = []
        for chunk in range(chunks):
            frames, motion = self._sample(state["student"].best, frozen, batch, np.uint32(chunk), key, motion)
            video.append(np.asarray(jax.device_put(frames[:1], self.placement.whole))[0])
        return np.concatenate(video)

    def exported(self, state: State, frozen: Frozen, feed: Iterator[TrainBatch]) -> dict[str, nnx.State]:
        """The student for a checkpoint, in the run's dtype."""
        return {"dit": self.dit.state(jax.jit(lambda *args: self.dit.cast(self.weights(*args)))(state["student"].best, frozen))}


class Adaptation(Stage):
    """Stage 1; see `flow_matching`."""

    config: AdaptationConfig
    watched = "loss"

    def __init__(self, config: AdaptationConfig, where: Placement, negative_text: np.ndarray):
        super().__init__(config, where, negative_text)
        self.batches = config.updates * config.student.accumulate  # of an iteration
        self.together = at_a_time(config.updates, config.student.accumulate, where.devices[0])
        if config.updates > 1 and len(config.stream.buckets) > 1:
            raise ValueError("config.updates above 1 is for one size of picture: give one bucket, or one update an iteration")
        self._update = self.update_program(self.updates, "student")

    @property
    def optimizers(self) -> dict[str, OptimizerConfig]:
        return {"student": self.config.student}

    def adapt(self, learner: Learner, frozen: Frozen, batch: TrainBatch, when: When) -> tuple[Learner, Metrics]:
        config = self.config.flow_matching
        latents = batch.chunk_latents[:, 0]
        example = flow_matching.draw_example(self.key(when), latents, batch.portrait_latent, self.motion_latents, config)
        motion = example.motion
        if config.recycled:
            motion = self.recycled(learner, frozen, batch, motion, jax.random.fold_in(self.key(when), 3))
        if config.handed_over:
            motion = self.handed_over(frozen, batch, motion, jax.random.fold_in(self.key(when), 1))
        if config.disturbed:
            motion = flow_matching.disturb(jax.random.fold_in(self.key(when), 2), motion, config)
        example = example._replace(motion=motion, noisy=with_motion(example.noisy, motion))
        text, windows = flow_matching.drop_conditions(batch.text, frozen.negative_text, batch.audio[:, :, 0], example.dropped)
        given = given_of(batch, 0)._replace(text=text, windows=windows)

        def loss(weights: Weights):
            weights = self.weights(weights, frozen)
            guidance: jax.Array | float = 0.0
            velocity = self.conditional.velocity(weights, given)(example.noisy, example.timestep)
            if config.audio_guidance != 1.0:
                unheard = given._replace(windows=jnp.zeros_like(windows))
                silent = self.conditional.velocity(weights, unheard)(example.noisy, example.timestep)
                guidance = flow_matching.speech_guidance(velocity, silent, config.audio_guidance, example.dropped.audio)
            total = flow_matching.flow_matching_loss(
                velocity, latents, example.noise, example.motion, example.weight, config.temporal_weight, config.movement_weight,
                config.lasting_weight, guidance,
            )  # fmt: skip
            if not config.picture_weight:
                return total, {}
            sigma = flow_matching.per_row(example.timestep) / NUM_TIMESTEPS
            x0 = with_motion(predict_x0(example.noisy, velocity, sigma), motion)
            seen, asked = (self.new_pictures(frozen, x) for x in (x0, latents - sigma * guidance))
            pictures = flow_matching.picture_loss(seen, asked, config.movement_weight)
            return total + config.picture_weight * pictures, {"pictures": pictures}

        return self.update(learner, "student", loss)

    def updates(self, learner: Learner, frozen: Frozen, batches: Sequence[TrainBatch], first: When) -> tuple[Learner, Metrics]:
        """`adapt` on each of the batches, whose numbers count on from `first`."""
        numbers = first.batch + jnp.arange(len(batches), dtype=jnp.uint32)
        when = When(jnp.full_like(numbers, first.step), numbers)
        return in_turn(lambda learner, batch, when: self.adapt(learner, frozen, batch, when), learner, batches, when)

    def recycled(self, learner: Learner, frozen: Frozen, batch: TrainBatch, motion: Motion, key: jax.Array) -> Motion:
        """The motion with what the network, as it is, gets wrong in the last frames of the same clips, going on from its own errors.

        How many chunks' errors have come together is drawn for all rows alike.
        """
        config, latents = self.config.flow_matching, batch.chunk_latents[:, 0]
        whether, how_often, drawn = jax.random.split(key, 3)
        hit = jax.random.bernoulli(whether, config.recycled, latents.shape[:1])
        velocity = self.conditional.velocity(self.weights(learner.weights, frozen), given_of(batch, 0))

        def again(number: jax.Array, dirty: jax.Array) -> jax.Array:
            time, noise = jax.random.split(jax.random.fold_in(drawn, number))
            timestep = flow_matching.draw_timesteps(time, len(hit), config.timestep_shift, config.timestep_steps)
            sigma = flow_matching.per_row(timestep) / NUM_TIMESTEPS
            noisy = with_motion(add_noise(latents, jax.random.normal(noise, latents.shape), sigma), Motion(dirty, motion.known))
            x0 = predict_x0(noisy, velocity(noisy, timestep), sigma)
            return flow_matching.recycle(hit, motion, x0, latents).latents

        times = jax.random.randint(how_often, (), 1, config.recyclings + 1)
        return Motion(jax.lax.fori_loop(0, times, again, motion.latents), motion.known)

    def new_pictures(self, frozen: Frozen, latents: jax.Array) -> jax.Array:
        """What is seen of latents behind the motion frames: float32 [B, F', Y, X, 3]."""
        video = self.runner.frames(frozen.vae, latents.astype(self.config.runtime.dtype))
        return video[:, self.config.stream.motion_frames :].astype(jnp.float32)

    def handed_over(self, frozen: Frozen, batch: TrainBatch, motion: Motion, key: jax.Array) -> Motion:
        """The motion as a stream has it after some chunks, how many is drawn for all rows alike; a stream's first stays as it is."""
        config, stream = self.config.flow_matching, self.config.stream
        whether, how_often = jax.random.split(key)
        times = jax.random.randint(how_often, (), 1, config.handovers + 1)

        def again(_, latents: jax.Array) -> jax.Array:
            now = Motion(latents, motion.known)
            return self.runner.next_motion(
                frozen.vae, latents, batch.color, now, motion_frames=stream.motion_frames, color_strength=stream.color_strength
            ).latents

        times = jnp.where(jax.random.bernoulli(whether, config.handed_over), times, 0)
        latents = jax.lax.fori_loop(0, times, again, motion.latents.astype(self.config.runtime.dtype))
        warm = flow_matching.per_row(motion.known == self.motion_latents)
        return Motion(jnp.where(warm, latents.astype(motion.latents.dtype), motion.latents), motion.known)

    def step(self, state: State, frozen: Frozen, step: int, feed: Iterator[TrainBatch]) -> tuple[State, Metrics, Work]:
        learner, metrics, work = state["student"], [], Work(0, 0.0)
        matching = self.config.flow_matching
        recyclings = (1 + matching.recyclings) / 2 if matching.recycled else 0  # as they are drawn, in the mean
        predictions = TRAINED + recyclings + (matching.audio_guidance != 1.0)
        for first in range(0, self.batches, self.together):
            batches = tuple(next(feed) for _ in range(self.together))
            learner, one = self._update(learner, frozen, batches, When(np.uint32(step), np.uint32(first)))
            metrics.append(one)
            for batch in batches:
                work = self.worked(work, batch, predictions)
        return {"student": learner}, _mean(metrics), work

    def programs(self, state: State, frozen: Frozen, batch: TrainBatch) -> dict[str, Program]:
        return {"update": Program(self._update, (state["student"], frozen, (batch,) * self.together, NOW), "student")}


class Distillation(Stage):
    """Stage 2; see `distillation` and `rollout`."""

    config: DistillationConfig
    watched = "student/loss"
    needs_base = True

    def __init__(self, config: DistillationConfig, where: Placement, negative_text: np.ndarray):
        super().__init__(config, where, negative_text)
        matching = config.distribution_matching
        self.real = self.runner.guided(matching.text_guidance, matching.audio_guidance)
        # As for samples, a second chunk compiles nothing.
        self._begin, self._advance, self._enter = (
            self.program(fn, out_shardings=where.rows) for fn in (self.begin, self.advance, self.enter)
        )
        self._updates = {
            "student": self.update_program(self.match_distribution, "student"),
            "fake_score": self.update_program(self.follow_student, "fake_score"),
        }

    @property
    def optimizers(self) -> dict[str, OptimizerConfig]:
        return {"student": self.config.student, "fake_score": self.config.fake_score}

    def keys(self, when: When) -> tuple[jax.Array, ...]:
        """Of the first motion, the rollout's noise, and the scores."""
        return tuple(jax.random.split(self.key(when), 3))

    def begin(self, batch: TrainBatch, when: When) -> Motion:
        """What the rollout's first chunk goes on from."""
        return distillation.first_motion(
            self.keys(when)[0], batch.chunk_latents[:, 0], batch.portrait_latent, self.motion_latents,
            self.config.distribution_matching,
        )  # fmt: skip

    def inputs(self, student: Weights, frozen: Frozen, batch: TrainBatch, turn: Turn) -> tuple[Weights, rollout.Given, jax.Array]:
        """Weights, conditions and noise of a chunk of the rollout, which carries no gradient."""
        noise = draw_noise(self.keys(turn.when)[1], turn.chunk, (self.config.sampler.steps, *batch.reference_latents.shape))
        return self.weights(jax.lax.stop_gradient(student), frozen), given_of(batch, turn.chunk), noise

    def advance(self, student: Weights, frozen: Frozen, batch: TrainBatch, turn: Turn, motion: Motion) -> Motion:
        """A whole chunk of the rollout, up to the motion of the next."""
        latents = self.conditional.latents(*self.inputs(student, frozen, batch, turn), motion, turn.exit_step)
        return self.runner.next_motion(
            frozen.vae, latents.astype(self.config.runtime.dtype), batch.color, motion,
            motion_frames=self.config.stream.motion_frames, color_strength=self.config.distribution_matching.handover_color,
        )  # fmt: skip

    def enter(self, student: Weights, frozen: Frozen, batch: TrainBatch, turn: Turn, motion: Motion) -> jax.Array:
        """x of the rollout's last chunk, as the retained step finds it."""
        return self.conditional.enter(*self.inputs(student, frozen, batch, turn), motion, turn.exit_step)

    def leave(self, student: Weights, frozen: Frozen, batch: TrainBatch, turn: Turn, x: jax.Array) -> jax.Array:
        """x0 of the rollout's last chunk, as the retained step predicts it."""
        return self.conditional.leave(self.weights(student, frozen), given_of(batch, turn.chunk), x, turn.exit_step)

    def fake_velocity(self, fake: Weights, frozen: Frozen, batch: TrainBatch, turn: Turn) -> distillation.Velocity:
        return self.conditional.velocity(self.weights(fake, frozen), given_of(batch, turn.chunk))

    def real_velocity(self, frozen: Frozen, batch: TrainBatch, turn: Turn) -> distillation.Velocity:
        return self.real.velocity(frozen.base, given_of(batch, turn.chunk, frozen.negative_text))

    def student_loss(
        self, student: Weights, fake: Weights, frozen: Frozen, batch: TrainBatch, turn: Turn, motion: Motion, x: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """Distribution matching of what the retained step makes of x; all that led to x comes in as numbers."""
        known = jnp.full_like(motion.known, self.motion_latents)
        true_motion = Motion(batch.chunk_latents[:, turn.chunk, : self.motion_latents], known)
        return distillation.student_loss(
            self.leave(student, frozen, batch, turn, x), motion, true_motion,
            self.real_velocity(frozen, batch, turn), self.fake_velocity(fake, frozen, batch, turn),
            self.keys(turn.when)[2], self.config.distribution_matching,
        )  # fmt: skip

    def match_distribution(self, learner: Learner, *args) -> tuple[Learner, Metrics]:
        """The student's update; arguments as of `student_loss`."""
        return self.update(learner, "student", lambda student: self.student_loss(student, *args))

    def follow_student(
        self, learner: Learner, student: Weights, frozen: Frozen, batch: TrainBatch, turn: Turn, motion: Motion, x: jax.Array
    ) -> tuple[Learner, Metrics]:
        """The fake score's update, on what the student now makes."""
        x0 = self.leave(student, frozen, batch, turn, x)

        def loss(fake: Weights):
            velocity = self.fake_velocity(fake, frozen, batch, turn)
            key = self.keys(turn.when)[2]
            return distillation.fake_score_loss(x0, motion, velocity, key, self.config.distribution_matching), {}

        return self.update(learner, "fake_score", loss)

    def roll_out(
        self, student: Weights, frozen: Frozen, batch: TrainBatch, when: When, drawn: rollout.Draw
    ) -> tuple[Turn, Motion, jax.Array]:
        """The last chunk's turn, its motion, and x as its retained step finds it."""
        motion = self._begin(batch, when)
        exits = rollout.chunk_exits(self.config.distribution_matching, drawn, self.config.sampler.steps)
        for chunk, exit_step in enumerate(exits):
            motion = self._advance(student, frozen, batch, Turn(when, np.uint32(chunk), np.int32(exit_step)), motion)
        last = Turn(when, np.uint32(drawn.chunks - 1), np.int32(drawn.exit))
        return last, motion, self._enter(student, frozen, batch, last, motion)

    def programs(self, state: State, frozen: Frozen, batch: TrainBatch) -> dict[str, Program]:
        student, fake, rows = state["student"], state["fake_score"], self.placement.rows
        motion = self.placement.place(jax.eval_shape(self.begin, batch, NOW), rows)
        x = jax.ShapeDtypeStruct(batch.reference_latents.shape, jnp.float32, sharding=rows)
        chunk = (frozen, batch, Turn(NOW, np.uint32(0), np.int32(self.config.sampler.steps - 1)), motion)
        handed_on = {"chunk handed on": Program(self._advance, (student.weights, *chunk))} if self.config.data.chunks > 1 else {}
        return handed_on | {
            "last chunk": Program(self._enter, (student.weights, *chunk)),
            "student's update": Program(self._updates["student"], (student, fake.weights, *chunk, x), "student"),
            "fake score's update": Program(self._updates["fake_score"], (fake, student.weights, *chunk, x), "fake_score"),
        }

    def predictions(self, name: str, drawn: rollout.Draw) -> int:
        """How many predictions of a velocity an update is worth."""
        matching, steps = self.config.distribution_matching, self.config.sampler.steps
        rolled = sum(exit_step + 1 for exit_step in rollout.chunk_exits(matching, drawn, steps)) + drawn.exit
        if name == "fake_score":
            return rolled + 1 + TRAINED
        scales = (matching.text_guidance, matching.audio_guidance)
        real = 1 if scales == (1.0, 1.0) else 2 if scales[0] in (1.0, scales[1]) else 3
        return rolled + TRAINED + 1 + real

    def step(self, state: State, frozen: Frozen, step: int, feed: Iterator[TrainBatch]) -> tuple[State, Metrics, Work]:
        config, state = self.config, dict(state)
        matching = config.distribution_matching
        metrics: dict[str, list[Metrics]] = {name: [] for name in state}
        work = Work(0, 0.0)
        turns = [name for name in distillation.updates(step, matching) for _ in range(self.optimizers[name].accumulate)]
        for number, name in enumerate(turns):
            drawn = rollout.draw(matching, config.data.chunks, config.sampler.steps, (config.loop.seed, step, number))
            batch, student = next(feed), state["student"].weights
            turn, motion, x = self.roll_out(student, frozen, batch, When(np.uint32(step), np.uint32(number)), drawn)
            other = state["fake_score"].weights if name == "student" else student
            state[name], one = self._updates[name](state[name], other, frozen, batch, turn, motion, x)
            metrics[name].append(one)
            work = self.worked(work, batch, self.predictions(name, drawn))
        means = {name: _mean(parts) for name, parts in metrics.items() if parts}
        return state, {f"{name}/{key}": value for name, values in means.items() for key, value in values.items()}, work


def make_stage(config: AdaptationConfig | DistillationConfig, where: Placement, negative_text: np.ndarray) -> Stage:
    """The stage that a configuration is of; arguments as of `Stage`."""
    kind = Adaptation if isinstance(config, AdaptationConfig) else Distillation
    return kind(config, where, negative_text)  # type: ignore[arg-type]


def _mean(metrics: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *x: sum(x) / len(x), *metrics)
