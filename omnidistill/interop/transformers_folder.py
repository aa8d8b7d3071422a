"""A folder that transformers' `save_pretrained` wrote with a masked language model in it, described as a network, its
tokens and how to read it. Nothing in it is run: classes are those of the installed library, weights are safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnidistill.configuration import received
from omnidistill.errors import UserError
from omnidistill.interop import llada, tokenizer
from omnidistill.networks.masked_lm import MaskedLM
from omnidistill.training.safetensors_file import load_strictly, read_safetensors

LONGEST = 1024
"""Tokens of a sample where the network knows more places and `task.length` says nothing."""

NOT_THE_NETWORK = (
    *("architectures", "auto_map", "model_type", "transformers_version", "torch_dtype", "dtype", "use_cache"),
    *(
        "id2label",
        "label2id",
        "_name_or_path",
        "quantization_config",
        "mask_token_id",
        "is_causal",
        "shifted_logits",
    ),
)
"""Keys of config.json that say nothing of the network's layers."""

TYPED = ("mask_token",)
"""Options of a task that are about the folder alone."""

MASKS = ("[MASK]", "<mask>", "<|mdm_mask|>", "<|mask|>")
"""What masks are called where no file says which token it is."""

TRAINED_OTHERWISE = {"Dream": "qwen2", "llada": "llama"}
"""Masked models with files of their own that are, opened in both directions, a class of the library."""


def describe(folder: Path, task: Mapping[str, Any]) -> dict[str, Any] | None:
    """Options of a task with tokens: `foreign` (see `omnidistill.brought.Foreign`) and the tokenizer; None where there
    is no model of transformers.

    Args:
        task: what the user has typed: `mask_token`, the mask's name; `tokenizer`; `length`.

    Raises:
        UserError: a model that does not fill masks in, without a tokenizer, or whose mask is not known.
    """
    config = received.read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        return None
    if '"_target_"' in json.dumps(config):
        raise UserError(f"{folder / 'config.json'} names components to be built, which no model's options do")
    try:
        return _described(folder, config, task)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{folder / 'config.json'} does not describe its model ({said})") from error


def _described(folder: Path, config: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    kind = config["model_type"]
    causal = _causal(folder, config)
    options = {key: value for key, value in config.items() if key not in NOT_THE_NETWORK}
    if kind == "llada":
        options = llada.configuration(folder, config)
    theirs = str(task.get("tokenizer") or folder)
    vocab, mask_id = _tokens(folder, theirs, config, task.get("mask_token"))
    columns = options.get("vocab_size")
    if not isinstance(columns, int) or not 0 <= mask_id < columns or vocab > columns:
        raise UserError(
            f"{folder} has logits of {columns} tokens, its tokenizer {vocab} and the mask {mask_id}; "
            "task.tokenizer=FILE names the model's own"
        )
    longest = _longest(kind, options)
    length = int(task.get("length") or min(longest or LONGEST, LONGEST))
    if longest is not None and length > longest:
        raise UserError(f"{folder} knows {longest} places; task.length={length} is more")
    network = {
        "_target_": "omnidistill.networks.masked_lm.MaskedLM",
        "_partial_": True,
        **{"kind": TRAINED_OTHERWISE.get(kind, kind), "options": options, "vocab": vocab, "mask_id": mask_id},
        **{
            "causal": causal,
            "shifted": kind == "Dream" or config.get("shifted_logits") is True,
            "longest": longest,
        },
    }
    path = {"_target_": "omnidistill.paths.MaskedPath", "vocab": vocab}
    foreign = {"_target_": "omnidistill.brought.Foreign", "network": network, "shape": [length], "path": path}
    return {"foreign": foreign, "tokenizer": theirs, "length": length}


def load(network: MaskedLM, folder: Path) -> None:
    """The folder's weights, into the network.

    Raises:
        UserError: no safetensors, or weights of another architecture.
    """
    config = received.read_json(folder / "config.json")
    if config.get("model_type") == "llada":
        load_strictly(network.model, llada.renamed(_shards(folder)), folder)
        return
    try:
        loaded, told = type(network.model).from_pretrained(
            str(folder),
            config=network.model.config,
            dtype=torch.float32,
            **{"local_files_only": True, "use_safetensors": True, "output_loading_info": True},
        )
    except Exception as error:  # the library raises nothing narrower
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read the weights in {folder} ({reason})") from error
    lacks = sorted({*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])})
    if lacks:
        raise UserError(f"{folder} lacks weights of {type(network.model).__name__}, e.g. '{lacks[0]}'")
    load_strictly(network.model, loaded.state_dict(), folder)


def _causal(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the class is one of next tokens that was trained to fill masks in.

    Raises:
        UserError: it was trained on next tokens, for all that is said.
    """
    kind = config["model_type"]
    if kind in TRAINED_OTHERWISE:
        return True
    try:
        from transformers import AutoConfig
        from transformers.models.auto import modeling_auto as known
    except ImportError as error:
        raise UserError(
            f"{folder} is of transformers, which is missing: pip install 'omnidistill[text]'"
        ) from error
    fills = known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    said = [str(name) for name in config.get("architectures") or ()]
    if kind in fills and any("MaskedLM" in name or "PreTraining" in name for name in said or ("MaskedLM",)):
        return False
    if kind in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and config.get("is_causal") is False:
        return True
    try:
        AutoConfig.for_model(kind)
    except ValueError as error:
        raise UserError(
            f"{folder} has a model of its own code, model_type={kind}; name a class of yours, "
            "network=package.module:Class"
        ) from error
    raise UserError(
        f"{folder} holds {', '.join(said) or kind}, which predicts next tokens; if it was trained to fill masks "
        'in with attention in both directions, say "is_causal": false in its config.json'
    )


def _longest(kind: str, options: Mapping[str, Any]) -> int | None:
    """The places that a table of them has; None where they are turned, not looked up."""
    places = options.get("max_position_embeddings")
    if not isinstance(places, int) or "rope_theta" in options or "rope_parameters" in options:
        return None
    if options.get("position_embedding_type") in ("rotary", "relative_key", "relative_key_query"):
        return None
    # RoBERTa and what came of it number the first place padding + 1.
    offset = (
        (options.get("pad_token_id") or 0) + 1 if "roberta" in kind or kind in ("camembert", "esm") else 0
    )
    return places - offset


def _tokens(folder: Path, given: str, config: Mapping[str, Any], named: Any) -> tuple[int, int]:
    """How many tokens there are, and the mask's number.

    Raises:
        UserError: no tokenizer, or none of its tokens is the mask.
    """
    file = Path(given)
    held = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
    if not file.is_file() and not any((file / name).is_file() for name in held):
        raise UserError(
            f"{folder} has no tokenizer.json; save its tokenizer there, or give task.tokenizer=FILE"
        )
    made = tokenizer.read(file)
    vocab = int(made.get_vocab_size(with_added_tokens=True))
    if named is None and isinstance(config.get("mask_token_id"), int):
        return vocab, int(config["mask_token_id"])
    names = [str(named)] if named is not None else [*_said(folder), *MASKS]
    known = [number for name in names if (number := made.token_to_id(name)) is not None]
    if not known:
        mend = "give task.mask_token=NAME" if named is None else "give another task.mask_token"
        raise UserError(f"no token of {file} is the mask ({', '.join(names)}); {mend}")
    return vocab, int(known[0])


def _said(folder: Path) -> list[str]:
    """The mask's name as the tokenizer's files have it."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            said = received.read_json(folder / name)
            token = said.get("mask_token") if isinstance(said, dict) else None
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return [token]
    return []


def _shards(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no *.safetensors")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= read_safetensors(file)[0]
    return found
