"""Images, sound and MP4 files: what is read, what is written, and what is said when that fails."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from livetalk_jax.media import SAMPLES, VideoWriter, contact_sheet, load_audio, load_image, read_video
from livetalk_jax.stream.audio import chunk_slices, video_frames
from tests.pictures import BROKEN_EXIF, with_broken_exif

# Images


@pytest.fixture
def picture():
    """uint8 [24, 40, 3]: four flat quarters, so that JPEG keeps their colours."""
    image = np.zeros((24, 40, 3), np.uint8)
    image[:12, :20], image[:12, 20:], image[12:, :20], image[12:, 20:] = (200, 40, 40), (40, 180, 60), (50, 60, 210), (240, 240, 90)
    return image


def quarters(image):
    rows, columns = image.shape[0] // 4, image.shape[1] // 4
    return image[[rows, rows, 3 * rows, 3 * rows], [columns, 3 * columns, columns, 3 * columns]].astype(int)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "a.gif", "a.webp"])
def test_lossless_formats(tmp_path, picture, name):
    Image.fromarray(picture).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    loaded = load_image(tmp_path / name)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, picture, orientation):
    # How a camera stores the upright picture under each orientation tag.
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture),
        7: picture.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    loaded = load_image(tmp_path / "a.jpg")
    assert loaded.shape == picture.shape
    assert np.abs(quarters(loaded) - quarters(picture)).max() <= 6


def test_transparent_becomes_white(tmp_path, picture):
    alpha = np.full((24, 40, 1), 255, np.uint8)
    alpha[:12, :20], alpha[:12, 20:] = 0, 128
    Image.fromarray(np.concatenate([picture, alpha], -1)).save(tmp_path / "a.png")
    loaded = quarters(load_image(tmp_path / "a.png"))
    assert loaded[0].tolist() == [255, 255, 255]
    assert np.abs(loaded[1] - (quarters(picture)[1] * 128 / 255 + 255 * 127 / 255)).max() <= 1
    np.testing.assert_array_equal(loaded[2:], quarters(picture)[2:])


def test_palette(tmp_path, picture):
    palette = Image.fromarray(picture).quantize(4)
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), picture)
    palette.save(tmp_path / "b.png", transparency=palette.getpixel((0, 0)))
    assert quarters(load_image(tmp_path / "b.png")).tolist() == [[255, 255, 255], *quarters(picture)[1:].tolist()]


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey(tmp_path, picture, mode):
    Image.fromarray(picture[..., 0]).convert(mode).save(tmp_path / "a.png")
    expected = picture[..., :1] // 128 * 255 if mode == "1" else picture[..., :1]
    if mode != "1":  # a bitmap is dithered by Pillow
        np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.broadcast_to(expected, picture.shape))
    assert load_image(tmp_path / "a.png").shape == picture.shape


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_sixteen_bits(tmp_path, name):
    levels = np.arange(256, dtype=np.uint16).repeat(16).reshape(16, 256) * 257
    levels[0, :2] = 128, 129  # rounds to 0 and 1
    Image.fromarray(levels).save(tmp_path / name)
    loaded = load_image(tmp_path / name)
    assert loaded[0, :2, 0].tolist() == [0, 1]
    np.testing.assert_array_equal(loaded[1:, :, 1], levels[1:] // 257)


def test_cmyk(tmp_path, picture):
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(quarters(load_image(tmp_path / "a.jpg")) - quarters(picture)).max() <= 8


def test_animation_gives_its_first_frame(tmp_path, picture):
    first, second = Image.fromarray(picture), Image.fromarray(picture[::-1])
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(load_image(tmp_path / "a.gif"), picture)


def one_line(error) -> str:
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


def test_image_errors(tmp_path, picture):
    with pytest.raises(FileNotFoundError) as error:
        load_image(tmp_path / "none.png")
    assert one_line(error) == f"{tmp_path / 'none.png'} does not exist"
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_image(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match="is not a picture") as error:
        load_image(tmp_path / "text.png")
    one_line(error)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match="is not a picture"):
        load_image(tmp_path / "empty.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("cut.png", "cut.jpg", "cut.gif"):
        Image.fromarray(noise).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"{name} is a damaged picture") as error:
            load_image(tmp_path / name)
        one_line(error)
    Image.fromarray(picture[..., 0].astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match="floating-point"):
        load_image(tmp_path / "float.tiff")
    Image.fromarray(picture[..., 0].astype(np.int32) * 1000).save(tmp_path / "wide.tiff")
    with pytest.raises(ValueError, match="more than 16 bits"):
        load_image(tmp_path / "wide.tiff")


@pytest.mark.filterwarnings("ignore:Metadata Warning")
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("changes", BROKEN_EXIF)
def test_broken_exif(tmp_path, kind, changes):
    (tmp_path / "a").write_bytes(with_broken_exif(kind, changes))
    with pytest.raises(ValueError, match="is a damaged picture") as error:
        load_image(tmp_path / "a")
    one_line(error)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(10_001, 10_000), (20_000, 20_000)])
def test_absurdly_large_image(tmp_path, size):
    Image.new("1", size).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="more than 100,000,000 pixels") as error:
        load_image(tmp_path / "a.png")
    one_line(error)


# Sound in


def tone(sample_rate, seconds, frequency=440.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * sample_rate)) / sample_rate).astype(np.float32)


def write_sound(path, channels, sample_rate, codec, layout, sample_format):
    """`channels`: float32 [channels, samples]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=sample_rate, layout=layout)
        stream.bit_rate = 128_000
        resampler = av.AudioResampler(format=sample_format, layout=layout, rate=sample_rate)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


FORMATS = [
    ("a.wav", "pcm_s16le", 44_100, "s16"),
    ("b.wav", "pcm_f32le", 8_000, "flt"),
    ("a.flac", "flac", 48_000, "s16"),
    ("a.mp3", "libmp3lame", 44_100, "fltp"),
    ("a.m4a", "aac", 44_100, "fltp"),
    ("a.mp4", "aac", 32_000, "fltp"),
    ("a.ogg", "libopus", 48_000, "flt"),
    ("a.webm", "libopus", 48_000, "flt"),
]


@pytest.mark.parametrize(("name", "codec", "sample_rate", "sample_format"), FORMATS)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_sound_formats(tmp_path, name, codec, sample_rate, sample_format, layout):
    """A tone comes back at 16 kHz: as long, as loud, in phase."""
    seconds = 1.3
    one = tone(sample_rate, seconds)
    channels = one[None] if layout == "mono" else np.stack([1.5 * one, 0.5 * one])
    write_sound(tmp_path / name, channels, sample_rate, codec, layout, sample_format)
    loaded = load_audio(tmp_path / name, 16_000)
    assert loaded.dtype == np.float32
    assert loaded.ndim == 1
    assert abs(len(loaded) / 16_000 - seconds) < 0.04
    expected = tone(16_000, seconds)
    middle = slice(4_000, 16_000)
    assert np.linalg.norm(loaded[middle] - expected[middle]) / np.linalg.norm(expected[middle]) < 0.05


def test_channels_are_averaged(tmp_path):
    """5.1 too: no channel is left out or weighted."""
    levels = np.array([0.1, 0.2, 0.3, 0.05, 0.15, 0.4], np.float32)
    write_sound(tmp_path / "a.wav", levels[:, None] * tone(16_000, 0.5), 16_000, "pcm_f32le", "5.1", "flt")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav", 16_000), levels.mean() * tone(16_000, 0.5), atol=1e-6)


def test_opposite_channels_cancel(tmp_path):
    one = tone(44_100, 0.5)
    write_sound(tmp_path / "a.wav", np.stack([one, -one]), 44_100, "pcm_s16le", "stereo", "s16")
    assert np.abs(load_audio(tmp_path / "a.wav", 16_000)).max() < 1e-3


def test_same_rate_is_untouched(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 5_000).astype(np.float32)
    write_sound(tmp_path / "a.wav", noise[None], 16_000, "pcm_f32le", "mono", "flt")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", 16_000), noise)


def test_resampling_removes_what_would_alias(tmp_path):
    write_sound(tmp_path / "a.wav", tone(48_000, 1, 11_000)[None], 48_000, "pcm_f32le", "mono", "flt")
    assert np.abs(load_audio(tmp_path / "a.wav", 16_000)[1_000:-1_000]).max() < 1e-3


def test_name_with_a_colon(tmp_path):
    path = tmp_path / "http: a.wav"
    write_sound(tmp_path / "a.wav", tone(16_000, 0.1)[None], 16_000, "pcm_s16le", "mono", "s16")
    (tmp_path / "a.wav").rename(path)
    assert len(load_audio(path, 16_000)) == 1_600
    with VideoWriter(tmp_path / "10:30.mp4", 16, 16, fps=25) as writer:
        writer.write_frames(np.zeros((1, 16, 16, 3), np.uint8))
    assert read_video(tmp_path / "10:30.mp4").frames.shape == (1, 16, 16, 3)


def test_sound_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.wav does not exist"):
        load_audio(tmp_path / "none.wav", 16_000)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_audio(tmp_path, 16_000)
    for name, content in (("a.wav", b"hello"), ("b.mp3", b""), ("c.mp4", np.random.default_rng(0).bytes(3_000))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="is not sound or video that FFmpeg reads") as error:
            load_audio(tmp_path / name, 16_000)
        assert one_line(error).startswith(str(tmp_path / name))
    with wave.open(str(tmp_path / "zero.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
    with pytest.raises(ValueError, match=r"zero\.wav is empty"):
        load_audio(tmp_path / "zero.wav", 16_000)
    write_sound(tmp_path / "nan.wav", np.full((1, 9), np.nan, np.float32), 16_000, "pcm_f32le", "mono", "flt")
    with pytest.raises(ValueError, match="not numbers"):
        load_audio(tmp_path / "nan.wav", 16_000)


@pytest.mark.parametrize(
    ("rate", "channels", "fault"),
    [(200_000_007, 1, "200,000,007 samples a second"), (384_001, 1, "384,001"), (3_999, 1, "3,999"), (16_000, 9, "9 channels")],
)
def test_sound_that_no_recording_has(tmp_path, rate, channels, fault):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * channels * 1000))
    with pytest.raises(ValueError, match=f"a.wav has {fault}") as error:
        load_audio(tmp_path / "a.wav", 16_000)
    one_line(error)


@pytest.mark.parametrize("rate", [4_000, 384_000])
def test_sound_of_the_most_channels_and_the_lowest_and_highest_rate(tmp_path, rate):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(8)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * 8 * rate // 10))
    assert abs(len(load_audio(tmp_path / "a.wav", 16_000)) - 1_600) <= 1


def test_damaged_sound(tmp_path):
    write_sound(tmp_path / "a.m4a", tone(44_100, 5)[None], 44_100, "aac", "mono", "fltp")
    content = bytearray((tmp_path / "a.m4a").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2_000] = b"\xff" * 2_000
    (tmp_path / "a.m4a").write_bytes(content)
    with pytest.raises(ValueError, match=r"the sound of .*a\.m4a is damaged after 2\.\d s: ") as error:
        load_audio(tmp_path / "a.m4a", 16_000)
    one_line(error)


def test_no_sound_stream(tmp_path):
    with VideoWriter(tmp_path / "silent.mp4", 16, 16, fps=25) as writer:
        writer.write_frames(np.zeros((3, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"silent\.mp4 has no sound stream") as error:
        load_audio(tmp_path / "silent.mp4", 16_000)
    one_line(error)
    with pytest.raises(ValueError, match=r"portrait\.png has no sound stream"):
        load_audio(SAMPLES / "portrait.png", 16_000)


def test_shipped_speech():
    path = SAMPLES / "speech.flac"
    assert path.stat().st_size <= 300 * 1024
    speech = load_audio(path, 16_000)
    assert 8 <= len(speech) / 16_000 <= 10.5
    assert 0.3 < np.abs(speech).max() <= 1


# MP4


def moving(frames, height, width, seed=0):
    """A smooth picture that moves: uint8 [F, Y, X, 3]."""
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(x / 19 + t / 3 + phase[0]), np.sin(y / 17 - t / 4 + phase[1]), np.sin((x + y) / 23 + t / 5 + phase[2])]
    return (127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def test_round_trip(tmp_path):
    frames, samples = moving(50, 48, 64), tone(16_000, 2.0)
    with VideoWriter(tmp_path / "a.mp4", 48, 64, fps=25, sample_rate=16_000) as writer:
        for start in range(0, 50, 28):
            writer.write_frames(frames[start : start + 28])
            writer.write_audio(samples[start * 640 : (start + 28) * 640])
    assert os.listdir(tmp_path) == ["a.mp4"]
    video = read_video(tmp_path / "a.mp4")
    assert (video.frames.shape, video.fps, video.sound.sample_rate) == (frames.shape, 25, 16_000)
    error = np.abs(video.frames.astype(int) - frames)
    assert error.mean() < 4
    assert np.abs(video.frames.mean((0, 1, 2)) - frames.mean((0, 1, 2))).max() < 1.5
    # Frame for frame: each is nearer to its own picture than to the one before.
    assert error[1:].mean() < np.abs(video.frames[1:].astype(int) - frames[:-1]).mean()
    assert abs(len(video.sound.samples) - 32_000) < 640
    middle = slice(2_000, 30_000)
    assert np.linalg.norm(video.sound.samples[middle] - samples[middle]) / np.linalg.norm(samples[middle]) < 0.05


@pytest.mark.parametrize("color", [(220, 40, 60), (40, 200, 30), (30, 60, 220), (255, 255, 255), (0, 0, 0), (128, 128, 128)])
def test_colours(tmp_path, color):
    frames = np.broadcast_to(np.array(color, np.uint8), (3, 32, 32, 3))
    with VideoWriter(tmp_path / "a.mp4", 32, 32, fps=25) as writer:
        writer.write_frames(frames)
    decoded = read_video(tmp_path / "a.mp4").frames
    assert np.abs(decoded.astype(int) - color).max() <= 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
        luma = frame.to_ndarray(format="yuv420p")[0, 0]
        tags = container.streams.video[0].codec_context
        assert (tags.colorspace, tags.color_primaries, tags.color_trc, tags.color_range) == (1, 1, 1, 1)
    assert abs(int(luma) - (16 + 219 / 255 * np.dot(color, (0.2126, 0.7152, 0.0722)))) <= 1.5


def test_stream_properties(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 48, 64, fps=25, sample_rate=16_000) as writer:
        writer.write_frames(moving(30, 48, 64))
        writer.write_audio(tone(16_000, 1.2))
    with av.open(str(tmp_path / "a.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt, video.average_rate, video.frames) == (
            "h264",
            "yuv420p",
            25,
            30,
        )
        assert (audio.codec_context.name, audio.codec_context.sample_rate, audio.codec_context.layout.name) == (
            "aac",
            16_000,
            "mono",
        )
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(30) / 25, atol=1e-6)
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")  # faststart


@pytest.mark.parametrize("samples", [100, 17_920, 31_999, 32_000, 50_123])
def test_picture_and_sound_are_equally_long(tmp_path, samples):
    """As a stream writes them: whole chunks, the last cut to the length of the speech."""
    speech = np.random.default_rng(0).uniform(-0.3, 0.3, samples).astype(np.float32)
    total = video_frames(samples, 16_000, 25)
    with VideoWriter(tmp_path / "a.mp4", 16, 16, fps=25, sample_rate=16_000) as writer:
        for piece in chunk_slices(speech, 16_000, 25, 28):
            writer.write_frames(np.zeros((min(28, total - writer.frames_written), 16, 16, 3), np.uint8))
            writer.write_audio(piece[: samples - writer.samples_written])
    with av.open(str(tmp_path / "a.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert abs(video.duration * video.time_base - total / Fraction(25)) < Fraction(1, 1000)
        assert abs(float(audio.duration * audio.time_base) - samples / 16_000) < 1 / 25
    decoded = read_video(tmp_path / "a.mp4")
    assert abs(len(decoded.frames) / 25 - samples / 16_000) < 1 / 25
    assert abs(len(decoded.sound.samples) - samples) / 16_000 < 1 / 25


def test_same_input_gives_the_same_bytes(tmp_path):
    frames, samples = moving(40, 64, 96), tone(16_000, 1.6)
    digests = set()
    for index in range(6):
        with VideoWriter(tmp_path / f"{index}.mp4", 64, 96, fps=25, sample_rate=16_000) as writer:
            writer.write_frames(frames)
            writer.write_audio(samples)
        digests.add(hashlib.sha256((tmp_path / f"{index}.mp4").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_pieces_do_not_change_what_is_shown(tmp_path):
    frames, samples = moving(40, 32, 32), tone(16_000, 1.6)
    with VideoWriter(tmp_path / "whole.mp4", 32, 32, fps=25, sample_rate=16_000) as writer:
        writer.write_frames(frames)
        writer.write_audio(samples)
    with VideoWriter(tmp_path / "pieces.mp4", 32, 32, fps=25, sample_rate=16_000) as writer:
        writer.write_audio(samples[:777])
        for frame in frames:
            writer.write_frames(frame[None])
        writer.write_audio(samples[777:777])
        writer.write_audio(samples[777:])
    whole, pieces = read_video(tmp_path / "whole.mp4"), read_video(tmp_path / "pieces.mp4")
    np.testing.assert_array_equal(whole.frames, pieces.frames)
    np.testing.assert_array_equal(whole.sound.samples, pieces.sound.samples)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError("a chunk failed"), SystemExit(3)])
@pytest.mark.parametrize("frames", [0, 40])
def test_interrupted_writer_leaves_nothing(tmp_path, interruption, frames):
    with pytest.raises(interruption if isinstance(interruption, type) else type(interruption)):  # noqa: SIM117
        with VideoWriter(tmp_path / "a.mp4", 32, 32, fps=25, sample_rate=16_000) as writer:
            writer.write_frames(np.zeros((frames, 32, 32, 3), np.uint8))
            raise interruption
    assert os.listdir(tmp_path) == []


def test_ctrl_c_in_a_process_leaves_nothing(tmp_path):
    script = f"""
        import numpy as np, signal, time
        from livetalk_jax.media import VideoWriter
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs do not heed it
        with VideoWriter({str(tmp_path / "a.mp4")!r}, 32, 32, fps=25) as writer:
            writer.write_frames(np.zeros((60, 32, 32, 3), np.uint8))
            print("ready", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        assert len(os.listdir(tmp_path)) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(300) != 0
    assert os.listdir(tmp_path) == []


def test_full_disk_leaves_nothing(tmp_path):
    script = f"""
        import numpy as np, resource
        from livetalk_jax.media import VideoWriter
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        with VideoWriter({str(tmp_path / "a.mp4")!r}, 64, 64, fps=25) as writer:
            writer.write_frames(np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert result.stderr.strip().endswith(f"OSError: cannot write {tmp_path / 'a.mp4'}: File too large")
    assert os.listdir(tmp_path) == []


def test_failure_keeps_the_video_that_was_there(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"precious")
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 32, 32, fps=25) as writer:
        writer.write_frames(np.zeros((3, 32, 32, 3), np.uint8))
        raise RuntimeError
    assert (tmp_path / "a.mp4").read_bytes() == b"precious"
    with VideoWriter(tmp_path / "a.mp4", 32, 32, fps=25) as writer:
        writer.write_frames(np.zeros((3, 32, 32, 3), np.uint8))
    assert len(read_video(tmp_path / "a.mp4").frames) == 3


def test_file_mode_follows_the_umask(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 32, 32, fps=25) as writer:
        writer.write_frames(np.zeros((3, 32, 32, 3), np.uint8))
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.mp4").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writer_refuses_on_construction(tmp_path):
    def refused(kind, match, path="a.mp4", height=32, width=32, **options):
        with pytest.raises(kind, match=match) as error:
            VideoWriter(tmp_path / path, height, width, fps=25, **options)
        one_line(error)

    refused(FileNotFoundError, f"cannot write .*: the folder {tmp_path}/none does not exist", path="none/a.mp4")
    refused(ValueError, r"a\.avi must have a name that ends in \.mp4", path="a.avi")
    refused(ValueError, "both sizes must be even", height=33)
    refused(ValueError, "both sizes must be even", width=0)
    refused(ValueError, "AAC sound cannot have 17000 samples a second", sample_rate=17_000)
    (tmp_path / "folder.mp4").mkdir()
    refused(IsADirectoryError, "it is a folder", path="folder.mp4")
    (tmp_path / "file").touch()
    refused(FileNotFoundError, "does not exist", path="file/a.mp4")
    refused(OSError, "cannot write .*: File name too long", path="a" * 300 + ".mp4")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4"]
    with pytest.raises(OSError, match=r"cannot write /proc/a\.mp4: ") as error:
        VideoWriter("/proc/a.mp4", 32, 32, fps=25)
    one_line(error)


def test_writer_refuses_wrong_arrays(tmp_path):
    for frames in (np.zeros((1, 32, 32, 3)), np.zeros((1, 32, 30, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)):
        with (
            pytest.raises(ValueError, match=r"must be uint8 \[F, 32, 32, 3\]"),
            VideoWriter(tmp_path / "a.mp4", 32, 32, fps=25) as writer,
        ):
            writer.write_frames(frames)
    with pytest.raises(ValueError, match="takes no sound"), VideoWriter(tmp_path / "a.mp4", 32, 32, fps=25) as writer:
        writer.write_audio(np.zeros(5, np.float32))
    with (
        pytest.raises(ValueError, match="must be mono"),
        VideoWriter(tmp_path / "a.mp4", 32, 32, fps=25, sample_rate=16_000) as writer,
    ):
        writer.write_audio(np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="no frames"), VideoWriter(tmp_path / "a.mp4", 32, 32, fps=25):
        pass
    assert os.listdir(tmp_path) == []


def test_read_video_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match=r"speech\.flac has no picture stream"):
        read_video(SAMPLES / "speech.flac")


def test_contact_sheet():
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 6, 8, 3), np.uint8)
    sheet = np.asarray(contact_sheet(frames, columns=3, rows=2, gap=2))
    assert sheet.shape == (2 * 8 + 2, 3 * 10 + 2, 3)
    assert [sheet[2 + 8 * row, 2 + 10 * column, 0] for row in range(2) for column in range(3)] == [0, 2, 4, 5, 7, 9]
    assert (sheet[:2] == 255).all()
