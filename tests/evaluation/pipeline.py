"""Stands in for a model where videos are generated to be scored."""

import types

import numpy as np


class FakePipeline:
    """Answers as `stream.session.Pipeline` does: chunks of ten frames that show the portrait, a little brighter each time."""

    geometry = types.SimpleNamespace(new_frames=10)

    def start(self, portrait, seed):
        self.portrait = portrait
        return self

    def warm_up(self, session):
        pass

    def speak(self, speech):
        count = len(speech[0]) * 25 // 16_000
        for begin in range(0, count, 10):
            frame = np.clip((self.portrait + 1) * 127.5 + begin, 0, 255).astype(np.uint8)
            yield np.stack([np.roll(frame, k, 1) for k in range(min(10, count - begin))])
