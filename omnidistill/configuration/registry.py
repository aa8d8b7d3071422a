"""What a configuration may build: classes that are components, and nothing else.

A configuration may have come with somebody's student. A function of the project would be enough to write a file, so a
`_target_` is one of these, each named here:

- a class that derives from a registered base (`BASES`): tasks, samplers, networks, optimisers, settings of networks;
- a public class of a module whose classes are components (`MODULES`);
- a constructor of such a class: a function of `FACTORIES`, or `from_pretrained` and `from_config` of a network, with
  the options of `LOADING` and safetensors alone;
- a class of an installed plug-in, or of a package that the user has typed behind `trust=`, which may lend its
  functions, too.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omnidistill.errors import UserError

NETWORKS = ("torch.nn.modules.module.Module", "transformers.models.auto.auto_factory._BaseAutoModelClass")
BASES = (
    *("omnidistill.tasks.Task", "omnidistill.samplers.base.Sampler"),
    *NETWORKS,
    "torch.optim.optimizer.Optimizer",
    "transformers.configuration_utils.PretrainedConfig",
    "transformers.configuration_utils.PreTrainedConfig",
    "peft.config.PeftConfigMixin",
)
"""By their full names, for a base that is not imported has no classes yet."""

MODULES = re.compile(
    r"omnidistill\.(times|weights|posteriors|foreign|(objectives|paths|samplers|denoisers|networks|exact)(\.\w+)*"
    r"|modalities(\.\w+)*\.(task|networks|rewards|views))"
)
FACTORIES = ("omnidistill.paths.named",)

CONSTRUCTORS = ("from_pretrained", "from_config")
LOADING = (
    *("pretrained_model_name_or_path", "subfolder", "revision", "variant", "torch_dtype", "dtype", "config"),
    *("local_files_only", "use_safetensors", "low_cpu_mem_usage", "attn_implementation", "embeddings"),
    *("freeze", "padding_idx", "model", "model_id", "adapter_name", "is_trainable"),
)
"""Options of a constructor from weights: none of them runs, unpickles or imports anything."""

RUNS_CODE = ("trust_remote_code", "custom_pipeline", "custom_revision")
"""Options with which diffusers and transformers execute code that came with the weights."""


def registered(found: Any) -> bool:
    """Whether a configuration, whoever wrote it, may name this class or constructor."""
    module, name = getattr(found, "__module__", None) or "", getattr(found, "__name__", "_")
    if inspect.isclass(found):
        listed = MODULES.fullmatch(module) is not None and not name.startswith("_")
        return not issubclass(found, BaseException) and (listed or _derives(found))
    if inspect.ismethod(found) and inspect.isclass(found.__self__):
        return name in CONSTRUCTORS and _derives(found.__self__)
    return inspect.isfunction(found) and module in FACTORIES and not name.startswith("_")


def _derives(found: Any) -> bool:
    return any(f"{base.__module__}.{base.__qualname__}" in BASES for base in found.__mro__)


def lent(found: Any, plugins: Sequence[str], trusted: Sequence[str]) -> bool:
    """Whether it belongs to a plug-in, whose classes may be named, or to a package that the user has typed."""
    package = (getattr(found, "__module__", None) or "").partition(".")[0]
    if package == "omnidistill":
        return False
    return package in trusted or (package in plugins and inspect.isclass(found))


def check_loading(found: Any, node: Mapping[str, Any], place: str) -> None:
    """Refuses options of a constructor from weights that could run or unpickle something.

    Raises:
        UserError: the first option that is not of `LOADING`, or one that turns safetensors off.
    """
    if not inspect.ismethod(found):
        return
    for key, value in node.items():
        if key.startswith("_"):
            continue
        if key in RUNS_CODE or key not in LOADING or (key == "use_safetensors" and value is not True):
            raise UserError(
                f"{place}.{key}: weights are read from safetensors alone, without code; remove it"
            )


def from_safetensors(found: Any) -> dict[str, Any]:
    """Further keywords by which a constructor from weights reads no pickle; settings of networks are none."""
    if not inspect.ismethod(found) or found.__name__ != "from_pretrained":
        return {}
    made: Any = found.__self__
    networks = [f"{base.__module__}.{base.__qualname__}" for base in made.__mro__]
    theirs = made.__module__.partition(".")[0] in ("diffusers", "transformers")
    return {"use_safetensors": True} if theirs and {*networks} & {*NETWORKS} else {}
