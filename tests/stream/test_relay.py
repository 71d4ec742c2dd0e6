"""A model over several processes: the others do what the first does, and forget what it forgets."""

import gc
import threading
from multiprocessing import Pipe

import numpy as np
import pytest

from livetalk_jax.stream.relay import Leader, follow


class Counter:
    """In place of an avatar: a state is the list of what was done to it."""

    sizes, chunk_frames, motion_frames = ((2, 2),), 3, 1

    def __init__(self):
        self.done = []

    def start(self, portrait, prompt, seed):
        return [("start", int(portrait[0]), prompt, seed)]

    def step(self, state, speech):
        if speech[0] < 0:
            raise RuntimeError("no")
        after = [*state, ("step", float(speech[0]))]

        def pieces():
            yield speech
            self.done.append(after)

        return pieces(), after

    def rewind(self, state, frames, dropped):
        return [*state, ("rewind", int(frames[0]), dropped)]


def test_followers_do_the_same():
    here, there = Pipe()
    first, second = Counter(), Counter()
    thread = threading.Thread(target=follow, args=(second, there))
    thread.start()
    leader = Leader(first, [here])
    state = leader.start(np.array([7]), "Hello.", 3)
    other = leader.start(np.array([8]), None, 4)
    for i in range(5):
        pieces, state = leader.step(state, np.array([i, 0.0]))
        assert [piece[0] for piece in pieces] == [i]
        pieces, other = leader.step(leader.rewind(other, np.array([i]), i), np.array([10.0 + i]))
        assert len(list(pieces)) == 1
        gc.collect()
    with pytest.raises(RuntimeError, match="no"):
        leader.step(state, np.array([-1.0]))
    pieces, state = leader.step(state, np.array([99.0]))
    assert len(list(pieces)) == 1
    leader.close()
    thread.join(60)
    assert not thread.is_alive()
    assert second.done == first.done and len(first.done) == 11
    assert state.state == first.done[-1]


def test_states_that_nobody_holds_are_forgotten():
    here, there = Pipe()
    leader = Leader(Counter(), [here])
    state = leader.start(np.array([1]), None, 0)
    for i in range(10):
        _, state = leader.step(state, np.array([float(i)]))
    del state
    gc.collect()
    leader.start(np.array([2]), None, 0)
    sent = []
    while there.poll():
        sent.append(there.recv())
    forgotten = [number for *_, old in sent for number in old]
    assert sorted(forgotten) == list(range(11))
    assert [number for _, number, *_ in sent] == list(range(12))


def test_a_process_that_is_gone_is_noticed():
    here, there = Pipe()
    leader = Leader(Counter(), [Pipe()[0], here])
    with pytest.raises(ConnectionError, match="process 1 of the model is gone"):
        leader.check()  # the pipe's other end was dropped at once
    other, kept = Pipe()
    leader = Leader(Counter(), [other, here])
    leader.check()
    there.close()
    with pytest.raises(ConnectionError, match="process 2 of the model is gone"):
        leader.check()
    kept.close()
