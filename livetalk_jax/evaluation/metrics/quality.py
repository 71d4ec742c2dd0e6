"""IQA and ASE by Q-Align (Wu et al., ICML 2024, arXiv 2312.17090): a vision language model rates a picture in one of five words.

The model is q-future/one-align with its own code, in PyTorch: it is loaded from the folder `one-align` among the weights, and runs the
Python files there. The score is the mean of 5 to 1 over the likelihoods of the five words. One frame a second is rated.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from livetalk_jax.evaluation.metric import Absent, Clip, Scores, curve, weight_file
from livetalk_jax.evaluation.networks.running import Windows

WEIGHTS = "one-align"
BATCH = 4

WORDS = ("excellent", "good", "fair", "poor", "bad")
POINTS = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
# Column -> what the model is asked for.
TASKS = {"IQA": "quality", "ASE": "aesthetics"}
PICTURE = "<|image|>"
PICTURE_TOKEN = -200


def rating(logits: np.ndarray) -> np.ndarray:
    """Logits [..., 5] of the words from "excellent" to "bad" -> the expected points [...], 1 to 5."""
    likely = np.exp(logits - logits.max(-1, keepdims=True))
    return likely @ POINTS / likely.sum(-1)


def squared(frame: np.ndarray, color: Sequence[int]) -> Image.Image:
    """uint8 [Y, X, 3] in the middle of a square of its longer side."""
    height, width = frame.shape[:2]
    side = max(height, width)
    square = Image.new("RGB", (side, side), tuple(color))
    square.paste(Image.fromarray(frame), ((side - width) // 2, (side - height) // 2))
    return square


class Rater:
    """The model at work.

    Args:
        model: called with token ids [B, tokens] and pixels, gives "logits" [B, tokens', words].
        tokenizer, processor: of its text and of its pictures.
    """

    def __init__(self, model: Any, tokenizer: Any, processor: Any):
        self.model, self.processor = model, processor
        # A word's first token; before it stands the one that begins a text.
        self._words = [tokenizer(word)["input_ids"][1] for word in WORDS]
        self._prompts = {column: self._prompt(tokenizer, task) for column, task in TASKS.items()}

    @staticmethod
    def _prompt(tokenizer: Any, task: str) -> list[int]:
        text = f"USER: How would you rate the {task} of this image?\n{PICTURE}\nASSISTANT: The {task} of the image is"
        before, behind = (list(tokenizer(part)["input_ids"]) for part in text.split(PICTURE))
        return [*before, PICTURE_TOKEN, *behind[1:]]

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [B, Y, X, 3] -> points [B, columns]."""
        import torch

        color = [int(255 * part) for part in self.processor.image_mean]
        pixels = self.processor.preprocess([squared(frame, color) for frame in frames], return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.model.device, self.model.dtype)
        points = []
        for prompt in self._prompts.values():
            ids = torch.tensor([prompt] * len(frames), device=self.model.device)
            with torch.inference_mode():
                logits = self.model(ids, images=pixels)["logits"][:, -1, self._words]
            points.append(rating(logits.double().cpu().numpy()))
        return np.stack(points, 1)


@functools.cache
def load(folder: Path) -> Rater:
    """The model of a folder, on a GPU if PyTorch sees one.

    Raises:
        Absent: PyTorch is not installed, or the model's code does not run with this transformers.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPImageProcessor
    except ImportError as error:
        raise Absent(f"needs PyTorch and what transformers needs with it ({error})") from None
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=dtype)
        return Rater(model.to(device).eval(), AutoTokenizer.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder))
    except Exception as error:  # foreign code, written for transformers 4.36, fails in many ways
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise Absent(f"{folder} does not load with this transformers: {reason}") from None


class Meter:
    def __init__(self, clip: Clip, rater: Rater):
        self.clip = clip
        self._windows = Windows(rater, BATCH, BATCH)
        self.add = self._windows.add

    def scores(self) -> Scores:
        points = dict(zip(TASKS, self._windows.all(self._windows.count).T, strict=True))
        numbers = {column: float(values.mean()) for column, values in points.items()}
        return Scores(numbers, {column: curve(values, self.clip.fps) for column, values in points.items()})


def begin(clip: Clip, weights: Path | None) -> Meter:
    return Meter(clip, load(weight_file(weights, WEIGHTS)))
