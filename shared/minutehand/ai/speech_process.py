"""Transcribes one chunk of audio in a separate process that speech_offline.py starts.

The process reads raw samples from standard input, and writes one JSON object per line. The first
lines contain the share of the audio that is transcribed, and the last line contains the words. The
process imports no module of the package, so that it starts fast.
"""

import ctypes
import json
import os
import resource
import signal
import sys

#: Bytes of audio per call of the decoder, which is a quarter of a second.
STEP_BYTES = 8_000
_PR_SET_PDEATHSIG = 1


def main(parent: int, seconds: int) -> int:
    """Transcribe audio within `seconds` of CPU time. On Linux, end when the parent process ends."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            return 1
    from pocketsphinx import Decoder

    audio = sys.stdin.buffer.read()
    decoder = Decoder(samprate=16000, loglevel="FATAL")
    decoder.start_utt()
    for start in range(0, len(audio), STEP_BYTES):
        decoder.process_raw(audio[start : start + STEP_BYTES])
        if start // STEP_BYTES % 8 == 0:
            print(json.dumps({"done": min(1.0, (start + STEP_BYTES) / len(audio))}), flush=True)
    decoder.end_utt()
    segments = decoder.seg() or ()
    words = [(part.word, part.start_frame, part.end_frame) for part in segments]
    print(json.dumps({"words": words}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
