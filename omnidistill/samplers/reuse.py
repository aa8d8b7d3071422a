"""Features that change little from step to step are computed now and then, and found again in between."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.guidance import Null
from omnidistill.denoisers.second import Second
from omnidistill.errors import NotOffered, UserError, unknown
from omnidistill.posteriors import Posterior
from omnidistill.samplers.walker import Memory, Walker, innermost

KEPT = ("output", "residual")


class Reuse(Walker):
    """At key steps the whole network runs and some of its modules leave their outputs behind; at the steps between,
    these do not run: they answer with what they left (Ma et al. 2023, DeepCache, sec. 3.2, where they are the deep
    blocks of a U-Net; Li et al. 2023, Faster Diffusion, sec. 3.2, where they are its encoder).

    A step between counts as the share of the network that ran, in floating-point operations of one call, which is
    measured at the first key step. A first step is a key step, and so is one with another number of samples.

    Args:
        part: which modules: a name of `network.reusable`, as networks that name their blocks have it.
        modules: their names instead; `*` stands for any name.
        interval: every so many steps is a key step (uniform 1 : N); 1 reuses nothing.
        keys: the key steps one by one instead, as shares of the walk from 0 to below 1: [0, 0.25, 0.5] are the first,
            third and fifth of eight steps.
        keep: the `output` itself, or its `residual`, what a module adds to its input, which suits blocks that lie one
            behind the other; None: as `network.reusable_as` says, else the output.

    One walk at a time: while a network is being asked, its modules are stood in for.
    """

    def __init__(
        self,
        part: str = "deep",
        modules: Sequence[str] | None = None,
        interval: int = 2,
        keys: Sequence[float] | None = None,
        keep: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise UserError(
                f"every how many steps is a key step, a whole number of at least 1; got {interval!r}"
            )
        if keep is not None and keep not in KEPT:
            raise unknown("way to keep a module's answer", keep, KEPT)
        self.part, self.names, self.interval = part, None if modules is None else list(modules), interval
        if keys is not None and not (keys and all(0.0 <= key < 1.0 for key in keys)):
            raise UserError(f"keys are shares of the walk from 0 to below 1, got {list(keys)}")
        self.keys, self.keep = None if keys is None else tuple(keys), keep
        self.share: float | None = None

    def around(self, denoiser: Denoiser, teacher: Denoiser | None = None, null: Null | None = None) -> Walker:
        network = getattr(innermost(denoiser), "network", None)
        if not isinstance(network, nn.Module):
            raise NotOffered("features are reused in a network, and the student is a closed form")
        found = reusable(network, self.part, self.names)
        as_it_says = getattr(network.network if isinstance(network, Second) else network, "reusable_as", None)
        self._modules_of = [found]  # in a list: they belong to the network
        self._residual = (self.keep or as_it_says or "output") == "residual"
        return super().around(denoiser, teacher, null)

    def answer(
        self, memory: Memory, x_t: Tensor, t: Tensor, context: Context, target_time: Tensor | None
    ) -> Posterior:
        cache: dict[str, Any] = memory.kept.setdefault("cache", {})
        if self.keys is None:
            key = memory.index % self.interval == 0
        else:
            key = memory.index in {int(share * memory.steps + 1e-9) for share in self.keys}
        key = key or not cache or memory.kept["rows"] != x_t.shape[0]
        network, before = innermost(self), innermost(self).calls
        counter = _counter() if key and self.share is None else None
        with self._stood_in(cache, key, counter) as ran, counter or nullcontext():
            belief = memory.denoiser(x_t, t, context, target_time=target_time)
        if key:
            memory.kept["rows"] = x_t.shape[0]
        if counter is not None:
            total = counter.get_total_flops()
            self.share = 1.0 - ran[0] / total if total else 1.0
        if not key and self.share is not None:
            network.count(-(network.calls - before) * (1.0 - self.share))
        return belief

    @contextmanager
    def _stood_in(self, cache: dict[str, Any], key: bool, counter: Any) -> Iterator[list[int]]:
        """The modules with their `forward` replaced. Yields the operations that they took, where a counter counts."""
        spent = [0]
        found = self._modules_of[0]
        try:
            for name, module in found.items():
                module.forward = self._forward(name, module.forward, cache, key, counter, spent)
            yield spent
        finally:
            for module in found.values():
                module.__dict__.pop("forward", None)

    def _forward(
        self,
        name: str,
        own: Callable[..., Any],
        cache: dict[str, Any],
        key: bool,
        counter: Any,
        spent: list[int],
    ) -> Callable[..., Any]:
        def forward(*inputs: Any, **keywords: Any) -> Any:
            if not key:
                kept = cache[name]
                return inputs[0] + kept if self._residual else kept
            before = 0 if counter is None else counter.get_total_flops()
            answer = own(*inputs, **keywords)
            spent[0] += 0 if counter is None else counter.get_total_flops() - before
            cache[name] = answer - inputs[0] if self._residual else answer
            return answer

        return forward


def reusable(network: nn.Module, part: str, names: Sequence[str] | None = None) -> Mapping[str, nn.Module]:
    """The modules of a part that the network names, or of these names, by name.

    Raises:
        NotOffered: the network names no such part, or none at all.
        UserError: no module is called so.
    """
    inside = network.network if isinstance(network, Second) else network
    if names is None:
        declared = getattr(inside, "reusable", None)
        if not isinstance(declared, Mapping) or not declared.get(part):
            has = ", ".join(name for name, found in declared.items() if found) if declared else ""
            raise NotOffered(
                f"{type(inside).__name__} names no '{part}' blocks whose features could be reused"
                f"{f'; it names {has}' if has else ''}; give student.inference.reuse.modules=[...]"
            )
        names = declared[part]
    modules = dict(inside.named_modules())
    found: dict[str, nn.Module] = {}
    for wanted in names:
        some = {
            name: module for name, module in modules.items() if name and fnmatch.fnmatchcase(name, wanted)
        }
        if not some:
            raise UserError(
                f"{type(inside).__name__} has no module '{wanted}'; it has {', '.join([n for n in modules if n][:8])}"
            )
        found |= some
    # One inside another would be kept twice, and counted so.
    return {name: m for name, m in found.items() if not any(name.startswith(f"{other}.") for other in found)}


def _counter() -> Any:
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False)
