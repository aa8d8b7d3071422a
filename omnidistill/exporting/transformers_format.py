"""A masked language model back in a folder of transformers, with its tokenizer."""

from __future__ import annotations

import shutil

import torch

from omnidistill.errors import UserError
from omnidistill.exporting.plain import merged
from omnidistill.exporting.run import COUNT, Handed
from omnidistill.exporting.walk import differs, network_of
from omnidistill.networks.masked_lm import MaskedLM
from omnidistill.random import generator

TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model"),
)


def write(handed: Handed) -> None:
    """
    Raises:
        UserError: a student that is no masked language model of transformers.
    """
    inner, _ = network_of(handed.student.denoiser)
    if not isinstance(inner.network, MaskedLM):
        raise UserError(
            f"the student is a {type(inner.network).__name__}, which is no masked language model of transformers; "
            "format=safetensors or diffusers hands it over"
        )
    network: MaskedLM = merged(inner.network)  # type: ignore[assignment]
    network.model.save_pretrained(handed.out)
    copied = []
    source = handed.pipeline
    for name in TOKENIZER:
        if source is not None and (source / name).is_file():
            shutil.copyfile(source / name, handed.out / name)
            copied.append(name)
    if not copied:
        handed.said["times"] = "The tokenizer is the teacher's and is not in this folder."
    kind = type(network.model).__name__
    handed.said["sample"] = f"""from transformers import {kind}

model = {kind}.from_pretrained("{handed.out.name}")
logits = model(input_ids=tokens).logits  # of tokens and masks ({network.mask_id})"""
    if network.shifted:
        handed.said["sample"] += (
            "\nlogits = torch.cat((logits[:, :1], logits[:, :-1]), 1)  # said one place early"
        )
    if handed.verify:
        length = handed.shape[-1]
        g = generator("export", "tokens")
        tokens = torch.randint(network.vocab, (COUNT, length), generator=g)
        tokens = torch.where(torch.rand(COUNT, length, generator=g) < 0.5, network.mask_id, tokens)
        again = type(network.model).from_pretrained(handed.out).eval()
        keywords = {} if not network.causal else {"attention_mask": network._seen(tokens, None)}
        found = again(input_ids=tokens).logits  # of a causal class its configuration says how it looks
        wanted = inner.network.model(input_ids=tokens, **keywords).logits
        handed.compare("transformers", differs(found, wanted))
