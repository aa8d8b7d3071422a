"""Learns byte-pair merges from a text and writes a task's configuration with them:

    python -m omnidistill.modalities.text.merges text=PATH vocab=512 out=mine/task/text/pairs.yaml
    omnidistill train configs=mine task=text/pairs out=runs/pairs

The merges themselves stand in the file, hence in every `teacher.json` and `student.json` made from it: a saved model
needs no tokenizer file beside it. Without `text=` they are learned from the Brown corpus' training documents.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omnidistill.errors import UserError
from omnidistill.modalities.text import data
from omnidistill.modalities.text.tokens import ALPHABET, Tokens, learn_merges


def main(arguments: list[str]) -> None:
    """Reads `key=value` arguments, learns the merges of the training half and writes the task."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := given.keys() - {"text", "vocab", "out", "alphabet"}:
        raise UserError(f"unknown key '{sorted(unknown)[0]}'; possible: alphabet, out, text, vocab")
    if "out" not in given or not given.get("vocab", "512").isdigit():
        raise UserError(
            "give out=FILE.yaml and a number vocab=N, e.g. vocab=512 out=mine/task/text/pairs.yaml"
        )
    tokens = Tokens(given.get("alphabet", ALPHABET))
    documents = data.own(given["text"]) if "text" in given else data.brown()
    cleaned = (tokens.clean(sentence) for document in data.split(documents)[0] for sentence in document)
    merges = learn_merges(cleaned, tokens.alphabet, int(given.get("vocab", 512)))
    write_task(Path(given["out"]), tokens.alphabet, merges, given.get("text"))


def write_task(file: Path, alphabet: str, merges: list[str], text: str | None) -> None:
    """A task's configuration: that of text/brown with these tokens and, where it is the user's own, this text."""
    import yaml

    task = {
        "_target_": "omnidistill.modalities.text.task.Text",
        "name": f"text/{file.stem}",
        "text": text,
        "length": 64,
        "alphabet": alphabet,
        "merges": merges,
        "network": {"width": 256, "kernel": 5, "dilations": [1, 1, 2, 1, 1, 2]},
        "teacher_steps": 64,
    }
    about = {"title": f"{len(alphabet) + len(merges)} byte-pair tokens", "modality": "text"}
    settings = {"batch": 64, "precision": "bf16", "evaluation": {"samples": 512, "batch": 128}}
    file.parent.mkdir(parents=True, exist_ok=True)
    page = yaml.safe_dump({"about": about, "task": task, **settings}, sort_keys=False, allow_unicode=True)
    file.write_text(f"# @package _global_\n{page}", encoding="utf-8")
    print(f"{len(merges)} merges in {file}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
