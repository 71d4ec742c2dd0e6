"""What the published PyTorch code computed, against ours: every file of a folder of golden cases.

`LIVETALK_GOLDEN` names the folder (default: tests/golden). All sizes come from each file's metadata, so that cases of other
sizes run through the same test. Published arrays are channels-first; tests turn them.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open

from livetalk_jax import media
from livetalk_jax.config import CLIPVisionConfig, DiTConfig, SamplerConfig, UMT5Config, VAEConfig, Wav2Vec2Config
from livetalk_jax.conversion import clip_vision, dit, umt5, vae, wav2vec2
from livetalk_jax.conversion.engine import load
from livetalk_jax.diffusion.schedule import timesteps
from livetalk_jax.models.clip_vision import CLIPVision
from livetalk_jax.models.dit import DiT, token_grid
from livetalk_jax.models.umt5 import UMT5Encoder
from livetalk_jax.models.vae import VAE
from livetalk_jax.models.wav2vec2 import Wav2Vec2, normalize_waveform
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.nn.stack import LOOP, Execution
from livetalk_jax.shapes import PATCH, Geometry
from livetalk_jax.stream.audio import normalize_loudness, windows
from livetalk_jax.stream.chunk import generate_chunk
from livetalk_jax.stream.color import lab_statistics, match_colors
from livetalk_jax.stream.conditioning import Conditions, first_motion, mark_reference, reference_video

FOLDER = Path(os.environ.get("LIVETALK_GOLDEN", Path(__file__).parent / "golden"))
TOLERANCE = 1e-4
STREAM_TOLERANCE = 1e-3


class Case:
    """One file: metadata's config, and the arrays of its three groups."""

    def __init__(self, name: str):
        with safe_open(FOLDER / f"{name}.safetensors", "np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.config = json.loads(file.metadata()["config"])
        self.weights, self.inputs, self.outputs = (
            {key.removeprefix(group): value for key, value in tensors.items() if key.startswith(group)}
            for group in ("weights/", "in/", "out/")
        )


def last(x: np.ndarray, axis: int) -> jax.Array:
    """Channels of a published array to the end."""
    return jnp.asarray(np.moveaxis(x, axis, -1))


def check(label: str, ours, published: np.ndarray, tolerance: float = TOLERANCE) -> None:
    ours, published = np.asarray(ours, np.float64), np.asarray(published, np.float64)
    assert ours.shape == published.shape, f"{label}: {ours.shape} instead of {published.shape}"
    error = np.linalg.norm(ours - published) / np.linalg.norm(published)
    print(f"  {label}: relative error {error:.2e}")
    assert error < tolerance, label


def make_dit(config: dict, weights: dict) -> DiT:
    sizes = DiTConfig(**config, in_channels=36, out_channels=16, audio_window=5, eps=1e-6)
    network = nnx.eval_shape(lambda: DiT(sizes, rngs=nnx.Rngs(0)))
    load(network, weights, dit.TABLE)
    return network


def make_vae(config: dict, weights: dict) -> VAE:
    network = nnx.eval_shape(lambda: VAE(VAEConfig.wan21(**config), rngs=nnx.Rngs(0)))
    load(network, weights, vae.TABLE)
    return network


def velocity(network: DiT, case: Case, execution: Execution = LOOP) -> np.ndarray:
    latents, condition = last(case.inputs["latents"], 0)[None], last(case.inputs["y"], 0)[None]
    masks = case.inputs.get("ref_target_masks")
    if masks is not None:
        masks = jnp.asarray(masks[:, :: PATCH[1], :: PATCH[2]] > 0, jnp.float32).reshape(len(masks), -1)

    @jax.jit
    def predict(network, text, clip, audio):
        return network(
            latents,
            condition,
            jnp.asarray(case.inputs["timestep"]),
            rope=rotary_3d(token_grid(latents), network.config.head_dim),
            context=network.context(text, clip),
            audio=network.audio(audio),
            masks=masks,
            execution=execution,
        )

    return np.moveaxis(
        np.asarray(predict(network, case.inputs["text"][None], case.inputs["clip"], case.inputs["audio"][None])[0]), -1, 0
    )


def dit_one_person(case: Case) -> None:
    network = make_dit(case.config, case.weights)
    check("velocity", velocity(network, case), case.outputs["velocity"])
    scanned = velocity(network, case, Execution(scan=True, remat="full"))
    check("velocity, blocks scanned and rematerialised", scanned, case.outputs["velocity"])


def dit_two_person(case: Case) -> None:
    network = make_dit(case.config, Case("dit_one_person").weights)
    check("velocity", velocity(network, case), case.outputs["velocity"])


def vae_case(case: Case) -> None:
    network = make_vae(case.config, case.weights)
    latents = jax.jit(lambda n, x: n.encode(x))(network, last(case.inputs["video"], 1))
    check("latents", np.moveaxis(latents, -1, 1), case.outputs["latents"])
    video = jax.jit(lambda n, x: n.decode(x))(network, last(case.inputs["latents"], 1))
    check("video", np.moveaxis(video, -1, 1), case.outputs["video"])


def clip_case(case: Case) -> None:
    sizes = CLIPVisionConfig(**case.config, patch_size=case.weights["visual.patch_embedding.weight"].shape[-1], eps=1e-5)
    network = nnx.eval_shape(lambda: CLIPVision(sizes, rngs=nnx.Rngs(0)))
    load(network, case.weights, clip_vision.table(sizes))
    check("features", network(last(case.inputs["image"], 1)[:, 0]), case.outputs["features"])


def umt5_case(case: Case) -> None:
    network = nnx.eval_shape(lambda: UMT5Encoder(UMT5Config(**case.config), rngs=nnx.Rngs(0)))
    load(network, case.weights, umt5.TABLE)
    mask = case.inputs["mask"].astype(np.int32)
    hidden = network(jnp.asarray(case.inputs["ids"].astype(np.int32)), jnp.asarray(mask))
    valid = mask[..., None].astype(bool)  # what stands on padding is cut off by the caller
    check("hidden", np.where(valid, hidden, 0), np.where(valid, case.outputs["hidden"], 0))


def wav2vec2_case(case: Case) -> None:
    config = case.config
    assert config["feat_extract_norm"] == "group"
    sizes = Wav2Vec2Config(
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        intermediate_size=config["intermediate_size"],
        conv_dim=config["conv_dim"],
        pos_conv_kernel=config["num_conv_pos_embeddings"],
        pos_conv_groups=config["num_conv_pos_embedding_groups"],
        eps=1e-5,
    )
    network = nnx.eval_shape(lambda: Wav2Vec2(sizes, rngs=nnx.Rngs(0)))
    load(network, case.weights, wav2vec2.table_for(case.weights))
    loud = normalize_loudness(case.inputs["waveform"], 16_000)
    check("loudness", loud, case.outputs["loudness_normalised"])
    values = normalize_waveform(loud)
    check("input values", values[None], case.outputs["input_values"])
    frames = case.outputs["hidden_states"].shape[0]
    hidden = network(jnp.asarray(values)[None].astype(jnp.float32), frames)[0]
    check("hidden states", hidden, case.outputs["hidden_states"])
    check("windows", windows(hidden, 0, frames)[None], case.outputs["windows"])


def color_case(case: Case) -> None:
    video, statistics = last(case.inputs["video"], 1), lab_statistics(last(case.inputs["reference"], 1))
    for strength, name in ((1.0, "full"), (0.5, "half")):
        check(name, np.moveaxis(match_colors(video, statistics, strength), -1, 1), case.outputs[name])


def timesteps_case(case: Case) -> None:
    for name, published in case.outputs.items():
        check(name, timesteps(int(name.removeprefix("steps_")), case.config["shift"]), published)


def image_case(case: Case) -> None:
    pixels = media.prepare_portrait(case.inputs["image"], *case.config["target"])
    check("pixels", np.moveaxis(pixels, -1, 0)[None, :, None], case.outputs["pixels"])


def stream_case(case: Case) -> None:
    config = case.config
    network = make_dit(config["dit"], Case("dit_one_person").weights)
    coder = make_vae(config["vae"], Case("vae").weights)
    geometry = Geometry(*config["target"], config["frame_num"], config["motion_frames"])
    portrait = jnp.asarray(media.prepare_portrait(case.inputs["image"], *config["target"]))[None, None]
    reference = jax.jit(lambda n, x: mark_reference(n.encode(reference_video(x, geometry.frames, "first"))))(coder, portrait)
    check("condition", np.moveaxis(reference, -1, 1), case.outputs["y"])
    motion = jax.jit(lambda n, x: first_motion(n, x, geometry))(coder, portrait)
    check("first motion", np.moveaxis(motion.latents[0, :1], -1, 0), case.outputs["motion_latents_0"])
    conditions = Conditions(
        reference=reference,
        context=network.context(jnp.asarray(case.inputs["text"])[None], jnp.asarray(case.inputs["clip"])),
        negative=None,
        color=lab_statistics(portrait),
        rope=rotary_3d(geometry.token_grid, network.config.head_dim),
        masks=None,
    )
    sampler = SamplerConfig(
        method="renoise", steps=config["steps"], shift=config["shift"], text_guidance=1.0, audio_guidance=1.0, apg=False,
        apg_momentum=0.0, apg_norm_threshold=0.0, prompt="", negative_prompt="",
    )  # fmt: skip

    @jax.jit
    def chunk(network, coder, audio, noise, motion):
        return generate_chunk(
            network, coder, conditions, audio, noise, motion,
            sampler=sampler, motion_frames=config["motion_frames"], color_strength=config["color_correction_strength"],
        )  # fmt: skip

    number = 1
    while f"noise_{number}" in case.inputs:
        # Published noise has one draw more, which the last step multiplies by zero.
        noise = last(case.inputs[f"noise_{number}"], 1)[: config["steps"], None]
        frames, motion = chunk(network, coder, jnp.asarray(case.inputs[f"audio_{number}"])[None], noise, motion)
        check(f"frames {number}", np.moveaxis(frames[0], -1, 0), case.outputs[f"frames_{number}"], STREAM_TOLERANCE)
        if f"motion_latents_{number}" in case.outputs:
            check(
                f"motion {number}",
                np.moveaxis(motion.latents[0], -1, 0),
                case.outputs[f"motion_latents_{number}"],
                STREAM_TOLERANCE,
            )
        number += 1
    assert number > 2, "the case holds fewer than two chunks"
    assert chunk._cache_size() == 1, "the second chunk was compiled anew"


CASES = {
    "clip_vision": clip_case,
    "color_correction": color_case,
    "dit_one_person": dit_one_person,
    "dit_two_person": dit_two_person,
    "image_preparation": image_case,
    "stream_two_chunks": stream_case,
    "timesteps": timesteps_case,
    "umt5_encoder": umt5_case,
    "vae": vae_case,
    "wav2vec2": wav2vec2_case,
}
FILES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def test_folder_has_cases():
    assert FILES, f"no golden cases in {FOLDER}"


@pytest.mark.parametrize("name", FILES)
def test_golden(name: str, capsys):
    with jax.default_matmul_precision("highest"), capsys.disabled():
        print(f"\n{name}")
        CASES[name](Case(name))
