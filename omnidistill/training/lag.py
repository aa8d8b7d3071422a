"""How far a trained role lags behind the student: what a few more updates of it alone would gain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from omnidistill.context import Batch
from omnidistill.denoisers import Denoiser
from omnidistill.training.parts import cut, rows
from omnidistill.training.roles import STUDENT

if TYPE_CHECKING:
    from omnidistill.training.module import Distillation

EXTRA = 5
"""So many updates more are tried."""


def lags(module: Distillation, batches: list[Batch]) -> dict[str, float]:
    """`lag/ROLE`: the share by which the role's loss on held-out draws falls in `EXTRA` more updates, (before - after)
    / |after|, for each trained role but the student, at the student as it is now.

    They are made at the role's rate, or at the student's where that is higher, so that a critic which is slow by its
    rate is found slow.

    Nothing remains of it: weights, buffers and the count of calls are put back, the optimiser is a copy, and what is
    drawn depends on the seed and the update alone. Its calls, `2 + EXTRA` a role, are in no count: they train nothing.

    Args:
        batches: of the turns of this update; where a batch is worked off in parts, the first part of each is used.
    """
    models = module._models(0)
    calls = {name: model.calls for name, model in models.items() if isinstance(model, Denoiser)}
    found = {}
    for role in module.cast.parts:
        if role != STUDENT:
            mine = [b for r, b in zip(module.cast.turns, batches, strict=True) if r == role]
            found[f"lag/{role}"] = _lag(module, role, mine)
    for name, count in calls.items():
        models[name].calls = count  # type: ignore[assignment]
    return found


def _lag(module: Distillation, role: str, batches: list[Batch]) -> float:
    own = {name: module.trained[name] for name in module.cast.parts[role]}
    kept = {name: {k: v.clone() for k, v in model.state_dict().items()} for name, model in own.items()}
    parameters = module.optimisers.parameters(role)
    optimizer = module.optimisers.like(role)
    rate = module.optimisers.all()[STUDENT].param_groups[0]["lr"]
    for group in optimizer.param_groups:
        group["lr"] = max(group["lr"], rate)
    parts = [cut(batch.count, module.settings.accumulate) for batch in batches]
    batches = [rows(b, p[0]) if len(p) > 1 else b for b, p in zip(batches, parts, strict=True)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    with torch.no_grad():
        before = float(module.loss_of(role, batches[0], ("held out",)))
    for index in range(EXTRA):
        optimizer.zero_grad(set_to_none=True)
        module.loss_of(role, batches[index % len(batches)], ("extra", index)).backward()
        clip = module.settings.optim.clip
        torch.nn.utils.clip_grad_norm_(parameters, float("inf") if clip is None else clip, foreach=True)
        optimizer.step()
    with torch.no_grad():
        after = float(module.loss_of(role, batches[0], ("held out",)))
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
    for name, model in own.items():
        model.load_state_dict(kept[name])
    return (before - after) / max(abs(after), 1e-12)
