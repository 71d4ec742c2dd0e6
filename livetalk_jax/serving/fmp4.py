"""Frames and sound into fragmented MP4 for MediaSource: H.264 and AAC, a fragment every few frames, nothing held back."""

from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

from livetalk_jax.serving.model import FPS, SAMPLE_RATE, TICK

FRAGMENT_FRAMES = 4
# AAC's frames are 1,024 samples whatever the rate, and pictures wait for the sound beside them: 21 ms at 48 kHz, 64 ms at 16 kHz.
AAC_RATE = 48_000


class _Pipe:
    """What the muxer writes to; it never seeks in fragments."""

    def __init__(self):
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data


class FragmentMuxer:
    """One MP4 that goes on for ever. `init` are the bytes that come before all fragments, `mime` is for addSourceBuffer.

    Args:
        height, width: pixels, even.
        start: the number of frames that the stream's time line begins after.
    """

    def __init__(self, height: int, width: int, start: int = 0):
        self._frames = self._start = start
        self._pipe = _Pipe()
        options = {
            # The time line may begin later than 0: without these it would be moved there.
            "avoid_negative_ts": "disabled",
            "use_editlist": "0",
            "movflags": "empty_moov+default_base_moof+skip_trailer+frag_discont",
            "frag_duration": str(FRAGMENT_FRAMES * 1_000_000 // FPS - 1),
            "flush_packets": "1",
        }
        self._container = av.open(self._pipe, "w", format="mp4", options=options, buffer_size=1 << 16)
        self._video = self._container.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", "tune": "zerolatency", "crf": "23", "threads": "1", "bf": "0"}
        )
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        context = self._video.codec_context
        context.time_base = Fraction(1, FPS)
        context.gop_size = 2 * FPS
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # limited
        self._audio = self._container.add_stream("aac", rate=AAC_RATE, layout="mono")
        self._resampler = av.AudioResampler(format="fltp", layout="mono", rate=AAC_RATE)
        self._audio.bit_rate = 64_000
        self._container.start_encoding()
        self.init = self._pipe.take()
        # The extradata begins with avcC's version, or with the start code and type of a sequence parameter set; the profile is next.
        extradata = context.extradata or b""
        profile = extradata[1:4] if extradata[:1] == b"\x01" else extradata[5:8]
        self.mime = f'video/mp4; codecs="avc1.{profile.hex()}, mp4a.40.2"'
        self._last_pts = [0.0, 0.0]

    @property
    def frames(self) -> int:
        """The time line's end, in frames."""
        return self._frames

    def add(self, frames: Sequence[np.ndarray], sounds: Sequence[np.ndarray]) -> bytes:
        """Encode frames uint8 [Y, X, 3] with their int16 [640]; the bytes of the fragments that are complete, maybe none."""
        for pixels, sound in zip(frames, sounds, strict=True):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = rgb.reformat(
                format="yuv420p", src_colorspace="ITU601", dst_colorspace="ITU709", src_color_range="JPEG", dst_color_range="MPEG"
            )
            frame.pts, frame.time_base = self._frames, Fraction(1, FPS)
            self._mux(self._video.encode(frame), 0)
            piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = SAMPLE_RATE, self._frames * TICK, Fraction(1, SAMPLE_RATE)
            for part in self._resampler.resample(piece):
                self._mux(self._audio.encode(part), 1)
            self._frames += 1
        return self._pipe.take()

    def _mux(self, packets: list[av.Packet], stream: int) -> None:
        for packet in packets:
            # The encoder's priming comes before the first sample; without it sound and picture begin together.
            if packet.pts is not None and packet.pts * packet.time_base >= Fraction(self._start, FPS):
                self._container.mux(packet)
                self._last_pts[stream] = float((packet.pts + (packet.duration or 0)) * packet.time_base)

    def skew(self) -> float:
        """How far the sound is ahead of the picture in what was written, in seconds; AAC comes in frames of 21 ms."""
        return self._last_pts[1] - self._last_pts[0]

    def close(self) -> bytes:
        """What the encoders still held."""
        self._mux(self._video.encode(None), 0)
        self._mux(self._audio.encode(None), 1)
        self._container.close()
        return self._pipe.take()
