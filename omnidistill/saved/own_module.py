"""A student that was distilled from somebody's own module, around a fresh instance of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path as FilePath

from torch import nn

from omnidistill.data.tensors import single
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.guidance import Null
from omnidistill.denoisers.second import with_second
from omnidistill.errors import UserError
from omnidistill.paths import Path
from omnidistill.saved.description import Recipe, read_recipe
from omnidistill.saved.rebuilding import assemble, filled, headed, led_again, named, parted
from omnidistill.training.safetensors_file import read_safetensors


def read_own(
    folder: FilePath,
    recipe: Recipe,
    network: nn.Module | None,
    path: Path | None,
    null: Null | None,
    trust: Sequence[str],
) -> tuple[Denoiser, Path]:
    """The student in `folder` and its path; see `omnidistill.load`. What could be named is not asked for.

    Raises:
        UserError: network and path are neither given nor named.
    """
    if network is None and path is None and recipe.foreign is not None:
        network, path = named(recipe.foreign, folder / "student.json", trust)
    if network is None or path is None:
        raise UserError(
            f"the student in {folder} was made from your own module; pass load(..., network=, path=)"
        )
    bare = copy.deepcopy(network)
    network = with_second(
        network,
        target_time=recipe.target_time,
        guidance=recipe.guided,
        time_module=recipe.reading.get("time_module"),
    )
    network = headed(network, recipe.reading)
    tensors, learned = parted(read_safetensors(folder / "student.safetensors")[0])
    network = filled(single(network, say=False), tensors, folder, "student", recipe)
    denoiser = assemble(network, path, recipe)
    if recipe.inference:

        def theirs() -> Denoiser:
            """The teacher of one's own, whose weights lie beside the student's."""
            described = read_recipe(folder, "teacher")
            weights, _ = read_safetensors(folder / "teacher.safetensors")
            whole = filled(single(bare, say=False), weights, folder, "teacher", described)
            return assemble(whole, path, described)

        denoiser = led_again(denoiser, recipe, learned, trust, folder / "student.json", theirs, null)
    return denoiser, path
