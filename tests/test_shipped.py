"""The model in the box: what a clone makes of the shipped portrait and speech."""

import numpy as np
import pytest

from livetalk_jax import generate, media
from livetalk_jax.checkpoint import SHIPPED
from livetalk_jax.configs import few_steps_tiny, tiny
from livetalk_jax.diffusion.schedule import timesteps
from tests.sounds import RATE, write_wav

SECONDS, SIZE = 3.3, 128  # three chunks
CORNERS = (slice(0, 24), slice(0, 24)), (slice(0, 24), slice(104, 128))
CHEEKS, MOUTH = (slice(68, 80), slice(48, 78)), (slice(84, 100), slice(52, 76))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The portrait as the stream sees it, and the frames, as numbers from 0 to 255."""
    folder = tmp_path_factory.mktemp("shipped")
    speech = media.load_audio(media.SAMPLES / "speech.flac", RATE)[: round(SECONDS * RATE)]
    write_wav(folder / "speech.wav", speech)
    given = (f"--image={media.SAMPLES / 'portrait.png'}", f"--audio={folder / 'speech.wav'}", f"--out={folder / 'talk.mp4'}")
    generate.main(["livetalk generate", *given])
    portrait = media.prepare_portrait(media.load_image(media.SAMPLES / "portrait.png"), SIZE, SIZE)
    return (portrait.astype(np.float64) + 1) * 127.5, media.read_video(folder / "talk.mp4").frames.astype(np.float64)


def test_is_small_enough_to_ship():
    assert sum(file.stat().st_size for file in (SHIPPED / "tiny").rglob("*") if file.is_file()) <= 16 * 2**20


def test_it_samples_where_it_was_trained():
    learnt, sampler = few_steps_tiny.get_config().flow_matching, tiny.get_config().sampler
    trained = timesteps(learnt.timestep_steps, learnt.timestep_shift)
    assert np.isin(timesteps(sampler.steps, sampler.shift), trained).all() and len(trained) == 5


def test_colours_stay_those_of_the_portrait(shown):
    """In every frame: a VAE that was trained on short clips had other colours late in each chunk."""
    portrait, frames = shown
    for place in (*CORNERS, CHEEKS):
        means = frames[:, *place].mean((1, 2))
        assert np.abs(means - portrait[place].mean((0, 1))).max() < 20


def test_the_mouth_moves_and_the_wall_does_not(shown):
    _, frames = shown
    moving, still = (np.median(frames[:, *place].std(0)) for place in (MOUTH, CORNERS[0]))
    assert moving > 2 * still
