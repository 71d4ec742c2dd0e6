"""Features without networks."""

import numpy as np


class Encoders:
    """Stands in for `features.Encoders`: features of the right shapes' fewest numbers, made of what the networks would be given."""

    def __init__(self, networks, stream, dtype, audio_window, tokenize):
        self._stream, self._tokenize = stream, tokenize

    def caption(self, caption):
        ids, mask = self._tokenize([caption])
        return ids[0][mask[0] != 0].astype(np.float16)[:, None]

    def __call__(self, media, caption):
        motion, new = self._stream.motion_frames, self._stream.frames - self._stream.motion_frames
        grey = media.frames.mean((1, 2, 3), dtype=np.float32)
        chunks = [grey[begin : begin + new + motion] for begin in range(0, len(grey) - motion, new)]
        return {
            "chunk_latents": np.stack(chunks)[:, :, None, None, None].astype(np.float16),
            "reference_latents": media.reference.mean(dtype=np.float32)[None, None, None, None].astype(np.float16),
            "clip": media.reference.mean(1, dtype=np.float32).astype(np.float16),
            "text": self.caption(caption),
            "audio": np.abs(media.speech).mean(1)[:, None, None, None].astype(np.float16),
            "color_mean": media.reference.mean((0, 1), dtype=np.float32)[None, None, None],
            "color_deviation": media.reference.std((0, 1), dtype=np.float32)[None, None, None],
        }
