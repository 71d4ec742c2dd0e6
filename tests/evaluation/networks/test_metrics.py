"""The metrics on top of the networks: their arithmetic against published code and known answers, and what they lack."""

import functools
import re

import numpy as np
import pytest
import torch
from flax import nnx

from livetalk_jax.conversion.engine import unload
from livetalk_jax.evaluation.metric import Absent, Clip, Truth
from livetalk_jax.evaluation.metrics import background, consistency, fid, frechet, fvd, motion, quality, subject, sync
from livetalk_jax.evaluation.networks import s3fd, syncnet
from tests.data.procedural import recording
from tests.evaluation.networks.seeded import error, golden, network, picture, waveform


def clip(height=96, width=64, seconds=2.0, fps=25.0, **changes) -> Clip:
    sound = (waveform("speech", int(16_000 * seconds)) / np.float32(32768)).astype(np.float32)
    return Clip(name="a", height=height, width=width, fps=fps, waveform=sound, portrait=picture("p", (height, width, 3)), **changes)


# Fréchet distance


def test_the_same_set():
    features = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)
    assert abs(frechet.distance([features], [features])) < 1e-9
    # Fewer samples than dimensions, in another order and cut in other places.
    few = features[:12]
    assert abs(frechet.distance([few], [few[6:], few[:6]])) < 1e-9


def test_shifted_and_scaled_normal_distributions():
    """Moments made exact, so that the distance is the formula's: |shift|² + Σ (σ₁ − σ₂)² for covariances that commute."""
    random = np.random.default_rng(1)
    samples = random.standard_normal((500, 8))
    samples -= samples.mean(0)
    white = samples @ np.linalg.inv(np.linalg.cholesky(np.cov(samples.T))).T
    basis = np.linalg.qr(random.standard_normal((8, 8)))[0]
    one, two, shift = random.uniform(0.5, 3, 8), random.uniform(0.5, 3, 8), random.standard_normal(8)
    found = frechet.distance([white * one @ basis], [white[::-1] * two @ basis + shift])
    assert found == pytest.approx(np.sum(shift**2) + np.sum((one - two) ** 2), rel=1e-9)


def test_against_the_root_of_the_product():
    """The published way: eigenvalues of C₁C₂, where it can be had."""
    random = np.random.default_rng(2)
    one, two = (random.standard_normal((200, 12)) @ random.standard_normal((12, 12)) for _ in range(2))
    first, second = np.cov(one.T), np.cov(two.T)
    roots = np.sqrt(np.linalg.eigvals(first @ second).real).sum()
    expected = np.sum((one.mean(0) - two.mean(0)) ** 2) + np.trace(first) + np.trace(second) - 2 * roots
    assert frechet.distance([one], [two]) == pytest.approx(expected, rel=1e-9)


def test_too_few_samples():
    with pytest.raises(Absent, match="needs two samples of each set"):
        frechet.distance([np.zeros((1, 4))], [np.zeros((9, 4))])


@pytest.mark.parametrize(("metric", "name"), [(fid, "FID"), (fvd, "FVD")])
def test_sets_are_joined(metric, name):
    features = np.random.default_rng(3).standard_normal((20, 4))
    assert metric.compare([features[:5], features[5:]], [features]) == {name: pytest.approx(0, abs=1e-9)}


# Consistency


def test_likeness():
    first, turned, other = np.eye(3)[0], np.array([1.0, 1, 0]), -np.eye(3)[0]
    values = consistency.likeness(np.stack([first, 5 * first, turned, other]))
    half = np.sqrt(0.5)
    # A negative cosine counts as zero.
    np.testing.assert_allclose(values, [1, half, 0], atol=1e-12)


def test_consistency_meter():
    meter = consistency.Meter(clip(), "Subject-C", lambda frames: frames.reshape(len(frames), -1).astype(np.float32))
    still = picture("still", (1, 96, 64, 3)).repeat(11, 0)
    meter.add(still[:5])
    meter.add(still[5:])
    scores = meter.scores()
    assert scores.numbers == {"Subject-C": pytest.approx(1)}
    assert len(scores.curves["Subject-C"].values) == 1
    lone = consistency.Meter(clip(), "Subject-C", lambda frames: frames)
    lone.add(still[:1])
    with pytest.raises(Absent, match="needs two frames"):
        lone.scores()


# Motion smoothness


def test_motion(monkeypatch):
    """A network that gives the mean: what moves evenly in brightness scores 1, a frame that leaps out does not."""
    monkeypatch.setattr(motion, "evaluate", lambda model, before, after: (before + after) / 2 + 1e-4)
    ramp = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.uint8(4) + np.zeros((1, 130, 150, 3), np.uint8)

    def score(frames):
        meter = motion.Meter(clip(130, 150), None)
        meter.add(frames[:4])
        meter.add(frames[4:])
        return meter.scores().numbers["Motion-S"]

    assert score(ramp) == 1
    leap = ramp.copy()
    leap[3] += 51
    assert score(leap) == pytest.approx(1 - 51 / 4 / 255)
    # The last frame has no successor and is not scored, as in the published code.
    last = np.concatenate([ramp, ramp[-1:] + 90])
    assert score(last) == 1


# SyncNet


def test_mfcc():
    assert error(sync.mfcc(waveform("speech", 16_000)), golden("syncnet")["mfcc"]) < 1e-6


def test_mfcc_of_silence():
    assert np.isfinite(sync.mfcc(np.zeros(1000, np.int16))).all()


def test_distances():
    expected = golden("syncnet")
    means = sync.distances(expected["track"], expected["late"]).mean(1)
    scores = [15 - means.argmin(), np.median(means) - means.min(), means.min()]
    np.testing.assert_allclose(scores, expected["scores"], rtol=1e-5)
    # The sound is four frames late: the lips are behind it by as many less.
    assert scores[0] == -4


def test_the_crop():
    frame = picture("frame", (300, 400, 3))
    # A box in the middle, whose crop of 224 rows and columns is cut out as it is.
    half = 80
    box = np.array([200 - half, 140 - half, 200 + half, 140 + half], float)
    np.testing.assert_array_equal(sync.crop(frame, box), frame[60 : 60 + 224, 88 : 88 + 224])
    # Beyond the edge lies grey.
    corner = sync.crop(frame, box - [200, 140, 200, 140])
    assert (corner[:70, :100] == 110).all()
    np.testing.assert_array_equal(corner[80:, 112:], frame[:144, :112])


def test_the_crop_is_stretched_like_pytorch():
    frame = picture("frame", (300, 400, 3))
    found = sync.crop(frame, np.array([100.0, 60, 180, 140]))
    part = frame[60 : 60 + 112, 140 - 56 : 140 + 56]
    theirs = torch.nn.functional.interpolate(torch.tensor(part).permute(2, 0, 1)[None].float(), (224, 224), mode="bilinear")
    assert np.abs(found.astype(float) - theirs[0].permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-4


def test_a_drawn_face_lies_in_its_box():
    truth = recording(7).truth(0, 50)
    left, top, right, bottom = sync.one_box(clip(truth=Truth(truth, 7, 0)), None)
    x, y = np.median(truth["mouth_x"]), np.median(truth["mouth_y"])
    assert left < x < right and top < y < bottom
    # The box is as wide as the face, not as the picture, which is 128 pixels.
    assert left > 10 and right < 118 and bottom < 128


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of seeded weights as published, with what else is in them."""
    folder = tmp_path_factory.mktemp("weights")
    for name, build, table in (
        (sync.WEIGHTS, syncnet.SyncNet, syncnet.TABLE),
        (sync.FACE_WEIGHTS, s3fd.S3FD, s3fd.TABLE),
    ):
        tensors = {key: torch.tensor(value) for key, value in unload(network(build, table, gain=1.0), table).items()}
        if name == sync.WEIGHTS:
            tensors["netcnnaud.1.num_batches_tracked"] = torch.tensor(3)
        torch.save(tensors, folder / name)
    return folder


def test_sync_of_a_video(weights, monkeypatch):
    """Frames in blocks of any size give the features of the published windows, one by one, and their scores."""
    monkeypatch.setattr(sync, "BATCH", 3)
    frames = picture("video", (11, 60, 60, 3))
    box = np.array([10.0, 10, 50, 50])
    meter = sync.begin(clip(60, 60, seconds=11 / 25), weights, faces=lambda block: np.tile(box, (len(block), 1)))
    for part in np.split(frames, [1, 6]):
        meter.add(part)
    scores = meter.scores()

    faces = np.stack([sync.crop(frame, box)[..., ::-1] for frame in frames]).astype(np.float32)
    lips = np.concatenate([sync.evaluate(meter.network.lips, faces[None, k : k + 7])[0] for k in (0, 3)])
    steps = sync.mfcc(np.rint(meter.clip.waveform * 32767).astype(np.int16))
    windows = np.stack([steps[4 * k : 4 * k + 20] for k in range(6)]).astype(np.float32)
    audio = np.concatenate([sync.evaluate(meter.network.audio, windows[k : k + 3]) for k in (0, 3)])
    means = sync.distances(lips, audio).mean(1)
    expected = {"Sync-C": np.median(means) - means.min(), "Sync-D": means.min(), "Sync offset": 15 - means.argmin()}
    assert scores.numbers == pytest.approx(expected, rel=1e-5)
    assert scores.curves.keys() == {"Sync-C"}


def test_a_portrait_without_a_face(weights, monkeypatch):
    monkeypatch.setattr(s3fd, "find_face", functools.partial(s3fd.find_face, longer_side=64))
    with pytest.raises(Absent, match=r"no face was found in the portrait \(the likeliest has 0\.\d\d, 0\.9 is needed\)"):
        sync.begin(clip(96, 64), weights)


def test_a_face_is_where_it_was_found(monkeypatch):
    box = np.array([80.0, 40, 160, 120])
    monkeypatch.setattr(s3fd, "evaluate", lambda model, pictures: (np.array([[0.1, 0.99]]), np.stack([box * 0, box])[None]))
    likely, found = s3fd.find_face(None, np.zeros((1280, 640, 3), np.uint8))
    assert likely == 0.99
    np.testing.assert_allclose(found, box * 4)


def test_sync_needs(weights):
    with pytest.raises(Absent, match="the video has no sound"):
        sync.begin(clip(seconds=0), weights)
    meter = sync.begin(clip(60, 60), weights, faces=lambda block: np.tile([10.0, 10, 50, 50], (len(block), 1)))
    meter.add(picture("video", (5, 60, 60, 3)))
    with pytest.raises(Absent, match="needs 6 frames with sound"):
        meter.scores()


# Q-Align


def test_rating():
    assert quality.rating(np.array([9.0, -99, -99, -99, -99])) == pytest.approx(5)
    assert quality.rating(np.zeros(5)) == pytest.approx(3)
    logits = np.random.default_rng(0).standard_normal((4, 5))
    expected = torch.softmax(torch.tensor(logits), -1) @ torch.tensor([5.0, 4, 3, 2, 1], dtype=torch.float64)
    np.testing.assert_allclose(quality.rating(logits), expected.numpy())


class StandIn(torch.nn.Module):
    """Called as mPLUG-Owl2 is; its last token's logits depend on picture and prompt."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.look = torch.nn.Embedding(50, 8), torch.nn.Linear(3, 8)
        self.head = torch.nn.Linear(8, 50)

    def forward(self, ids, images):
        assert (ids == quality.PICTURE_TOKEN).sum(1).tolist() == [1] * len(images)
        states = self.embed(ids.clamp(min=0)).cumsum(1) + self.look(images.mean((2, 3)))[:, None]
        return {"logits": self.head(states)}


class Processor:
    image_mean = (0.5, 0.4, 0.3)

    def preprocess(self, pictures, return_tensors):
        assert {picture.size for picture in pictures} == {(96, 96)}
        pixels = np.stack([np.asarray(picture, np.float32) / 255 for picture in pictures])
        return {"pixel_values": torch.tensor(pixels).permute(0, 3, 1, 2)}


def tokenizer(text):
    return {"input_ids": [1, *(2 + len(word) for word in text.split())]}


def test_quality_of_a_video():
    rater = quality.Rater(StandIn(), tokenizer, Processor())
    meter = quality.Meter(clip(fps=1.0), rater)
    frames = picture("rated", (6, 96, 64, 3))
    meter.add(frames)
    scores = meter.scores()
    assert scores.numbers.keys() == {"IQA", "ASE"}
    assert len(scores.curves["IQA"].values) == 6

    def one(frame, task):
        pixels = torch.tensor(np.asarray(quality.squared(frame, (127, 102, 76)), np.float32) / 255).permute(2, 0, 1)[None]
        before, behind = f"USER: How would you rate the {task} of this image?\n", f"\nASSISTANT: The {task} of the image is"
        ids = [*tokenizer(before)["input_ids"], -200, *tokenizer(behind)["input_ids"][1:]]
        words = [2 + len(word) for word in ("excellent", "good", "fair", "poor", "bad")]
        logits = rater.model(torch.tensor([ids]), pixels)["logits"][0, -1, words]
        return float(torch.softmax(logits, 0) @ torch.tensor([5.0, 4, 3, 2, 1]))

    for column, task in (("IQA", "quality"), ("ASE", "aesthetics")):
        with torch.no_grad():
            expected = np.mean([one(frame, task) for frame in frames])
        assert scores.numbers[column] == pytest.approx(expected, rel=1e-5)


def test_quality_that_does_not_load(tmp_path):
    (tmp_path / "one-align").mkdir()
    with pytest.raises(Absent, match="one-align does not load with this transformers: ") as error:
        quality.begin(clip(), tmp_path)
    assert "\n" not in str(error.value)


# Absent weights


@pytest.mark.parametrize("metric", [sync, fid, fvd, subject, background, motion, quality])
def test_absent_weights(metric, tmp_path):
    with pytest.raises(Absent, match=f"needs {re.escape(metric.WEIGHTS)}: give its folder by --weights"):
        metric.begin(clip(), None)
    with pytest.raises(Absent, match=f"needs {re.escape(metric.WEIGHTS)}, which is not in"):
        metric.begin(clip(), tmp_path)


def test_motion_needs_size(monkeypatch, tmp_path):
    (tmp_path / motion.WEIGHTS).touch()
    monkeypatch.setattr(motion, "published", lambda *_: nnx.List([]))
    with pytest.raises(Absent, match="needs pictures of more than 112 pixels a side, not 96×64"):
        motion.begin(clip(), tmp_path)
