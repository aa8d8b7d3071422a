"""Masked language models of transformers as networks of a masked path: no time, a mask inside the vocabulary, and where
a causal class was trained to fill masks in, attention in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.features import Asked, Found
from omnidistill.posteriors import IMPOSSIBLE
from omnidistill.shapes import PerSample, Tokens


class MaskedLM(nn.Module):
    """Tokens Long[b n] as the tokenizer numbers them, our mask `vocab` -> logits Float[b n columns].

    Their mask is a token among the others (126336 of LLaDA-8B): it stands in for ours on the way in and is ruled out
    on the way out. The time is not looked at. Dropout is off, in students as well.

    Args:
        kind: `model_type` of the configuration, such as `bert` or `llama`.
        options: the other keys of the configuration.
        vocab: tokens of the tokenizer; logits of further columns, padding of the table, are nobody's.
        mask_id: their mask's number.
        causal: the class predicts next tokens, and its attention is opened in both directions here (LLaDA is a Llama so
            opened: Nie et al. 2025, sec. 2.2).
        shifted: the logits about a place stand one place before it (Dream 7B: Ye et al. 2025).
        longest: the most tokens that the network knows places for; None: as many as you like.
    """

    feature_module = "model"  # its last hidden states, Float[b n width]
    feature_axis = 2
    returns_features = True

    def __init__(
        self,
        kind: str,
        options: Mapping[str, Any],
        vocab: int,
        mask_id: int,
        causal: bool = False,
        shifted: bool = False,
        longest: int | None = None,
    ) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

        dropped = {
            key: 0.0 for key, value in options.items() if "dropout" in key and isinstance(value, float)
        }
        # What is said of it here goes on with it, into folders that `save_pretrained` writes.
        about = {
            "mask_token_id": mask_id,
            "is_causal": False if causal else None,
            "shifted_logits": shifted or None,
        }
        said = {key: value for key, value in about.items() if value is not None}
        config = AutoConfig.for_model(kind, **{**options, **dropped, **said})
        self.model = (AutoModelForCausalLM if causal else AutoModelForMaskedLM).from_config(config)
        self.vocab, self.mask_id, self.longest = vocab, mask_id, longest
        self.causal, self.shifted = causal, shifted
        self.feature_channels = int(config.hidden_size)

    def forward(
        self,
        x: Tokens,
        t: PerSample,
        *,
        mask: Bool[Tensor, "b n"] | None = None,
        features: Sequence[str] | None = None,
        answered: int | None = None,
    ) -> Float[Tensor, "answered n k"] | Found:
        """mask: True where a token is real."""
        if self.longest is not None and x.shape[1] > self.longest:
            raise UserError(
                f"the network knows {self.longest} places and is asked about {x.shape[1]} tokens; task.length is at "
                f"most {self.longest}"
            )
        asked = Asked(features, answered)
        keywords: dict[str, Any] = {"output_hidden_states": True} if features else {}
        if self.causal:
            keywords["use_cache"] = False
        answer = self.model(
            input_ids=torch.where(x == self.vocab, self.mask_id, x),
            attention_mask=self._seen(x, mask),
            **keywords,
        )
        logits = answer.logits
        if features and (some := asked.note("model", answer.hidden_states[-1])) is not None:
            if not answered:
                return asked.result(None)
            logits = logits[some]
        if self.shifted:
            logits = torch.cat((logits[:, :1], logits[:, :-1]), 1)
        closed = torch.arange(logits.shape[-1], device=x.device) == self.mask_id
        return asked.result(logits.masked_fill(closed, IMPOSSIBLE))

    def _seen(self, x: Tokens, mask: Bool[Tensor, "b n"] | None) -> Tensor | None:
        """What attention looks at: of an encoder what is real; of a causal class said for each pair of places, for it
        would take silence to mean causal."""
        if not self.causal:
            return None if mask is None else mask.expand(x.shape).long()
        real = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand(x.shape)
        kept = self.model.dtype
        pairs = real[:, None, None, :].expand(x.shape[0], 1, x.shape[1], x.shape[1])
        return torch.zeros_like(pairs, dtype=kept).masked_fill(~pairs, torch.finfo(kept).min)
