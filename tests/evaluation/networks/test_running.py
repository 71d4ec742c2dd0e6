"""Weight files as people have them, and frames cut into windows."""

import numpy as np
import pytest
import torch
from flax import nnx

from livetalk_jax.conversion.engine import ConversionError, unload
from livetalk_jax.conversion.sources import TorchFile
from livetalk_jax.conversion.table import LINEAR, SAME, Rule, Unused
from livetalk_jax.evaluation.metric import Absent
from livetalk_jax.evaluation.networks.running import Windows, evaluate, published
from livetalk_jax.nn.layers import Linear
from tests.evaluation.networks.seeded import error

TABLE = (Rule("fc.weight", "kernel", LINEAR), Rule("fc.bias", "bias", SAME), Unused("{name}.num_batches_tracked"))


class Counter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("num_batches_tracked", torch.tensor(3))

    def forward(self):
        return self.num_batches_tracked


class Published(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = torch.nn.Linear(5, 3), Counter()

    def forward(self, x):
        return self.fc(x)


def linear(*, rngs: nnx.Rngs) -> Linear:
    return Linear(5, 3, rngs=rngs)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("form", ["state", "nested", "program"])
def test_forms_of_files(tmp_path, form):
    torch.manual_seed(0)
    theirs, path = Published(), tmp_path / "weights.pt"
    if form == "program":
        torch.jit.script(theirs).save(path)
    else:
        torch.save({"state_dict": theirs.state_dict()} if form == "nested" else theirs.state_dict(), path)
    assert TorchFile(path).tensors["fc.weight"].shape == (3, 5)
    model = published(linear, TABLE, path)
    x = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    assert error(evaluate(model, x), theirs(torch.tensor(x)).detach().numpy()) < 1e-6
    np.testing.assert_array_equal(unload(model, TABLE)["fc.weight"], theirs.fc.weight.detach().numpy())
    # Read once.
    assert published(linear, TABLE, path) is model


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"<html>Not Found</html>")
    with pytest.raises(Absent, match=r"weights\.pth is not a PyTorch file of tensors") as error:
        published(linear, TABLE, path)
    assert "\n" not in str(error.value)


def test_a_file_of_something_else(tmp_path):
    torch.save({"fc.weight": torch.zeros(3, 5), "head.weight": torch.zeros(2, 2)}, tmp_path / "weights.pth")
    with pytest.raises(ConversionError, match=r"unknown tensor: head\.weight"):
        published(linear, TABLE, tmp_path / "weights.pth")


def frames(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 2, 2, 3), np.uint8)


@pytest.mark.parametrize("block", [1, 3, 32])
def test_windows(block):
    seen = []

    def run(window):
        seen.append(window[:, 0, 0, 0].tolist())
        return window[:4, 0, 0, 0]

    windows = Windows(run, 6, 4)
    for start in range(0, 13, block):
        windows.add(frames(13)[start : start + block])
    assert seen == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]
    assert windows.whole().tolist() == list(range(8))
    # Thirteen frames have eleven outputs of three frames each; the last window is filled up with the last frame.
    assert windows.all(11).tolist() == list(range(11))
    assert seen[2] == [8, 9, 10, 11, 12, 12]


def test_windows_that_end_with_the_video():
    windows = Windows(lambda window: window[:4, 0, 0, 0], 6, 4)
    windows.add(frames(10))
    assert windows.all(8).tolist() == list(range(8))


def test_no_window():
    windows = Windows(lambda window: window, 16, 16)
    windows.add(frames(5))
    with pytest.raises(Absent, match="needs 16 frames, the video has 5"):
        windows.whole()
