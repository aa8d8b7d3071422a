"""A teacher that somebody brings to a modality: its network and path, beside the modality's own data and pictures.

A modality's `own` task is `class OwnX(Brought, X)`: it reads, shows and writes what X does, takes the network, its path
and its shapes from the teacher, and judges without anybody's pretrained features. Teachers are folders that
`omnidistill train` or `distill` made, whose description says which options X had, or weights of a class that the user
names (`Foreign`). Which of the two a command is given is found out by `omnidistill.configuration.origin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, ClassVar

import torch
from torch import nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.second import with_second
from omnidistill.errors import UserError
from omnidistill.foreign import Foreign
from omnidistill.judged_plainly import JudgedPlainly
from omnidistill.random import uniform
from omnidistill.samplers import Euler, Sampler
from omnidistill.tasks import Metric
from omnidistill.training.cache import Cache
from omnidistill.training.cache_format import Header, header_of, is_cache, null_of

ROWS = "omnidistill.rows.Rows"
"""What takes samples as they are."""


class Brought(JudgedPlainly):
    """Put before a modality's task, whose data, pictures and options stay.

    Attributes:
        takes: descriptions of teachers that fit, by the `_target_` of their task, with the options that these do not
            say.
        data_key: the option that names the user's data.
        data_options: all that say where data lie, in which a teacher's description does not count.
        encoder_hint: what mends a cache of another encoder than the task's.
        foreign: a network of the user's class; None for a teacher of this project's making.
        judged_by_context: its own metrics look at samples and their contexts alone, and so serve rows of a cache, too.
    """

    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    data_key: ClassVar[str] = "folder"
    data_options: ClassVar[tuple[str, ...]] = ("folder",)
    encoder_hint: ClassVar[str] = "make another cache with it"
    judged_by_context: ClassVar[bool] = False
    foreign: Foreign | None = None

    @property
    def with_data(self) -> bool:
        """Whether the user gave data of their own."""
        return getattr(self, self.data_key) is not None

    @classmethod
    def target(cls, section: Mapping[str, Any]) -> str | None:
        """Another class for a teacher whose samples are none of this modality's own, such as `ROWS`; `section` is the
        task's, filled in."""
        return None

    @cached_property
    def _header(self) -> Header | None:
        return header_of(getattr(self, self.data_key))

    @staticmethod
    def files(folder: str | None, labels: Sequence[str] | None) -> tuple[str | None, Sequence[str] | None]:
        """What files are to be read and the names of their labels: none where a cache takes their place, which says its
        labels itself."""
        header = header_of(folder)
        return (folder, labels) if header is None else (None, labels or header.labels or None)

    def knows(self, classes: int | None, labels: Sequence[str] | None) -> None:
        """The classes of the teacher as those of the task, which has none of its own, for a constructor.

        Raises:
            UserError: another number of names for them.
        """
        self.conditional, self.classes, self.null = bool(classes), classes or None, classes or None
        if labels is not None and len(labels) != (classes or 0):
            raise UserError(f"task.labels has {len(labels)} names, the teacher knows {classes or 0} classes")

    def any_labels(self, count: int, g: torch.Generator) -> Context:
        """Labels drawn uniformly, where the teacher knows any."""
        if self.classes is None:
            return Context()
        return Context(condition=(uniform(torch.empty(count), g) * self.classes).long())

    def settle_labels(self, classes: int | None) -> None:
        """`settle` for a task whose own metrics are by label, and so of no use to a teacher that knows none.

        Raises:
            UserError: other labels in the data than the teacher's.
        """
        source = getattr(self, self.data_key)
        self.conditional = self.foreign is None or bool(classes)
        self.judged_plainly = not self.conditional
        if self.foreign is not None and classes and len(self.labels) != classes:
            raise UserError(
                f"the teacher knows {classes} labels, {source} has {len(self.labels)}: {self.labels}"
            )
        if source is None or self.judged_plainly:
            self.primary = Metric("energy")
        self.settle(classes)

    def settle(self, classes: int | None) -> None:
        """What a cache says that the user named as data, for the end of a constructor: rows are judged as they are, and
        where conditions were encoded with them these are what the teacher is told.

        Raises:
            UserError: encoded conditions, and a teacher that is told classes; or other classes than the teacher's.
        """
        header, source = self._header, getattr(self, self.data_key)
        if header is None:
            return
        named = tuple(self.labels)
        if classes and header.labels and named and named != header.labels:
            raise UserError(
                f"'{source}' numbers the labels {', '.join(header.labels)}, and the teacher knows "
                f"{', '.join(named)}; encode them again in that order (task.labels=[...])"
            )
        if self._plainly:
            self.primary = Metric("energy" if header.dtype == "float32" else "bigram")
        if header.conditions:
            if classes:
                raise UserError(
                    f"the teacher knows {classes} classes, and '{source}' holds encoded conditions"
                )
            self.conditional, self.classes = True, None
            self.null = null_of(FilePath(source), header)  # type: ignore[assignment]

    @cached_property
    def _cache(self) -> Cache | None:
        """The data as `omnidistill cache` wrote them, where these are what the user named."""
        source = getattr(self, self.data_key)
        if source is None or not is_cache(source):
            return None
        made = Cache(source)
        made.check(self.shape, self.encoder_digest(), self.encoder_hint)
        return made

    @property
    def _plainly(self) -> bool:
        """What is encoded is compared as it is where the task's own figures look at the files, or at what was not
        encoded."""
        encoded = self._header is not None and (bool(self._header.encoder) or not self.judged_by_context)
        return self.judged_plainly or encoded

    # --- the teacher's --------------------------------------------------------------------------------------------

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        """The teacher's network, with the second embeddings."""
        if self.foreign is None:
            return super().network(target_time=target_time, guidance=guidance)
        module = self.foreign.time_module
        return with_second(
            self.foreign.made(), target_time=target_time, guidance=guidance, time_module=module
        )

    def reading(self) -> Mapping[str, Any]:
        return super().reading() if self.foreign is None else self.foreign.read()

    def sampler(self) -> Sampler:
        if self.foreign is None or self.foreign.shift == 1.0:
            return super().sampler()
        return Euler(shift=self.foreign.shift)

    def shipped_teacher(self) -> FilePath | None:
        return None

    def exact_teacher(self) -> Denoiser | None:
        return None

    def open_teacher(self, source: FilePath) -> Denoiser | None:
        """The teacher in a file of weights of the user's class; None where it is a folder of this project's."""
        if self.foreign is None:
            return None
        return self.foreign.opened(source)

    def lend(self, network: nn.Module) -> None:
        """Takes a fresh network of the user's class where the class itself cannot be named."""
        if self.foreign is None:
            raise UserError(f"{self.name} knows its network; leave network= out")
        self.foreign = replace(self.foreign, network=lambda: network)

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        if self._cache is not None:
            return self._cache.batch(count, g, split)
        if self.with_data:
            return super().batch(count, g, split)
        return Batch(None, self.contexts(count, g), count)
