"""Any `nn.Module` as a denoiser: name its path and what its output means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers import readings
from omnidistill.denoisers.answers import dtype_of
from omnidistill.denoisers.base import Denoiser
from omnidistill.denoisers.elsewhere import Elsewhere
from omnidistill.denoisers.features import (
    asked,
    feature_channels,
    feature_layer,
    pooled,
    positions,
    tapped,
)
from omnidistill.denoisers.heads import jump_shares
from omnidistill.denoisers.inputs import TIME_INPUTS, Here, View, check_time_input
from omnidistill.denoisers.parameterisation import PARAMETERISATIONS, affine
from omnidistill.denoisers.second import takes
from omnidistill.denoisers.start import Start
from omnidistill.errors import UserError
from omnidistill.paths import Path
from omnidistill.paths.base import as_time, per_sample, rows
from omnidistill.posteriors import Posterior
from omnidistill.shapes import State, TensorTime, Time


class NetworkDenoiser(Denoiser):
    """A network and how to read its output.

    Args:
        network: called as `network(x, time)`, or `network(x, time, condition)` where there is a condition, plus the
            keywords `anchor`, `mask`, `target_time` where there are any, and `guidance` where it wants to be told.
        path: the corruption the network was trained on.
        parameterisation: one of `PARAMETERISATIONS` for a Gaussian path, or `logits` for tokens and their one-hots.
        time_input: the time as the network wants it: `t`, `1000t`, `1000(1-t)` (0 is noise there), `sigma`,
            `log_sigma/4`, `250log_sigma` (the same, times 1000), `2atan_sigma/pi` (t of the cosine schedule), or
            `index`, the place in the table of a discrete path (diffusers' timestep, 0 to 999).
        sigma_data: the data's standard deviation, for `edm`, `trigflow`, `consistency` and `unit_input`.
        unit_input: divide the input by `sqrt(sigma^2 + sigma_data^2 alpha^2)`, the c_in of Karras et al. (2022).
        target_time: the network takes the time to jump to as a keyword.
        guidance: the network takes the guidance scale that it is to imitate as a keyword, one a sample, and is told it
            where the context has one. None: as the network says, see `denoisers.second.takes`.
        time_module: the name of the submodule that embeds the time, for students of a network that takes no second
            time or guidance scale; see `denoisers.second.Second`. None: as diffusers' classes call it.
        trained_on: the name of the Gaussian path that the network was trained on, where that is not `path`; the
            parameterisation and `time_input` then speak of it. See `denoisers.elsewhere`.
        cells: the network has this many heads in place of a second time, see `denoisers.heads`.
        experts: [count, classes] where it is made of several, see `denoisers.experts`.
        sigma_init: the highest noise level that the network is asked about, see `denoisers.start`; None: the path's.

    With `logits` the belief of a resolved token is the token itself (`denoisers.readings`); that is the discrete twin
    of the boundary condition f(x, 0) = x.
    """

    named: Mapping[str, Any] | None = None
    """How network and path are described in a file, where they can be: `brought.Foreign` as a configuration."""

    source: str | None = None
    """The folder that it was read from."""

    def __init__(
        self,
        network: nn.Module,
        path: Path,
        parameterisation: str = "flow",
        *,
        time_input: str = "t",
        sigma_data: float = 1.0,
        unit_input: bool = False,
        target_time: bool = False,
        guidance: bool | None = None,
        time_module: str | None = None,
        trained_on: str | None = None,
        cells: int | None = None,
        experts: Sequence[int] | None = None,
        sigma_init: float | None = None,
    ) -> None:
        super().__init__(path)
        self.cells, self.experts = cells, experts
        if cells is not None:
            if not {"gaussian", "composable"} <= path.offers or "simplex" in path.offers:
                raise UserError(
                    f"cells={cells}: a mean over heads is a mean of beliefs where these are points on a Gaussian path, "
                    f"got {path}; use recipe=flow-map-matching"
                )
            target_time = True
        self.elsewhere = None if trained_on is None else Elsewhere(path, trained_on)
        self.home: Path = path if self.elsewhere is None else self.elsewhere.home
        self.start = None if sigma_init is None else Start(self.home, sigma_init)
        self.network = network
        self.parameterisation, self.time_input = parameterisation, time_input
        self.sigma_data, self.unit_input = sigma_data, unit_input
        self.wants_target = self.told_target = target_time
        self.wants_guidance = takes(network, "guidance") if guidance is None else guidance
        self.time_module = time_module
        tokens = "categorical" in path.offers
        simplex = "simplex" in path.offers
        known = ("logits",) if tokens or simplex else tuple(PARAMETERISATIONS)
        if parameterisation not in known:
            raise UserError(
                f"parameterisation '{parameterisation}' does not fit {path}; possible: {', '.join(known)}"
            )
        check_time_input(time_input, path)
        self.time_axis: int | None = getattr(path, "time_axis", None)
        self._means = readings.simplex if simplex else readings.tokens if tokens else readings.point

    def reading(self) -> dict[str, Any]:
        """The keywords that rebuild this denoiser around another network."""
        return {
            "parameterisation": self.parameterisation,
            "time_input": self.time_input,
            "sigma_data": self.sigma_data,
            "unit_input": self.unit_input,
            "target_time": self.told_target,
            "time_module": self.time_module,
            **({} if self.elsewhere is None else {"trained_on": self.elsewhere.home.name}),
            **({} if self.cells is None else {"cells": self.cells}),
            **({} if self.experts is None else {"experts": list(self.experts)}),
            **({} if self.start is None else {"sigma_init": self.start.level}),
        }

    def _at_home(self, x_t: Tensor, t: Tensor) -> Here:
        x_t, t = (x_t, t) if self.elsewhere is None else self.elsewhere.state(x_t, t)
        x_t, t = (x_t, t) if self.start is None else self.start.state(x_t, t)
        clean = t == 0
        regular = t.masked_fill(clean, self.home.span[0])
        at = self.home.coefficients(regular) if "gaussian" in self.home.offers else None  # type: ignore[attr-defined]
        return Here(x_t, regular, clean, at)

    def output(
        self, x_t: State, t: TensorTime, context: Context, target_time: TensorTime | None = None
    ) -> Float[Tensor, "b ..."]:
        """The bare network output."""
        out, _ = self._outputs(self._at_home(x_t, as_time(t, x_t)), t, context, target_time)
        assert out is not None
        return out

    def _outputs(
        self,
        here: Here,
        asked_at: TensorTime,
        context: Context,
        target_time: TensorTime | None,
        layers: Sequence[str] = (),
        answered: int | None = None,
        head: Tensor | None = None,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The bare output and the features of these layers, see `omnidistill.denoisers.features.asked`."""
        view = TIME_INPUTS[self.time_input]
        x_t = here.x_t
        dtype = dtype_of(self.network, x_t)

        def cast(value: Tensor) -> Tensor:
            return value.to(dtype) if value.is_floating_point() else value

        def time(value: Tensor, view: View = view) -> Tensor:
            # Never in half precision: bfloat16 knows 1000 t to a multiple of 4.
            kept = torch.float64 if dtype == torch.float64 else torch.float32
            return rows(view(self.home, value), x_t.shape[0]).to(kept)  # type: ignore[arg-type]

        keywords: dict[str, Tensor] = {}
        # Tokens that are given stand in the state itself.
        if context.anchor is not None and self.parameterisation != "logits":
            keywords["anchor"] = cast(context.anchor)
        if context.mask is not None:
            keywords["mask"] = context.mask
        if self.wants_guidance and context.guidance is not None:
            keywords["guidance"] = context.guidance
        if self.cells is not None:
            r = 0.0 if target_time is None else target_time
            jump = jump_shares(self.path, self.cells, asked_at, r, x_t)
            keywords["cells"] = jump if head is None else F.one_hot(head, self.cells).to(jump.dtype)
        elif self.told_target:
            plain = getattr(self.network, "second_in_t", False)
            s: Tensor | float = 0.0 if target_time is None else target_time
            if self.elsewhere is not None:
                s = self.elsewhere.time(as_time(s, x_t))
            s = as_time(s, x_t)
            s = s.masked_fill(s == 0, self.home.span[0])
            keywords["target_time"] = time(s, TIME_INPUTS["t"] if plain else view)
        condition = context.condition if dtype == x_t.dtype else context.map(cast).condition
        given = () if condition is None else (condition,)
        x = x_t
        if self.unit_input:
            assert here.at is not None
            alpha, _, sigma = here.at
            x = x_t * per_sample((sigma**2 + (self.sigma_data * alpha) ** 2).rsqrt(), x_t, self.time_axis)
        return asked(self.network, layers, answered, cast(x), time(here.t), *given, **keywords)

    def belief(self, x_t: State, t: Time, context: Context, target_time: TensorTime | None) -> Posterior:
        return self._asked(x_t, t, context, target_time)

    def cell(self, x_t: Tensor, t: Tensor, head: Tensor, context: Context = Context()) -> Posterior:
        """The belief of one head a sample, Long[b], about its cell of the trajectory through (x_t, t). A call."""
        if self.cells is None:
            raise UserError("this student has no heads; set student.cells to their number")
        self.count()
        return self._asked(x_t, t, context, None, head)

    def _asked(
        self,
        x_t: State,
        t: Time,
        context: Context,
        target_time: TensorTime | None,
        head: Tensor | None = None,
    ) -> Posterior:
        t = as_time(t, x_t)
        here = self._at_home(x_t, t)
        out, _ = self._outputs(here, t, context, target_time, head=head)
        assert out is not None
        return self._read(out, x_t, t, context, here)

    def _read(self, out: Tensor, x_t: State, t: Tensor, context: Context, here: Here) -> Posterior:
        return self._means(self, out, x_t, t, context, here)

    def output_weight(self, t: Float64[Tensor, "b"]) -> Float64[Tensor, "b"]:
        """The weight that turns an error of x0 into one of the bare output, `1 / b(t)^2`; 1 for tokens.

        Training on the output's own error is what the parameterisation was chosen for (Salimans & Ho 2022, sec. 4).
        """
        if self.parameterisation == "logits":
            return torch.ones_like(t)
        u = t if self.elsewhere is None else self.elsewhere.time(t)
        u = u if self.start is None else self.start.time(u)
        return affine(self.home, self.parameterisation, u, self.sigma_data).b ** -2  # type: ignore[arg-type]

    # --- features of inner layers ---------------------------------------------------------------------------------

    def examine(
        self,
        x_t: State,
        t: Time,
        context: Context = Context(),
        layers: Sequence[str] | None = None,
        *,
        answered: int | None = None,
        target_time: TensorTime | None = None,
    ) -> tuple[Posterior | None, dict[str, Tensor]]:
        self.count()
        t = as_time(t, x_t)
        names = (feature_layer(self.network)[0],) if layers is None else tuple(layers)
        here = self._at_home(x_t, t)
        out, found = self._outputs(here, t, context, target_time, names, answered)
        if out is None or answered == 0:
            return None, found
        some = slice(0, answered)
        of = t[some] if t.ndim else t
        return self._read(out, x_t[some], of, context[some], here.rows(some)), found

    def pool(self, found: Float[Tensor, "b ..."], context: Context = Context()) -> Float[Tensor, "b c"]:
        return pooled(found, feature_layer(self.network)[1], context.mask)

    def positions(
        self, found: Float[Tensor, "b ..."], context: Context = Context()
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]:
        return positions(found, feature_layer(self.network)[1], context.mask)

    def feature_widths(self, layers: Sequence[str]) -> dict[str, int]:
        return tapped(self.network, layers)

    def features(self, x_t: State, t: Time, context: Context = Context()) -> Float[Tensor, "b c"]:
        _, found = self.examine(x_t, t, context, answered=0)
        return self.pool(next(iter(found.values())), context)

    def feature_channels(self) -> int:
        return feature_channels(self.network)
