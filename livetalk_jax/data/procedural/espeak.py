"""Speech from libespeak-ng, in a process of its own: this file is a program that needs nothing but Python.

The library keeps a state from one sentence to the next, which is heard: the same sentence sounds different the second time. A fresh
process for each task makes the sound depend on the task alone, and if the library should crash, it does not take the caller along.

The task comes on standard input as JSON: library, data (folders or ""), voice, rate, pitch, range, lines. The answer on standard
output is one line of JSON, with "error" or with "rate" and for each line "samples" and "phonemes" [[name, second], …], and then the
samples of all lines, 16 bits each.
"""

import array
import ctypes
import json
import os
import sys

SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, and Synth returns when all are there
PHONEME_EVENTS, PHONEME_IPA, DONT_EXIT = 1, 2, 0x8000
END, PHONEME = 0, 7  # espeakEVENT_LIST_TERMINATED, espeakEVENT_PHONEME
RATE, PITCH, RANGE = 1, 3, 4  # espeakRATE, espeakPITCH, espeakRANGE
UTF8, POS_CHARACTER = 1, 1


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def speak(task: dict) -> tuple[dict, bytes]:
    library = ctypes.CDLL(task["library"])
    library.espeak_Initialize.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
    library.espeak_Synth.argtypes = (
        *(
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ),
    )
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, task["data"].encode() or None, PHONEME_EVENTS | PHONEME_IPA | DONT_EXIT)
    if rate <= 0:
        raise OSError(f"espeak-ng does not find its data{' in ' + task['data'] if task['data'] else ''}")
    samples, phonemes = array.array("h"), []

    @_Callback
    def take(wave, count, events):
        if wave and count > 0:
            samples.frombytes(ctypes.string_at(wave, 2 * count))
        for event in events:  # ends by break: the list has no length
            if event.type == END:
                break
            if event.type == PHONEME:
                name = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0]
                phonemes.append([name.decode(errors="ignore"), event.audio_position / 1000])
        return 0

    library.espeak_SetSynthCallback(take)
    if library.espeak_SetVoiceByName(task["voice"].encode()):
        raise ValueError(f"espeak-ng has no voice {task['voice']!r}")
    for parameter, value in ((RATE, task["rate"]), (PITCH, task["pitch"]), (RANGE, task["range"])):
        library.espeak_SetParameter(parameter, value, 0)
    lines = []
    for line in task["lines"]:
        samples_before = len(samples)
        phonemes.clear()
        text = line.encode() + b"\0"
        if library.espeak_Synth(text, len(text), 0, POS_CHARACTER, 0, UTF8, None, None):
            raise OSError(f"espeak-ng could not say {line!r}")
        lines.append({"samples": len(samples) - samples_before, "phonemes": list(phonemes)})
    return {"rate": rate, "lines": lines}, samples.tobytes()


def main() -> None:
    try:
        answer, samples = speak(json.load(sys.stdin))
    except (OSError, ValueError) as error:
        answer, samples = {"error": str(error)}, b""
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + samples)
    sys.stdout.buffer.flush()
    os._exit(0)  # the library's own threads are not waited for


if __name__ == "__main__":
    main()
