"""`omnidistill.teacher(PATH)`: what a folder holds, as a denoiser to distil from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnidistill.brought import Foreign
from omnidistill.configuration.instantiation import build, trusting
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.interop import folder as libraries
from omnidistill.student import read_denoiser, read_recipe


def teacher(path: str | Path, *, trust: Sequence[str] = (), **options: Any) -> Denoiser:
    """The teacher in a folder: of `omnidistill train` or `distill`, of diffusers, or of transformers.

    A masked language model is asked in its tokenizer's numbers, and the mask is `teacher.path.mask_id`, whichever token
    it is in the model itself.

    Args:
        path: the folder.
        trust: packages of yours that a task of its description may be built from.
        options: that the folder does not say, e.g. `mask_token="<|mask|>"`, `tokenizer="other/tokenizer.json"`.

    Raises:
        UserError: nothing there, or nothing that is read, with what would mend it.

    Example:
        >>> teacher = omnidistill.teacher("my_masked_model")
        >>> student = omnidistill.distill(teacher, "sdtt", data=tokens, updates=1000)
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"'{path}' is no folder; give that of a teacher, of diffusers or of transformers")
    kind = next((name for name in ("teacher", "student") if (folder / f"{name}.json").is_file()), None)
    if kind is not None:
        if options:
            raise UserError(f"'{path}' says all that it is; leave {', '.join(options)} out")
        described = read_recipe(folder, kind).task
        if described is None:
            raise UserError(f"the {kind} in '{path}' was made from a module of your own, which no file holds")
        return read_denoiser(folder, kind, build(trusting(described, trust)), trust=trust)[0]
    known = libraries.describe(folder, options)
    if known is None:
        raise UserError(
            f"'{path}' holds neither a teacher of omnidistill nor a model of diffusers or transformers"
        )
    foreign: Foreign = build(known["foreign"])
    return foreign.opened(folder)
