"""Frozen configurations of training: both stages, and the networks that are trained alone before them.

What the papers leave open is a named choice here; docs/training.md tells the reasons. `TrainConfig.from_config_dict` and
`training_config` turn a `configs/*.py` file into these once, at the edge; unknown keys are errors.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import ConfigDict

from livetalk_jax.config import ModelConfig, RunConfig, RuntimeConfig, SamplerConfig, StreamConfig, read_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a step is fed.

    `source`: "cache" reads what `livetalk data prepare` wrote to `path`; "drawn" reads the procedural set, folders separated by
    commas: what `livetalk data procedural --chunks` wrote where pictures and speech are wanted, and what `livetalk data encode`
    made of it where features are; "synthetic" makes random numbers up. `batch` is the rows of all processes together. `chunks` (K)
    is how many consecutive chunks a clip has: 1 in stage 1, the longest rollout in stage 2. `workers` processes read a cache; with 0
    threads of this one do.
    """

    source: Literal["cache", "drawn", "synthetic"]
    path: str
    batch: int
    chunks: int
    workers: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW of one network.

    `learning_rate` is reached after `warmup_steps` updates and then constant, or with `decay_steps` falls from the first to the last
    of so many updates to 0, as half a wave of the cosine does. With `b1` = 0 no first moment is kept. `clip_norm` is of the
    whole gradient. `accumulate` batches make one update. `ema_decay` 0 keeps no average of the weights; where there is one, it is
    what samples and exports use.
    """

    learning_rate: float
    warmup_steps: int
    decay_steps: int
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip_norm: float
    accumulate: int
    ema_decay: float

    def __post_init__(self):
        if self.decay_steps < 0:
            raise ValueError(f"decay_steps is {self.decay_steps}: give 0 (no decay) or a number of updates")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank changes of matrices instead of all weights, arXiv 2106.09685: W + alpha / rank · A·B.

    `rank` 0 trains all weights. `pattern` is a regular expression found in the dotted paths of the matrices that are changed.
    """

    rank: int
    alpha: float
    pattern: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How training is spread and computed.

    `sequence` (Ulysses × ring) and `grid` (rows × columns of every frame) are the devices of one video, as in `ParallelConfig`;
    "1x1" is one device a video. `fsdp`: how many such groups share out one copy of the weights, 0 for all; what is left over are
    further copies. Each group has rows of its own. `scan`, `remat`: of the transformer's blocks, see `nn.stack.Execution`.
    """

    fsdp: int
    sequence: str
    grid: str
    scan: bool
    remat: Literal["none", "full", "save_dots"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a run is and what it leaves in its folder.

    `steps` in all, or as many as are begun within `minutes` of this process (0: no limit), one at least. Every `log_every` steps a
    line and scalars; every `save_every`, and at the end, a checkpoint, of which the last `keep_last` and the `keep_best` of lowest
    mean loss since the one before are kept; every `sample_every` a video of `sample_chunks` chunks (0: none).
    """

    steps: int
    minutes: float
    seed: int
    log_every: int
    save_every: int
    keep_last: int
    keep_best: int
    sample_every: int
    sample_chunks: int


def shares(config: Any, *names: str) -> None:
    """Raises ValueError, naming all that are not, unless these are between 0 and 1."""
    wrong = [f"{name} is {getattr(config, name)}" for name in names if not 0.0 <= getattr(config, name) <= 1.0]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: give shares between 0 and 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatchingConfig:
    """Stage 1: latency-aware spatiotemporal adaptation.

    Known: flow matching of the velocity ε − x0 with clean motion latents, aspect buckets, full fine-tune. Open, and chosen here:

    - `timestep_shift`: u uniform in (0, 1), t = 1000·shift(u); one t for all frames of a clip.
    - `timestep_steps`: train only at the timesteps of so many steps of sampling, for a network that is to take those; 0 at all.
    - `weighting`: "uniform", or "bell" as in Self-Forcing's scheduler: exp(−2((t − 500) / 1000)²) less its least, with mean 1.
    - `drop_text`, `drop_audio`: how often the caption becomes the negative prompt and the speech zeros; the reference never drops.
    - `audio_guidance`: below 2; what the network learns is moved away from what it says without speech (`speech_guidance`), as
      guidance in sampling would at the price of a second prediction. 1 leaves it out.
    - `cold_start`: how often only one motion latent is known, as in a stream's first chunk; `cold_start_latent`: that of the clip's
      "first_frame" (as SoulX-FlashHead trains) or of the "portrait" (what a stream is given).
    - `temporal_weight`: of the squared error of the velocity's differences from frame to frame. The published figure names a
      "temporal loss" and a "face loss" and defines neither; 0 leaves it out.
    - `movement_weight`: share of the loss that places get by how much the clip's latents change there, in place of a face loss: in a
      talking head that is the mouth before all. 0 weighs all places alike.
    - `picture_weight`: of the error of decoded frames, all but a clip's motion frames, against those of the clip's latents
      (`picture_loss`), by the same shares. Latents are not alike in what is seen of them. Two decodings; 0 leaves it out.
    - `handed_over`: how often a step's motion latents have gone through the handover between chunks, decoded, colour-matched and
      encoded again, once to `handovers` times: what a stream is given, where the VAE loses something each time. 0 leaves it out.
    - `lasting_weight`: of the squared error of the velocity's mean over a clip's frames: of what stays, such as whose face it is,
      which the errors of what moves drown otherwise. 0 leaves it out.
    - `recycled`: how often a clip's motion latents get the error that the network now makes in the clip's last frames, which a stream
      would go on from, of one to `recyclings` chunks that followed each other; the clip itself goes on without it. A prediction
      without a gradient each. 0 leaves it out.
    - `disturbed`: how often a clip's motion latents get patches of wrong colour and texture, of a deviation up to `disturbance`: the
      clip goes on without them, so that a stream which has caught one finds back to its portrait. 0 leaves it out.
    """

    timestep_shift: float
    timestep_steps: int
    weighting: Literal["uniform", "bell"]
    drop_text: float
    drop_audio: float
    audio_guidance: float
    cold_start: float
    cold_start_latent: Literal["first_frame", "portrait"]
    temporal_weight: float
    movement_weight: float
    picture_weight: float
    handed_over: float
    handovers: int
    lasting_weight: float
    recycled: float
    recyclings: int
    disturbed: float
    disturbance: float

    def __post_init__(self):
        shares(self, "drop_text", "drop_audio", "cold_start", "movement_weight", "handed_over", "recycled", "disturbed")
        if wrong := [f"{name} is {getattr(self, name)}" for name in ("handovers", "recyclings") if getattr(self, name) < 1]:
            raise ValueError(f"{', '.join(wrong)}: give 1 or more")
        if not 1.0 <= self.audio_guidance < 2.0:
            raise ValueError(f"audio_guidance is {self.audio_guidance}: give 1 (none) or more, below 2")
        if self.audio_guidance != 1.0 and not self.drop_audio:
            raise ValueError(
                f"audio_guidance is {self.audio_guidance} where drop_audio is 0: nobody would learn what silence looks like"
            )
        if self.timestep_steps < 0:
            raise ValueError(f"timestep_steps is {self.timestep_steps}: give 0 (all timesteps) or a number of steps")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributionMatchingConfig:
    """Stage 2: self-correcting bidirectional distillation.

    Known: student, frozen real score and trained fake score from stage 1; up to K chunks on the student's own motion frames; one
    denoising step of the last chunk keeps its gradient; 1:5 updates; the table of motion latents in the scores. Open, and chosen here:

    - `schedule`: "self_forcing", every iteration one update of the fake score and before it one of the student in every
      `fake_updates`-th iteration (the reading that the reported cost fits); "lightx2v", every iteration one update of the student
      and `fake_updates` of the fake score.
    - `rollout`: k "random", uniform in 1 … K, or "fixed" at K. `early_exit`: only the "last_chunk" leaves at the drawn step and
      those before it run all steps, or "all_chunks" leave there, as in Self-Forcing.
    - `cold_start`: how often a rollout begins with the portrait's latent alone. `handover_color`: strength of the colour match
      between chunks.
    - `text_guidance`, `audio_guidance` of the real score: 5 and 4 are the teacher's; two equal scales are guidance away from a
      single negative (4 and 4 as in Self-Forcing), at one prediction less.
    - `score_shift`, `timestep_min`, `timestep_max`: of the timesteps at which scores are compared.
    - `motion_latents`: whether the real score sees the student's own "predicted" motion latents (published as best) or "ground_truth".
    - `motion_noise`: "same_t" noises them like the rest of the chunk, "none" leaves them clean, "small_sigma" noises by `small_sigma`.
    - `motion_in_loss`: whether the motion latents are compared too.
    """

    schedule: Literal["self_forcing", "lightx2v"]
    fake_updates: int
    rollout: Literal["random", "fixed"]
    early_exit: Literal["last_chunk", "all_chunks"]
    cold_start: float
    handover_color: float
    text_guidance: float
    audio_guidance: float
    score_shift: float
    timestep_min: float
    timestep_max: float
    motion_latents: Literal["predicted", "ground_truth"]
    motion_noise: Literal["same_t", "none", "small_sigma"]
    small_sigma: float
    motion_in_loss: bool

    def __post_init__(self):
        shares(self, "cold_start", "handover_color", "small_sigma")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What both stages are told. `checkpoint` is the folder whose networks training starts from; "" starts from random weights.

    `runtime.dtype` is what is computed in; trained weights are kept in float32.
    """

    stage: str
    checkpoint: str
    model: ModelConfig
    stream: StreamConfig
    sampler: SamplerConfig
    runtime: RuntimeConfig
    data: DataConfig
    execution: ExecutionConfig
    lora: LoRAConfig
    loop: LoopConfig
    student: OptimizerConfig

    @property
    def run(self) -> RunConfig:
        """How the student is run after training."""
        return RunConfig(model=self.model, stream=self.stream, sampler=self.sampler, runtime=self.runtime)

    @staticmethod
    def from_config_dict(config: ConfigDict) -> "AdaptationConfig | DistillationConfig":
        """Build the dataclasses of the stage that `config.stage` names.

        Raises:
            ValueError: unknown or missing keys, or a value of the wrong kind; all of them are named in one message.
        """
        return _of_stage(config, {"adaptation": AdaptationConfig, "distillation": DistillationConfig})


def _of_stage(config: ConfigDict, stages: Mapping[str, type]) -> Any:
    stage = config.get("stage")
    if stage not in stages:
        raise ValueError(f"config.stage must be one of {', '.join(stages)}, not {stage!r}; is this a configuration of training?")
    return read_config(stages[stage], config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationConfig(TrainConfig):
    """Stage 1. `updates`: of an iteration, as in `PartConfig`."""

    flow_matching: FlowMatchingConfig
    updates: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig(TrainConfig):
    """Stage 2."""

    distribution_matching: DistributionMatchingConfig
    fake_score: OptimizerConfig


# Networks that are trained alone, before both stages: where there are no published ones to begin with.


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencodingConfig:
    """The VAE's objective: absolute error, of pixels and of their differences, and a divergence that keeps latents smooth.

    `frames` of a clip, 4n+1, its beginning drawn at random. `mouth_weight`: how much more an error in the middle of the mouth counts,
    and 1 + `closed_weight` times that in frames in which the lips of an m, b or p touch: they are few, and last two frames each.
    `edge_weight`: of the error of differences between neighbouring pixels, at full, half and quarter size. `kl_weight`: of the
    divergence from a standard normal distribution, in nats a latent number. `decoder_alone`: the encoder of the checkpoint stays as
    it is, and so do its latents and what was trained on them.
    """

    frames: int
    mouth_weight: float
    closed_weight: float
    edge_weight: float
    kl_weight: float
    decoder_alone: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListeningConfig:
    """The speech encoder's objective: every layer, by a linear map of its own, tells the mouth of the window's last chunk.

    `spoilt`: share of recordings that are filtered and get noise, by up to `filter_db` and down to `noise_db` below the speech.
    """

    spoilt: float
    filter_db: float
    noise_db: float

    def __post_init__(self):
        shares(self, "spoilt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartConfig:
    """What training of one network is told; names as in `TrainConfig`.

    `updates` are done in an iteration, on a GPU by one program: one of a small network takes less time than a host needs to ask for it.
    """

    stage: str
    checkpoint: str
    model: ModelConfig
    stream: StreamConfig
    runtime: RuntimeConfig
    data: DataConfig
    loop: LoopConfig
    optimizer: OptimizerConfig
    updates: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(PartConfig):
    """The VAE."""

    autoencoding: AutoencodingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechConfig(PartConfig):
    """The speech encoder."""

    listening: ListeningConfig


def training_config(config: ConfigDict) -> AdaptationConfig | DistillationConfig | PartConfig:
    """The dataclasses of the kind of training that `config.stage` names; errors as of `TrainConfig.from_config_dict`."""
    stages = {"adaptation": AdaptationConfig, "distillation": DistillationConfig}
    return _of_stage(config, {"autoencoder": AutoencoderConfig, "speech": SpeechConfig, **stages})
