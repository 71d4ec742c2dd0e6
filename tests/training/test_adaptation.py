"""Stage 1's motion latents, handed over as a stream does it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from livetalk_jax.diffusion.sampler import Motion
from livetalk_jax.stream.chunk import hand_over
from livetalk_jax.training.stages import Adaptation
from tests.training.conftest import one_device


def test_motion_is_handed_over_up_to_so_often(stage1):
    config, frozen, batch = stage1.stage.config, stage1.frozen, stage1.batch
    settings = dataclasses.replace(config.flow_matching, handed_over=0.7, handovers=2)
    stage = Adaptation(dataclasses.replace(config, flow_matching=settings), one_device(), np.zeros((8, 16), np.float32))
    given = Motion(batch.chunk_latents[:, 0, : stage.motion_latents], jnp.asarray([stage.motion_latents, 1]))
    vae = stage.vae.build(frozen.vae)

    @jax.jit
    def once(motion):
        stream = config.stream
        _, carried = hand_over(
            vae, motion.latents, batch.color, motion, motion_frames=stream.motion_frames, color_strength=stream.color_strength
        )
        return Motion(carried.latents, motion.known)

    expected = [given, once(given), once(once(given))]
    handed_over = jax.jit(stage.handed_over)
    seen = set()
    for seed in range(12):
        motion = handed_over(frozen, batch, given, jax.random.key(seed))
        np.testing.assert_array_equal(motion.known, given.known)
        np.testing.assert_array_equal(motion.latents[1], given.latents[1], err_msg="a stream's first motion is the portrait")
        distances = [float(jnp.abs(motion.latents[0] - other.latents[0]).max()) for other in expected]
        assert min(distances) < 1e-4
        seen.add(int(np.argmin(distances)))
    assert seen == {0, 1, 2}
