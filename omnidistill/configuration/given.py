"""A folder of configuration files that `configs=DIR` names: Hydra reads it, and it may have come from somebody else.

A file of it may point at other keys of the configuration, `${guidance}` or `${oc.select:task.width,null}`. Whatever
else `${...}` can ask for (the environment, a file's content) is for the command line, which the user has typed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from omnidistill.errors import UserError

SCHEME = "given"

_KEY = re.compile(r"\$\{(oc\.select:)?[^${}:]*\}")
"""An interpolation without another in it, of a key."""


class GivenSource(FileConfigSource):
    """Hydra's reader of a folder, which refuses a file when it is used and not before: others may lie beside it."""

    @staticmethod
    def scheme() -> str:
        """What a search path of received files begins with."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """The file, once it has been seen to resolve nothing."""
        result = super().load_config(config_path)
        check(OmegaConf.to_container(result.config, resolve=False), f"{self.path}/{config_path}")
        return result


def register() -> None:
    """Makes the scheme known to Hydra; any number of times."""
    SourcesRegistry.instance().register(GivenSource)


def check(value: Any, where: str) -> None:
    """
    Raises:
        UserError: a text that asks for more than another key of the configuration.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check(key, where)
            check(item, where)
    elif isinstance(value, list):
        for item in value:
            check(item, where)
    elif isinstance(value, str):
        left, before = value, ""
        while left != before:  # `${a.${b}}` points at a key, too: from the inside out
            left, before = _KEY.sub("key", left), left
        if "${" in left:
            raise UserError(
                f"{where}: '{value[:80]}' asks for more than another key; only your own command line may"
            )
