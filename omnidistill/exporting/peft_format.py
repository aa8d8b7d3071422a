"""Adapters alone, as `peft` and the pipelines of diffusers load them over the teacher."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.denoisers.second import Second
from omnidistill.errors import UserError
from omnidistill.exporting.diffusers_format import describe, model_of, verify
from omnidistill.exporting.plain import last_layers, told_shift
from omnidistill.exporting.run import COUNT, Handed
from omnidistill.exporting.walk import differs, network_of, planned
from omnidistill.interop.diffusers_network import DiffusersNetwork, inner
from omnidistill.networks.masked_lm import MaskedLM
from omnidistill.training.safetensors_file import write_safetensors


def write(handed: Handed) -> None:
    """`adapter_model.safetensors` with its configuration, and of a model of diffusers the same in the names that
    `load_lora_weights` wants.

    The adapters' scale is in B, so that rank and alpha are equal and nothing has to be told it. What the student is
    always told is a bias of the adapter over the last layer that embeds the time.
    """
    described = handed.recipe.adapter
    if described is None:
        raise UserError(
            "the student is no adapter (student.adapter={rank: 8} trains one); format=diffusers or safetensors hands "
            "whole weights over"
        )
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise UserError("format=peft needs peft: pip install 'omnidistill[adapters]'") from error
    denoiser, _ = network_of(handed.student.denoiser)
    network, shift = denoiser.network, None
    if isinstance(network, Second):
        plan = planned(handed.student.denoiser, handed.student.sampler, handed.steps)
        network, shift = network.network, told_shift(denoiser, plan)
    elif described["whole"]:
        whole = described["whole"][0]
        raise UserError(
            f"'{whole}' was trained as a whole beside the adapters; format=diffusers or safetensors"
        )
    if handed.scheduler is not None and not isinstance(network, DiffusersNetwork):
        raise UserError(f"scheduler={handed.scheduler} is of diffusers, and the student's network is not")
    bare = network.model if isinstance(network, MaskedLM) else inner(network)
    layers = {name: module for name, module in bare.named_modules() if isinstance(module, LoraLayer)}
    biased = _biased(bare, layers, shift, denoiser.time_module)
    rank = int(described["rank"])
    tensors: dict[str, Tensor] = {}
    for name, module in layers.items():
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        tensors[f"{name}.lora_A.weight"] = a.detach()
        tensors[f"{name}.lora_B.weight"] = b.detach() * module.scaling["default"]
        if shift is not None:
            held = shift if name in biased else torch.zeros(b.shape[0])
            tensors[f"{name}.lora_B.bias"] = held.to(b.dtype)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(layers),
        lora_bias=shift is not None,
        inference_mode=True,
    )
    config.save_pretrained(str(handed.out))
    write_safetensors(
        {f"base_model.model.{name}": value for name, value in tensors.items()},
        handed.out / "adapter_model.safetensors",
        {"format": "pt"},
    )
    if isinstance(network, DiffusersNetwork):
        _of_diffusers(handed, network, bare, tensors)
        return
    _sample_code(handed, type(bare).__name__)
    if handed.verify:
        _compare_answers(handed, network, bare)


def _biased(
    bare: nn.Module, layers: dict[str, Any], shift: Tensor | None, time_module: str | None
) -> set[str]:
    """The adapted layers whose output is the embedding of time."""
    if shift is None:
        return set()
    last = last_layers(bare, time_module)
    found = {name for name, module in layers.items() if module.get_base_layer() in last}
    if len(found) < len(last):
        raise UserError(
            "the student is told a scale or a second time, which is a bias of the layer that embeds the time, and that "
            "has no adapter; format=diffusers, or leave student.adapter.targets out"
        )
    return found


def _of_diffusers(handed: Handed, network: nn.Module, bare: nn.Module, tensors: dict[str, Tensor]) -> None:
    from peft import PeftModel

    model = model_of(handed)
    # The names that pipelines want, and the configuration where the library looks for it.
    saved = json.loads((handed.out / "adapter_config.json").read_text(encoding="utf-8"))
    about = {key: saved[key] for key in ("r", "lora_alpha", "target_modules", "lora_bias")}
    metadata = {f"{model.part}.{key}": value for key, value in about.items()}
    write_safetensors(
        {f"{model.part}.{name}": value for name, value in tensors.items()},
        handed.out / "pytorch_lora_weights.safetensors",
        {"format": "pt", "lora_adapter_metadata": json.dumps(metadata, sort_keys=True)},
    )
    model.found.scheduler.save_pretrained(handed.out / "scheduler")
    describe(handed, model.found)
    name = type(model.found.scheduler).__name__
    handed.said["sample"] = f"""from diffusers import {name}, {model.kind}
from peft import PeftModel

model = {model.kind}.from_pretrained("TEACHER", subfolder="{model.part}")  # or pipeline.load_lora_weights(FOLDER)
model = PeftModel.from_pretrained(model, "{handed.out.name}").eval()
scheduler = {name}.from_pretrained("{handed.out.name}/scheduler")  # told as sampling.json says"""
    if handed.verify:
        base = type(model.bare).from_config(model.bare.config)  # type: ignore[attr-defined]
        base.load_state_dict(_base_of(bare))
        again = PeftModel.from_pretrained(base.eval(), str(handed.out)).eval()
        verify(handed, DiffusersNetwork.around(_Plain(again, base.config), model.kind), model.found, "peft")


class _Plain(nn.Module):
    """A model of `peft`, with the configuration of the one in it."""

    def __init__(self, model: nn.Module, config: Any) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, **given: Any) -> Any:
        return self.model(**given)


def _base_of(bare: nn.Module) -> dict[str, Tensor]:
    """The weights under the adapters, by the names that they had before."""
    state = bare.state_dict()
    return {name.replace(".base_layer", ""): value for name, value in state.items() if "lora_" not in name}


def _sample_code(handed: Handed, kind: str) -> None:
    handed.said["sample"] = f"""from peft import PeftModel

network = PeftModel.from_pretrained(network, "{handed.out.name}").eval()  # over a {kind} with the teacher's weights"""


def _compare_answers(handed: Handed, network: nn.Module, bare: nn.Module) -> None:
    """Samples of the adapted network against the student's own: what walks it is the same sampler."""
    import copy

    from peft import PeftModel

    from omnidistill.exporting.plain import merged

    base = merged(bare)
    base.load_state_dict(_base_of(bare))
    again = PeftModel.from_pretrained(base.eval(), str(handed.out)).eval()
    student = copy.deepcopy(handed.student)
    denoiser = network_of(student.denoiser)[0]
    if isinstance(network, MaskedLM):
        denoiser.network.model = again
    else:
        denoiser.network = again
        # What it was told is in the adapter.
        denoiser.told_target = denoiser.wants_target = denoiser.wants_guidance = False
    context = handed.context(COUNT)
    wanted = handed.student.sample(COUNT, handed.steps, context=context)
    handed.compare("peft", differs(student.sample(COUNT, handed.steps, context=context), wanted))
