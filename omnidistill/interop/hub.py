"""`hub:ORGANISATION/NAME[@REVISION]` in place of a teacher's folder: a snapshot of a model repository, where there is a
network. Configurations, tokenizers and safetensors alone are fetched; nothing that could be run."""

from __future__ import annotations

import re

from omnidistill.errors import UserError

PREFIX = "hub:"
FORM = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")


def fetched(teacher: str) -> str:
    """The folder of the snapshot, in the library's own cache; any other text as it is. A snapshot that is there already
    needs no network.

    Raises:
        UserError: not of the form, the library is not installed, or the repository cannot be had.
    """
    if not teacher.startswith(PREFIX):
        return teacher
    form = FORM.fullmatch(teacher)
    if form is None:
        raise UserError(
            f"teacher={teacher} is not of the form hub:ORGANISATION/NAME or hub:ORGANISATION/NAME@REVISION"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"teacher={teacher} needs huggingface_hub, which comes with the extra [diffusers]"
        ) from error
    try:
        return str(snapshot_download(form[1], revision=form[2], allow_patterns=list(WANTED)))
    except Exception as error:  # of its transport, of the disk, of the service: each has classes of its own
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"teacher={teacher} could not be fetched ({why}); download it and give its folder"
        ) from error
