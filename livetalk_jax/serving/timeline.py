"""One session's timeline: speech in, frames and their sound out, one a tick. No clock, no thread: whoever holds it drives it.

    work = timeline.begin()             when `timeline.wants()`
    timeline.take(work, frames, state)  piece by piece: made by the model out of work.speech, after a rewind if work.rewind says so
    timeline.finish(work)
    items = timeline.tick()             every 40 ms: what happened, then the frame to show

Sound waits with its picture: both lie in one queue, and a model that is late delays both.
"""

from collections import deque
from typing import Any, NamedTuple

import numpy as np

from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.model import FPS, SAMPLE_RATE, TICK

# Speech that stops without a mark is taken for ended after this many ticks, unless a session is told otherwise.
QUIET_TICKS = FPS // 2
# Live speech is as long as the time it takes to speak it: with no slack, a packet a little late would have a pause inserted.
JITTER_TICKS = 3
# What a session may send ahead of what is heard.
MAX_PENDING_SECONDS = 120
_SILENCE = np.zeros(TICK, np.int16)
_SILENCE.flags.writeable = False


class Tick(NamedTuple):
    """One frame and exactly its sound.

    Attributes:
        number: of the tick, from 0, 25 a second.
        frame: uint8 [Y, X, 3]; not to be written to.
        sound: int16 [640] at 16 kHz.
        generation: how often the session was interrupted before this frame was shown.
        speaking: the sound is speech that was sent, not silence between.
        held: nothing new was ready, so this is the frame before once more, with silence.
    """

    number: int
    frame: np.ndarray
    sound: np.ndarray
    generation: int
    speaking: bool
    held: bool


class Event(NamedTuple):
    """Something that happens to a session just before tick `number`; `fields` go to the client as they are."""

    number: int
    name: str
    fields: dict[str, Any]


class Work(NamedTuple):
    """One chunk to make.

    Attributes:
        state: to go on from.
        speech: int16 [chunk], filled up with silence.
        spoken: samples of it that are speech.
        rewind: None, or the frames that are really shown and how many made after them never will be.
        epoch: tells work that came too late.
    """

    state: Any
    speech: np.ndarray
    spoken: int
    rewind: tuple[np.ndarray, int] | None
    epoch: int


class _Shot(NamedTuple):
    frame: np.ndarray
    sound: np.ndarray
    speaking: bool
    until: int  # samples of speech that have been heard after it


class Timeline:
    """Args:
    still: uint8 [Y, X, 3], the portrait as the video shows it.
    shown: uint8 [n, Y, X, 3], frames that another replica showed before, to go on from.

    Attributes:
        state: the model's; nothing is made before it is set.
        quiet_ticks: without speech that end a segment; None: only marks do.
        floor: frames that must be in hand when a chunk is begun; the engine knows how long one takes.
        in_segment: speech was begun and not ended.
        cut_short: nothing new was shown since an interruption.
    """

    def __init__(self, still: np.ndarray, *, chunk_frames: int, motion_frames: int, shown: np.ndarray | None = None):
        self.generation = 0
        self.ticks = 0
        self.floor = chunk_frames
        self.quiet_ticks: int | None = QUIET_TICKS
        self.state: Any = None
        self.in_segment = self.cut_short = False
        self._still = still
        self._chunk_frames, self._motion_frames = chunk_frames, motion_frames
        self._shots: deque[_Shot] = deque()
        self._shown: deque[np.ndarray] = deque([] if shown is None else list(shown), maxlen=motion_frames)
        self._working: Work | None = None
        self._made = 0  # frames of it
        self._epoch = 0
        self._dropped = 0  # frames that the state knows and nobody will see
        self._elsewhere = shown is not None  # the state does not know what was shown
        # Speech, counted in samples since the session began: heard ≤ taken ≤ pushed.
        self._speech: deque[np.ndarray] = deque()
        self._pushed = self._taken = self._heard = 0
        self._marks: deque[int] = deque()  # where segments end
        self._marked = 0
        self._segment_start = 0
        self._quiet = 0

    # In

    def push(self, samples: np.ndarray) -> None:
        """Speech, int16 at 16 kHz.

        Raises:
            ServingError: too far ahead of what is heard; nothing of it is taken.
        """
        if self.pending + len(samples) > MAX_PENDING_SECONDS * SAMPLE_RATE:
            raise ServingError(
                "audio_overflow", f"more than {MAX_PENDING_SECONDS} s of speech are waiting to be said; send it later"
            )
        if len(samples):
            self._speech.append(samples)
            self._pushed += len(samples)
            self._quiet = 0

    def end_segment(self) -> None:
        """What was sent so far is complete: say it without waiting for more."""
        if self._pushed > self._marked:
            self._marks.append(self._pushed)
            self._marked = self._pushed

    def interrupt(self) -> Event:
        """Drop all speech that was not heard, and the frames made for it; `generation` is one more at once."""
        self.generation += 1
        cut = next((i for i, shot in enumerate(self._shots) if shot.speaking), len(self._shots))
        if cut < len(self._shots) or (self._working is not None and self._working.spoken > self._made * TICK):
            self._epoch += 1
        self._cut(cut)
        fields = {
            "generation": self.generation,
            "was_speaking": self.in_segment,
            "played_seconds": (self._heard - self._segment_start) / SAMPLE_RATE,
            "dropped_seconds": (self._pushed - self._heard) / SAMPLE_RATE,
        }
        self._speech.clear()
        self._marks.clear()
        self._taken = self._heard = self._marked = self._segment_start = self._pushed
        self.in_segment, self.cut_short = False, True
        return Event(self.ticks, "interrupted", fields)

    # Work

    @property
    def pending(self) -> int:
        """Samples of speech that no chunk has taken."""
        return self._pushed - self._taken

    @property
    def ahead(self) -> int:
        """Frames that are ready to be shown."""
        return len(self._shots)

    @property
    def speaking(self) -> bool:
        """Speech is being said or waits to be."""
        return self.in_segment or self._pushed > self._heard

    def _ready(self) -> bool:
        """All that there will be of the speech; or enough for a chunk, and for the next to follow it without a pause."""
        if self._marked == self._pushed:
            return self.pending > 0
        if self.pending < self._chunk_frames * TICK:
            return False
        return self._goes_on() or len(self._shots) + self.pending // TICK >= self.floor + self._chunk_frames + JITTER_TICKS

    def _goes_on(self) -> bool:
        """The last frame in hand speaks, and what waits is of the same segment."""
        return (self._shots[-1].speaking if self._shots else self.in_segment) and self._marked != self._taken

    def _last_words(self) -> int:
        """Samples that must not wait behind a chunk of silence: the rest of what has ended, or all there is of what goes on."""
        return max(0, self._marked - self._taken) or self.pending * self._goes_on()

    def _idle_tail(self) -> int:
        """Frames at the end of the queue in which nobody speaks."""
        return next((i for i, shot in enumerate(reversed(self._shots)) if shot.speaking), len(self._shots))

    def wants(self) -> bool:
        """Whether a chunk should be begun now."""
        if self._working is not None or self.state is None:
            return False
        if self._ready():
            return len(self._shots) - self._idle_tail() <= self.floor + self._chunk_frames
        return len(self._shots) <= self.floor

    def begin(self) -> Work:
        """The next chunk's work. For speech, idle frames go that would only keep it waiting."""
        chunk = self._chunk_frames * TICK
        spoken = self._take(chunk if self._ready() else min(chunk, self._last_words()))
        if len(spoken):
            self._cut(max(len(self._shots) - self._idle_tail(), self.floor + JITTER_TICKS))
        rewind = None
        if self._dropped or self._elsewhere:
            frames = [*self._shown, *(shot.frame for shot in self._shots)] or [self._still]
            frames = [frames[0]] * (self._motion_frames - len(frames)) + frames[-self._motion_frames :]
            rewind = np.stack(frames), self._dropped
        speech = np.pad(spoken, (0, chunk - len(spoken)))
        self._working, self._made = Work(self.state, speech, len(spoken), rewind, self._epoch), 0
        return self._working

    def take(self, work: Work, frames: np.ndarray, state: Any) -> None:
        """Take in the next frames of a chunk, uint8 [n, Y, X, 3], if they do not come too late; state: after all of the chunk."""
        first = self._made
        self._made += len(frames)
        if work.epoch != self._epoch:
            if state is self.state:  # which knows them: those before came in time
                self._dropped += len(frames)
            return
        if work.rewind is not None:
            self._dropped, self._elsewhere = 0, False
        self.state = state
        frames.flags.writeable = False
        until = self._taken - work.spoken
        for i, frame in enumerate(frames, first):
            heard = min(work.spoken, (i + 1) * TICK)
            self._shots.append(_Shot(frame, work.speech[i * TICK : (i + 1) * TICK], i * TICK < work.spoken, until + heard))

    def finish(self, work: Work) -> bool:
        """All frames of a chunk were taken in. False: some came too late and were thrown away."""
        self._working = None
        return work.epoch == self._epoch

    def _cut(self, keep: int) -> None:
        """Drop frames that nobody has seen, from the end."""
        if len(self._shots) > keep:
            self._dropped += len(self._shots) - keep
            while len(self._shots) > keep:
                self._shots.pop()

    def _take(self, count: int) -> np.ndarray:
        pieces, missing = [np.zeros(0, np.int16)], count
        while self._speech and missing:
            piece = self._speech.popleft()
            if len(piece) > missing:
                self._speech.appendleft(piece[missing:])
                piece = piece[:missing]
            pieces.append(piece)
            missing -= len(piece)
        self._taken += count - missing
        return np.concatenate(pieces)

    # Out

    def motion(self) -> np.ndarray:
        """The last shown frames, uint8 [n, Y, X, 3]: what another replica needs to go on."""
        return np.stack(list(self._shown) or [self._still])

    def tick(self) -> list[Tick | Event]:
        """What happened, then the frame of this tick."""
        self._quiet += 1
        if self.quiet_ticks is not None and self._quiet >= self.quiet_ticks:
            self.end_segment()
        shot = self._shots.popleft() if self._shots else None
        items: list[Tick | Event] = []
        if shot is not None:
            self._shown.append(shot.frame)
            if self.cut_short:
                self.cut_short = False
                items.append(Event(self.ticks, "resumed", {"generation": self.generation}))
        speaking = shot is not None and shot.speaking
        if speaking and not self.in_segment:
            self.in_segment = True
            items.append(Event(self.ticks, "speech_started", {"generation": self.generation}))
        frame = shot.frame if shot else (self._shown[-1] if self._shown else self._still)
        items.append(Tick(self.ticks, frame, shot.sound if shot else _SILENCE, self.generation, speaking, shot is None))
        self.ticks += 1
        if shot is not None:
            self._heard = max(self._heard, shot.until)
        while self._marks and self._marks[0] <= self._heard:
            mark = self._marks.popleft()
            fields = {"generation": self.generation, "played_seconds": (mark - self._segment_start) / SAMPLE_RATE}
            items.append(Event(self.ticks, "speech_ended", fields))
            self._segment_start, self.in_segment = mark, False
        return items
