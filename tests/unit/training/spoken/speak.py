"""Speak the clauses of `recognised.json` again, and have the offline engine recognise them.

Needs espeak-ng and flite (Debian: `apt-get install espeak-ng flite`):

    python -m tests.unit.training.spoken.speak
"""

from __future__ import annotations

import array
import asyncio
import json
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import Any

from minutehand.ai.speech import SAMPLES_PER_SECOND
from minutehand.ai.speech_offline import OfflineSpeechToText
from minutehand_apps.training.media import Ffmpeg, cut, find_ffmpeg
from minutehand_apps.training.settings import TrainingSettings

HERE = Path(__file__).parent
INSTRUCTIONS: list[dict[str, Any]] = json.loads((HERE / "recognised.json").read_text())
#: Quieter than this at the ends of a clause is not speech.
QUIET = 300


def say(voice: str, stretch: float, text: str, folder: Path) -> array.array[int]:
    """One clause as samples, without the silence around it."""
    engine, _, name = voice.partition(":")
    file, plain = folder / "said.wav", folder / "plain.wav"
    slower = f"duration_stretch={stretch}"
    command = ["flite", "-voice", name, "--setf", slower, "-t", text, "-o", str(file)]
    if engine == "espeak":
        command = ["espeak-ng", "-v", name, "-s", "135", "-w", str(file), text]
    subprocess.run(command, check=True, capture_output=True)
    ffmpeg = find_ffmpeg(TrainingSettings())
    rate = str(SAMPLES_PER_SECOND)
    convert = [ffmpeg, "-v", "error", "-y", "-i", str(file), "-ar", rate, "-ac", "1", str(plain)]
    subprocess.run(convert, check=True, capture_output=True)
    with wave.open(str(plain)) as reader:
        samples = array.array("h", reader.readframes(reader.getnframes()))
    loud = [n for n, sample in enumerate(samples) if abs(sample) > QUIET]
    return samples[loud[0] : loud[-1] + 1]


def speak(instruction: dict[str, Any], folder: Path) -> tuple[bytes, list[list[Any]]]:
    """All of an instruction as sound, and when each clause is said: [kind, start, end, text]."""
    sound = array.array("h", bytes(SAMPLES_PER_SECOND))
    said = []
    # as a breath that is no pause: two clauses of one speaker do not overlap
    gap = array.array("h", bytes(2 * round(max(0.03, instruction["pause"]) * SAMPLES_PER_SECOND)))
    for kind, _start, _end, text in instruction["said"]:
        start = len(sound) / SAMPLES_PER_SECOND
        sound += say(instruction["voice"], instruction["stretch"], text, folder)
        said.append([kind, round(start, 2), round(len(sound) / SAMPLES_PER_SECOND, 2), text])
        sound += gap
    return sound.tobytes(), said


async def recognise(sound: bytes, folder: Path) -> list[dict[str, Any]]:
    """The segments of a sound, cut and recognised as the app does it."""
    file, raw = folder / "all.wav", folder / "all.raw"
    with wave.open(str(file), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLES_PER_SECOND)
        writer.writeframes(sound)
    heard = await Ffmpeg(find_ffmpeg(TrainingSettings())).listen(
        file, raw, seconds=60, most_seconds=600
    )
    ear, found = OfflineSpeechToText(), []
    samples = raw.read_bytes()
    for start, end in cut(heard.seconds, heard.pauses):
        first, last = (round(at * SAMPLES_PER_SECOND) * 2 for at in (start, end))
        transcript = await ear.transcribe(samples[first:last])
        for segment in transcript.segments:
            words = [[w.text, round(start + w.start, 2), round(start + w.end, 2)]
                     for w in segment.words]  # fmt: skip
            found.append({"start": words[0][1], "end": words[-1][2], "text": segment.text,
                          "words": words})  # fmt: skip
    return found


def main() -> None:
    """Write `recognised.json`."""
    everything = []
    for instruction in INSTRUCTIONS:
        with tempfile.TemporaryDirectory() as folder:
            sound, said = speak(instruction, Path(folder))
            segments = asyncio.run(recognise(sound, Path(folder)))
        seconds = round(len(sound) / 2 / SAMPLES_PER_SECOND)
        print(instruction["name"], instruction["voice"], seconds, "s")
        everything.append({**instruction, "said": said, "segments": segments})
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in everything)
    (HERE / "recognised.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
