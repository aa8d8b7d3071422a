"""Tokenizers as Hugging Face's libraries save them: a `tokenizer.json`, or a folder with one, or with vocabulary and
merges. No code of a folder is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnidistill.configuration import received
from omnidistill.data.folder import regular, shown
from omnidistill.errors import UserError

LARGEST = 256 << 20  # bytes of a tokenizer's file

OF_MODELS = {"Dream": "Qwen2TokenizerFast"}
"""Of models with a tokenizer class of their own in the folder: the class of the library that reads the same files."""


def read(source: Path) -> Any:
    """The tokenizer of a file or a folder, one of the library `tokenizers`.

    Raises:
        UserError: nothing that is a tokenizer, or its library is missing.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(
            "a tokenizer of your own needs the package `tokenizers` (the extra `text`)"
        ) from error
    file = source / "tokenizer.json" if source.is_dir() else source
    if source.is_dir() and not file.exists():
        return _of_transformers(source)
    regular(file, LARGEST)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise _unreadable(source, error) from error


def _of_transformers(folder: Path) -> Any:
    """A tokenizer saved as vocabulary and merges, which transformers turns into one of tokenizers'."""
    try:
        import transformers

        config = folder / "config.json"
        said = received.read_json(config) if config.is_file() else None
        kind = said.get("model_type") if isinstance(said, dict) else None
        local: dict[str, Any] = {"local_files_only": True}
        if kind in OF_MODELS:
            made = getattr(transformers, OF_MODELS[kind]).from_pretrained(str(folder), **local)
        else:
            auto = {"trust_remote_code": False, "use_fast": True}
            made = transformers.AutoTokenizer.from_pretrained(str(folder), **auto, **local)
        return made.backend_tokenizer
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(folder, error) from error


def _unreadable(source: Path, error: Exception) -> UserError:
    reason = shown(" ".join(str(error).split()))[:160]
    return UserError(
        f"cannot read the tokenizer {shown(source)} ({reason}); give a tokenizer.json or a folder that "
        "save_pretrained wrote"
    )
