"""One session's time line, driven by hand: no clock, no thread, no network."""

import numpy as np
import pytest

from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.model import TICK
from livetalk_jax.serving.timeline import JITTER_TICKS, QUIET_TICKS, Event, Tick, Timeline
from tests.serving.card import CHUNK, FIRST, MOTION, SIZE, State, TestCard, read

STILL = np.full((*SIZE, 3), 7, np.uint8)
FLOOR = 6


def loud(frames):
    """Speech as long as so many frames, every sample different."""
    return (1000 + np.arange(round(frames * TICK)) % 20_000).astype(np.int16)


class Driver:
    """A time line with a model that makes the first frames of a chunk in `delay` ticks, and the others in one more.

    Before that it does something else for `turn` ticks, until there is speech.
    """

    def __init__(self, delay=3, shown=None, turn=0):
        self.card, self.delay, self.turn, self.waited = TestCard(), delay, turn, 0
        self.line = Timeline(STILL, chunk_frames=CHUNK, motion_frames=MOTION, shown=shown)
        self.line.state, self.line.floor = State(7, 0), FLOOR
        self.work, self.finished = None, []
        self.items = []

    def run(self, ticks):
        """The ticks of so many steps of time."""
        first = len(self.items)
        for _ in range(ticks):
            wanted = self.work is None and self.line.wants()
            self.waited += wanted
            if wanted and self.waited > self.turn:
                work, self.waited = self.line.begin(), 0
                self.turn = 0 if work.spoken else self.turn
                state = work.state if work.rewind is None else self.card.rewind(work.state, *work.rewind)
                pieces, state = self.card.step(state, work.speech.astype(np.float32) / 32768)
                self.work = [self.delay, work, pieces, state]
            self.items += self.line.tick()
            if self.work is not None:
                self.work[0] -= 1
                if self.work[0] <= 0:
                    self.advance(*self.work[1:])
        return [item for item in self.items[first:] if isinstance(item, Tick)]

    def advance(self, work, pieces, state):
        self.line.take(work, next(pieces), state)
        if self.work[0] < 0:
            self.finished.append(self.line.finish(work))
            self.work = None

    def events(self, name=None):
        return [item for item in self.items if isinstance(item, Event) and name in (None, item.name)]


@pytest.fixture
def driver():
    driver = Driver()
    driver.run(driver.delay)
    return driver


def spoken(ticks):
    return np.concatenate([tick.sound for tick in ticks if tick.speaking])


def test_idle_goes_on_without_a_gap(driver):
    ticks = driver.run(500)
    assert [read(tick.frame)[0] for tick in ticks] == list(range(500))
    assert not any(tick.held or tick.speaking or tick.sound.any() for tick in ticks)
    assert all(tick.sound.shape == (TICK,) and tick.sound.dtype == np.int16 for tick in ticks)
    assert not driver.card.rewinds and not driver.events()


@pytest.mark.parametrize("frames", [1, 27.3, 28, 60, 100.01])
def test_speech_comes_out_whole_with_its_pictures(driver, frames):
    driver.run(20)
    speech = loud(frames)
    driver.line.push(speech)
    driver.line.end_segment()
    ticks = driver.run(300)
    assert not any(tick.held for tick in ticks)
    said = spoken(ticks)
    np.testing.assert_array_equal(said[: len(speech)], speech)
    assert not said[len(speech) :].any() and len(said) - len(speech) < TICK
    for tick in ticks:
        assert read(tick.frame)[1] == tick.speaking == bool(tick.sound.any())
    started, ended = driver.events()
    assert (started.name, ended.name) == ("speech_started", "speech_ended")
    assert ended.fields["played_seconds"] == pytest.approx(len(speech) / 16_000)
    assert ended.number - started.number == -(-len(speech) // TICK)


def test_idle_frames_that_nobody_saw_make_way_for_speech(driver):
    """All but those shown while the chunk is made; it goes on from the last one that is."""
    driver.run(8)
    assert driver.line.ahead == CHUNK - 8
    driver.line.push(loud(40))
    ticks = driver.run(60)
    start = next(i for i, tick in enumerate(ticks) if tick.speaking)
    assert start == FLOOR + JITTER_TICKS
    numbers = [read(tick.frame)[0] for tick in ticks]
    assert numbers == list(range(8, 68))  # the card counts on from the frames that it is given: no jump
    frames, dropped = driver.card.rewinds[0]
    assert dropped == CHUNK - 8 - start
    assert [read(frame)[0] for frame in frames] == [numbers[start - 1] - i for i in reversed(range(MOTION))]


@pytest.mark.parametrize(("turn", "floor"), [(0, FLOOR), (20, CHUNK)])
@pytest.mark.parametrize("begin", range(0, 2 * CHUNK, 6))
def test_live_speech_has_no_gap(turn, floor, begin):
    """It arrives as fast as it is spoken, in pieces of two and a half ticks, whatever is in hand when it begins."""
    driver = Driver(turn=turn)
    driver.line.floor = floor
    driver.run(begin)
    speech, ticks = loud(200), []
    for begin in range(0, len(speech), 5 * TICK // 2):
        driver.line.push(speech[begin : begin + 5 * TICK // 2])
        ticks += driver.run(2 + (begin // (5 * TICK // 2)) % 2)
    driver.line.end_segment()
    ticks += driver.run(100)
    np.testing.assert_array_equal(spoken(ticks)[: len(speech)], speech)
    speaking = np.flatnonzero([tick.speaking for tick in ticks])
    assert np.ptp(speaking) == len(speaking) - 1 == 199


@pytest.mark.parametrize("rest", range(0, CHUNK, 3))
def test_the_last_words_of_live_speech_do_not_wait_for_its_end(driver, rest):
    """Nothing says that it is over but half a second without it, when the chunk before is nearly shown."""
    speech, ticks = loud(2 * CHUNK + rest), []
    for begin in range(0, len(speech), TICK):
        driver.line.push(speech[begin : begin + TICK])
        ticks += driver.run(1)
    ticks += driver.run(100)
    np.testing.assert_array_equal(spoken(ticks), speech)
    assert np.ptp(np.flatnonzero([tick.speaking for tick in ticks])) == len(speech) // TICK - 1


def test_speech_without_a_mark_ends_by_itself(driver):
    driver.line.push(loud(3))
    ticks = driver.run(QUIET_TICKS + 60)
    assert sum(tick.speaking for tick in ticks) == 3
    assert [event.name for event in driver.events()] == ["speech_started", "speech_ended"]


def test_a_mark_after_all_was_heard_ends_the_segment(driver):
    driver.line.push(loud(CHUNK))
    ticks = driver.run(60)
    assert sum(tick.speaking for tick in ticks) == CHUNK
    driver.line.end_segment()
    assert len(driver.events("speech_ended")) == 1
    driver.line.push(loud(2))
    driver.line.end_segment()
    driver.run(60)
    assert [event.fields["played_seconds"] for event in driver.events("speech_ended")] == [CHUNK / 25, 2 / 25]


def test_segments_follow_one_another(driver):
    for frames in (10, 20, 30):
        driver.line.push(loud(frames))
        driver.line.end_segment()
    ticks = driver.run(100)
    assert sum(tick.speaking for tick in ticks) == 60
    assert [event.fields["played_seconds"] for event in driver.events("speech_ended")] == [0.4, 0.8, 1.2]
    assert len(driver.events("speech_started")) == 3


def test_interruption(driver):
    driver.line.push(loud(200))
    before = driver.run(40)
    event = driver.line.interrupt()
    assert event.name == "interrupted" and event.fields["was_speaking"]
    assert event.fields["generation"] == driver.line.generation == 1
    shown = sum(tick.speaking for tick in before) / 25
    assert event.fields["played_seconds"] == pytest.approx(shown)
    assert event.fields["dropped_seconds"] == pytest.approx(8 - shown)
    after = driver.run(60)
    assert not any(tick.speaking or tick.sound.any() for tick in after)
    assert {tick.generation for tick in after} == {1}
    # The last frame stands still for as long as a chunk takes (and the one under way), then goes on from where it stood.
    still = sum(tick.held for tick in after)
    assert 0 < still <= 2 * driver.delay
    assert all(read(tick.frame)[0] == read(before[-1].frame)[0] for tick in after[:still])
    assert read(after[still].frame)[0] == read(before[-1].frame)[0] + 1
    assert driver.events("resumed")[0].number == after[still].number
    driver.line.push(loud(5))
    driver.line.end_segment()
    assert sum(tick.speaking for tick in driver.run(60)) == 5


def test_interrupting_silence_changes_no_picture(driver):
    driver.run(10)
    driver.line.push(loud(3))
    event = driver.line.interrupt()
    assert not event.fields["was_speaking"]
    ticks = driver.run(100)
    assert not any(tick.held or tick.speaking for tick in ticks)
    assert [read(tick.frame)[0] for tick in ticks] == list(range(10, 110))


@pytest.mark.parametrize(("spoken_frames", "cut"), [(28, True), (2, False)])
def test_interruption_between_the_pieces_of_a_chunk(spoken_frames, cut):
    """Frames of it were shown: the model is told what they were, and how many of its others are not."""
    driver = Driver(delay=1)
    driver.line.push(loud(spoken_frames))
    driver.line.end_segment()
    driver.run(1)  # the first piece is there
    assert driver.line.ahead == FIRST and driver.line.state.next == CHUNK
    shown = driver.line.tick() + driver.line.tick() + driver.line.tick()
    assert [read(item.frame)[0] for item in shown if isinstance(item, Tick)] == [0, 1, 2]
    driver.line.interrupt()
    after = driver.run(40)
    numbers = [read(tick.frame)[0] for tick in after]
    assert driver.finished[0] != cut and not any(tick.speaking for tick in after)
    if not cut:  # what was to be said had been said
        assert numbers == list(range(3, 43)) and not driver.card.rewinds
        return
    frames, dropped = driver.card.rewinds[0]
    assert dropped == CHUNK - 3
    assert [read(frame)[0] for frame in frames] == [0, 0, 0, 1, 2]
    held = sum(tick.held for tick in after)
    assert numbers == [2] * held + list(range(3, 43 - held)) and 0 < held <= 2


def test_a_hundred_interruptions_in_a_row(driver):
    for i in range(100):
        driver.line.push(loud(i))
        assert driver.line.interrupt().fields["generation"] == i + 1
        driver.run(i % 4)
    driver.line.push(loud(10))
    driver.line.end_segment()
    assert sum(tick.speaking for tick in driver.run(80)) == 10


def test_a_late_model_delays_sound_and_picture_alike():
    driver = Driver(delay=40)
    speech = loud(100)
    driver.line.push(speech)
    driver.line.end_segment()
    ticks = driver.run(400)
    assert any(tick.held for tick in ticks[60:100])
    np.testing.assert_array_equal(spoken(ticks), speech)
    assert all(read(tick.frame)[1] == tick.speaking for tick in ticks if not tick.held and tick.number > 40)
    assert not any(tick.sound.any() for tick in ticks if tick.held)


def test_carrying_on_elsewhere(driver):
    """The last frames shown are all that another replica needs."""
    driver.run(17)
    other = Driver(shown=driver.line.motion())
    ticks = other.run(50)
    assert [read(tick.frame)[0] for tick in ticks if not tick.held] == list(range(17, 17 + 50 - other.delay))


def test_too_much_speech_is_refused_whole(driver):
    driver.line.push(loud(2900))
    with pytest.raises(ServingError) as refusal:
        driver.line.push(loud(200))
    assert refusal.value.code == "audio_overflow" and refusal.value.retryable
    assert driver.line.pending == 2900 * TICK
    driver.line.push(loud(50))


def test_an_hour_of_silence():
    """Compressed: every tick of it, with a card of few pixels' work."""
    driver = Driver(delay=1)
    ticks = held = 0
    for _ in range(900):
        ticks += 100
        held += sum(tick.held for tick in driver.run(100))
        driver.items.clear()
    assert ticks == 90_000 and held == 1  # before the first chunk
    assert driver.card.steps == pytest.approx(90_000 / CHUNK, abs=2)
    driver.line.push(loud(3))
    driver.line.end_segment()
    assert sum(tick.speaking for tick in driver.run(50)) == 3
