"""Record what the published PyTorch networks of the evaluation give for seeded weights: tests/evaluation/networks/golden/*.npz.

    python tools/record_evaluation_golden.py NETWORK CHECKOUT ...

    syncnet     a checkout of github.com/joonson/syncnet_python, and a folder with python_speech_features 0.6
                (pip install --no-deps --target FOLDER python_speech_features==0.6)
    s3fd        a checkout of github.com/joonson/syncnet_python
    inception   checkouts of github.com/mseitzer/pytorch-fid and github.com/toshas/torch-fidelity
    i3d         a checkout of github.com/hassony2/kinetics_i3d_pytorch
    dino        a checkout of github.com/facebookresearch/dino
    amt         a checkout of github.com/MCG-NKU/AMT

Needs PyTorch, not torchvision. pytorch-fid takes base classes from torchvision; torch-fidelity has the same layers under the same
names without it, and here stands in for `torchvision.models.inception`. Of python modules that only read and write files (cv2,
imageio, scenedetect) the published code gets empty ones.
"""

import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.evaluation.networks import seeded


def fill(module: torch.nn.Module, gain: float = 2.0) -> torch.nn.Module:
    """Seeded weights in place of its own."""
    for name, tensor in module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            tensor.copy_(torch.from_numpy(seeded.weight(name, tuple(tensor.shape), gain)))
    return module.eval()


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(x, -1, 1).astype(np.float32))


def stand_in(*names: str) -> None:
    sys.modules.update({name: mock.MagicMock(__name__=name) for name in names})


def syncnet(checkout: str, speech_features: str) -> dict[str, np.ndarray]:
    sys.path[:0] = [checkout, speech_features]
    stand_in("cv2")
    import python_speech_features
    import SyncNetInstance
    import SyncNetModel

    model = fill(SyncNetModel.S())
    faces = channels_first(seeded.picture("faces", (1, 7, 224, 224, 3)))
    sound = seeded.waveform("speech", 16_000)
    mfcc = python_speech_features.mfcc(sound, 16_000)
    windows = torch.from_numpy(np.stack([mfcc[4 * k : 4 * k + 20] for k in range(3)]).swapaxes(1, 2)[:, None].astype(np.float32))
    lips = torch.cat([model.forward_lip(faces[:, :, k : k + 5]) for k in range(3)])
    # Two tracks of features, the second four steps late, for the arithmetic behind the network.
    random = np.random.default_rng(0)
    track = random.standard_normal((64, 8)).astype(np.float32)
    late = np.roll(track, 4, 0) + 0.3 * random.standard_normal(track.shape).astype(np.float32)
    distances = torch.stack(SyncNetInstance.calc_pdist(torch.from_numpy(track), torch.from_numpy(late), 15), 1).mean(1)
    found = distances.min(0)
    scores = [15 - found.indices, torch.median(distances) - found.values, found.values]
    return {
        "mfcc": mfcc,
        "lips": lips,
        "audio": model.forward_aud(windows),
        "track": track,
        "late": late,
        "scores": np.array([float(score) for score in scores]),
    }


def s3fd(checkout: str) -> dict[str, np.ndarray]:
    sys.path.insert(0, checkout)
    stand_in("cv2", "torchvision")
    from detectors.s3fd import nets

    model = fill(nets.S3FDNet(device="cpu"), gain=1.0)
    found = {}
    model.detect.forward = lambda offsets, scores, priors: found.update(offsets=offsets, scores=scores, priors=priors)
    model(channels_first(seeded.picture("face", (1, 96, 128, 3)) - np.array([123.0, 117.0, 104.0])))
    return found


def inception(checkout: str, fidelity: str) -> dict[str, np.ndarray]:
    sys.path.insert(0, str(Path(checkout) / "src"))
    # Its __init__ imports all of its networks, and with them torchvision.
    package = types.ModuleType("torch_fidelity")
    package.__path__ = [str(Path(fidelity) / "torch_fidelity")]
    sys.modules["torch_fidelity"] = package
    from torch_fidelity import feature_extractor_inceptionv3 as blocks

    class Base(torch.nn.Module):
        """torchvision's Inception3, without its forward."""

        def __init__(self, **_):
            super().__init__()
            for name, layer in {
                "Conv2d_1a_3x3": blocks.BasicConv2d(3, 32, kernel_size=3, stride=2),
                "Conv2d_2a_3x3": blocks.BasicConv2d(32, 32, kernel_size=3),
                "Conv2d_2b_3x3": blocks.BasicConv2d(32, 64, kernel_size=3, padding=1),
                "Conv2d_3b_1x1": blocks.BasicConv2d(64, 80, kernel_size=1),
                "Conv2d_4a_3x3": blocks.BasicConv2d(80, 192, kernel_size=3),
                "Mixed_6a": blocks.InceptionB(288),
                "Mixed_7a": blocks.InceptionD(768),
            }.items():
                self.add_module(name, layer)

        def load_state_dict(self, state, **_):
            fill(self)

    vision = types.ModuleType("torchvision")
    vision.__version__ = "0.20"
    vision.models = types.ModuleType("torchvision.models")
    vision.models.inception_v3 = Base
    vision.models.inception = types.SimpleNamespace(
        InceptionA=blocks.InceptionA, InceptionC=blocks.InceptionC, InceptionE=blocks.InceptionE_1
    )
    sys.modules |= {"torchvision": vision, "torchvision.models": vision.models}
    with mock.patch("torch.utils.model_zoo.load_url", lambda *_, **__: {}):
        from pytorch_fid.inception import InceptionV3

        model = InceptionV3(resize_input=False).eval()
    return {"features": model(channels_first(seeded.picture("pictures", (2, 139, 155, 3))) / 255)[0][:, :, 0, 0]}


def i3d(checkout: str) -> dict[str, np.ndarray]:
    sys.path.insert(0, str(Path(checkout) / "src"))
    import i3dpt

    model = fill(i3dpt.I3D(400, "rgb"))
    clip = channels_first(seeded.picture("clip", (1, 10, 224, 224, 3))) / 127.5 - 1
    return {"logits": model(clip)[1]}


def dino(checkout: str) -> dict[str, np.ndarray]:
    sys.path.insert(0, checkout)
    import functools

    import vision_transformer

    norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)
    model = fill(vision_transformer.VisionTransformer(embed_dim=48, depth=2, num_heads=3, qkv_bias=True, norm_layer=norm))
    square, tall = (
        channels_first(seeded.picture(name, (2, rows, 224, 3))) / 255 for name, rows in (("square", 224), ("tall", 387))
    )
    return {"square": model(square), "tall": model(tall)}


def amt(checkout: str) -> dict[str, np.ndarray]:
    sys.path.insert(0, checkout)
    stand_in("imageio")
    import importlib

    model = fill(importlib.import_module("networks.AMT-S").Model(), gain=0.7)
    before, after = (channels_first(seeded.picture(name, (2, 128, 144, 3))) / 255 for name in ("before", "after"))
    # What is cut off at 0 and 1 would be compared no more.
    with mock.patch("torch.clamp", lambda x, *_: x):
        middle = model(before, after, torch.full((2, 1, 1, 1), 0.5), eval=True)["imgt_pred"]
    return {"middle": middle.permute(0, 2, 3, 1)[:, ::4, ::4]}


def main() -> None:
    name, *checkouts = sys.argv[1:]
    with torch.no_grad():
        found = {"syncnet": syncnet, "s3fd": s3fd, "inception": inception, "i3d": i3d, "dino": dino, "amt": amt}[name](*checkouts)
    seeded.GOLDEN.mkdir(exist_ok=True)
    arrays = {key: np.asarray(value, np.float32) for key, value in found.items()}
    np.savez_compressed(seeded.GOLDEN / f"{name}.npz", **arrays)
    for key, array in arrays.items():
        print(f"{name}/{key}: {list(array.shape)}, mean square {np.mean(np.square(array)):.4g}")


if __name__ == "__main__":
    main()
