"""LLaDA (Nie et al. 2025), whose folders describe a Llama, its attention opened in both directions, by other names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from omnidistill.errors import UserError

LAYER = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
OUTER = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}


def configuration(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the Llama that a LLaDA is."""
    wanted = {"block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "rope": True}
    none = (
        "alibi",
        "include_bias",
        "include_qkv_bias",
        "attention_layer_norm",
        "scale_logits",
        "input_emb_norm",
    )
    other = {key: config.get(key) for key, value in wanted.items() if config.get(key) != value}
    other |= {key: config[key] for key in none if config.get(key)}
    if other:
        key, value = next(iter(other.items()))
        raise UserError(f"{folder} is a LLaDA with {key}={value}, and only those like a Llama are read")
    heads = int(config["n_heads"])
    return {
        "vocab_size": config.get("embedding_size") or config["vocab_size"],
        "hidden_size": config["d_model"],
        "intermediate_size": config.get("mlp_hidden_size") or config["mlp_ratio"] * config["d_model"],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("n_kv_heads") or heads,
        "max_position_embeddings": config["max_sequence_length"],
        "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
        "rope_theta": config.get("rope_theta", 10000.0),
        "hidden_act": "silu",
        "tie_word_embeddings": bool(config.get("weight_tying", False)),
    }


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that a Llama has for them, in float32."""
    found = {}
    for name, tensor in tensors.items():
        part = name.removeprefix("model.").removeprefix("transformer.")
        if part.startswith("blocks."):
            _, number, inner, *rest = part.split(".")
            part = ".".join(("model.layers", number, LAYER.get(inner, inner), *rest))
        else:
            outer, *rest = part.split(".")
            part = ".".join((OUTER.get(outer, outer), *rest))
        found[part] = tensor.float()
    if "lm_head.weight" not in found and "model.embed_tokens.weight" in found:
        found["lm_head.weight"] = found["model.embed_tokens.weight"]
    return found
