"""How much pictures change from frame to frame."""

import numpy as np


class Changes:
    """Takes a video in pieces. `levels`: the mean absolute difference of each frame from the one before, 0 to 255."""

    def __init__(self) -> None:
        self.levels: list[float] = []
        self._last: np.ndarray | None = None

    def add(self, frames: np.ndarray) -> None:
        for frame in frames:
            if self._last is not None:
                self.levels.append(float(np.abs(np.subtract(frame, self._last, dtype=np.int16)).mean()))
            self._last = frame.copy()
