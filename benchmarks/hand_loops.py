"""Five recipes written out by hand in plain torch, for one path and parameterisation each: what a step costs at least.

Each does the work of the engine's update: draws a batch, noises it, asks the networks that the recipe asks, has its
loss, clips, steps AdamW (foreach) and moves the averages. What it has not: objectives by weight, posteriors, masks,
counted calls, diagnostics, checks for NaN, schedules of the rate, checkpoints, logs, draws that a resumed run repeats.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnidistill.tasks import Task

Ask = Callable[..., Tensor]


def flow(net: nn.Module, x: Tensor, t: Tensor, *given: Tensor, **told: Tensor) -> Tensor:
    """x0 of a velocity on `x_t = (1 - t) x0 + t eps`."""
    return x - _wide(t, x) * net(x, t, *given, **told)


def edm(sigma_data: float) -> Ask:
    """x0 of Karras et al.'s F on the same path, with inputs of unit second moment."""

    def ask(net: nn.Module, x: Tensor, t: Tensor, *given: Tensor) -> Tensor:
        s = _wide(t, x)
        square = s**2 + (sigma_data * (1 - s)) ** 2
        skip, out = sigma_data**2 * (1 - s) / square, sigma_data * s * square.rsqrt()
        return skip * x + out * net(x * square.rsqrt(), t, *given)

    return ask


def _wide(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(-1, *(1 for _ in x.shape[1:]))


class Loop:
    """Networks, optimisers, averages and the batch; subclasses write `turns`."""

    def __init__(self, network: nn.Module, task: Task, ask: Ask, batch: int, *, told: bool = False) -> None:
        self.task, self.ask, self.batch = task, ask, batch
        self.g = torch.Generator().manual_seed(0)
        self.student, self.ema = copy.deepcopy(network), copy.deepcopy(network)
        self.teacher = copy.deepcopy(network).requires_grad_(False)
        self.optimizers = {"student": self.adam(self.student)}
        self.averages = [(self.ema, 0.999)]

    def adam(self, *models: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for model in models for p in model.parameters()]
        return torch.optim.AdamW(parameters, lr=1e-5, betas=(0.9, 0.99), weight_decay=0.0, foreach=True)

    def draw(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        drawn = self.task.batch(self.batch, self.g)
        condition = drawn.context.condition
        assert drawn.x0 is not None
        return drawn.x0, () if condition is None else (condition,)  # type: ignore[return-value]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(self.batch, generator=self.g)

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.g)

    def corrupt(self, x0: Tensor, t: Tensor) -> Tensor:
        s = _wide(t, x0)
        return (1 - s) * x0 + s * self.noise(x0)

    def learn(self, role: str, loss: Tensor) -> None:
        optimizer = self.optimizers[role]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = optimizer.param_groups[0]["params"]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()

    def turns(self) -> None:
        raise NotImplementedError

    def update(self) -> None:
        self.turns()
        with torch.no_grad():
            for average, decay in self.averages:
                torch._foreach_lerp_(list(average.parameters()), list(self.student.parameters()), 1 - decay)


class ConsistencyModels(Loop):
    """Consistency distillation with Heun's solver (Song et al. 2023, alg. 2): neighbours on a grid of 16."""

    nodes = 16

    def __init__(self, *args, **keywords) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args, **keywords)
        self.target = copy.deepcopy(self.student).requires_grad_(False)
        self.averages.append((self.target, 0.95))

    def turns(self) -> None:
        x0, given = self.draw()
        index = torch.randint(self.nodes, (self.batch,), generator=self.g)
        t, r = 1 - index / self.nodes, 1 - (index + 1) / self.nodes
        with torch.no_grad():
            x_t = self.corrupt(x0, t)
            one = self.ask(self.teacher, x_t, t, *given)
            ratio = _wide(r / t, x_t)
            guess = one + ratio * (x_t - one)
            late = torch.where(
                _wide(r, one) == 0, one, self.ask(self.teacher, guess, r.clamp_min(1e-3), *given)
            )
            mean = 0.5 * (one + late)
            x_r = mean + ratio * (x_t - mean)
            target = torch.where(
                _wide(r, x_r) == 0, x_r, self.ask(self.target, x_r, r.clamp_min(1e-3), *given)
            )
        self.learn("student", 0.5 * (self.ask(self.student, x_t, t, *given) - target).square().mean())


class LCM(Loop):
    """Latent consistency: a guided DDIM step of the teacher over one of 50 nodes, the scale told to the student."""

    nodes = 50

    def __init__(self, network: nn.Module, task: Task, ask: Ask, batch: int) -> None:
        super().__init__(network, task, ask, batch)
        self.student = task.network(guidance=True)
        self.student.load_state_dict(network.state_dict(), strict=False)
        self.ema = copy.deepcopy(self.student)
        self.target = copy.deepcopy(self.student).requires_grad_(False)
        self.averages = [(self.ema, 0.999), (self.target, 0.95)]
        self.optimizers = {"student": self.adam(self.student)}

    def turns(self) -> None:
        x0, (label,) = self.draw()
        scale = 1 + 3 * torch.rand(self.batch, generator=self.g)
        index = torch.randint(self.nodes, (self.batch,), generator=self.g)
        t, r = 1 - index / self.nodes, 1 - (index + 1) / self.nodes
        with torch.no_grad():
            x_t = self.corrupt(x0, t)
            labels = torch.cat((label, torch.full_like(label, self.task.null)))  # type: ignore[arg-type]
            c, u = self.ask(self.teacher, torch.cat((x_t, x_t)), t.repeat(2), labels).chunk(2)
            mean = u + _wide(scale, u) * (c - u)
            x_r = mean + _wide(r / t, mean) * (x_t - mean)
            target = self.ask(self.target, x_r, r.clamp_min(1e-3), label, guidance=scale)
            target = torch.where(_wide(r, x_r) == 0, x_r, target)
        error = (self.ask(self.student, x_t, t, label, guidance=scale) - target).flatten(1)
        c0 = 0.00054 * error.shape[1] ** 0.5
        self.learn("student", ((error.square().sum(1) + c0**2).sqrt() - c0).mean() / error.shape[1])


class DMD2(Loop):
    """Distribution matching with `k` critic updates, and a discriminator on the critic's features if asked."""

    def __init__(self, *args, k: int = 2, head: bool = True, **keywords) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args, **keywords)
        self.fake, self.k, self.head = copy.deepcopy(self.teacher).requires_grad_(True), k, None
        if head:
            n = self.fake.feature_channels
            assert isinstance(n, int)
            self.head = nn.Sequential(nn.LayerNorm(n), nn.Linear(n, 128), nn.SiLU(), nn.Linear(128, 1))
            layer = self.fake.get_submodule(self.fake.feature_module)  # type: ignore[arg-type]
            layer.register_forward_hook(lambda module, inputs, out: setattr(self, "seen", out))
        self.optimizers["fake"] = self.adam(*(m for m in (self.fake, self.head) if m is not None))

    def logits(self) -> Tensor:
        """Of what the critic was asked last."""
        assert self.head is not None
        return self.head(self.seen.flatten(2).mean(-1) if self.seen.ndim > 2 else self.seen)

    def generate(self, x0: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        return self.ask(self.student, self.noise(x0), torch.ones(self.batch), *given)

    def turns(self) -> None:
        for _ in range(self.k):
            x0, given = self.draw()
            with torch.no_grad():
                made = self.generate(x0, given)
            self.learn("fake", self.critic_loss(x0, made, given))
        x0, given = self.draw()
        self.fake.requires_grad_(False)
        self.learn("student", self.student_loss(x0, given))
        self.fake.requires_grad_(True)

    def critic_loss(self, x0: Tensor, made: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        """Denoising of the samples, and with a head real against fake: one call for all of it."""
        t = self.uniform(0.02, 0.98)
        x_t = self.corrupt(made, t)
        if self.head is None:
            answer = self.ask(self.fake, x_t, t, *given)
        else:
            late = self.uniform(0.02, 0.98)
            both, times = torch.cat((x_t, self.corrupt(x0, late))), torch.cat((t, late))
            twice = tuple(torch.cat((each, each)) for each in given)
            answer = self.ask(self.fake, both, times, *twice)[: self.batch]
        loss = (0.5 * _wide(t, made) ** -2 * (answer - made).square()).mean()
        if self.head is None:
            return loss
        fake, real = self.logits().chunk(2)
        return loss + 1e-2 * (F.softplus(fake) + F.softplus(-real)).mean()

    def student_loss(self, x0: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        made = self.generate(x0, given)
        t = self.uniform(0.02, 0.98)
        x_t = self.corrupt(made, t)
        with torch.no_grad():
            real = self.ask(self.teacher, x_t, t, *given)
        with torch.set_grad_enabled(self.head is not None):
            fake = self.ask(self.fake, x_t, t, *given).detach()
        scale = (made - real).abs().flatten(1).mean(1).clamp_min(1e-4).detach()
        wanted = (made - (fake - real) / _wide(scale, made)).detach()
        loss = 0.5 * (made - wanted).square().mean()
        return loss if self.head is None else loss + 1e-2 * F.softplus(-self.logits()).mean()


class DMD(DMD2):
    """Matching beside a regression on stored pairs of the teacher's noise and sample (Yin et al. 2023)."""

    def __init__(self, *args, **keywords) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args, k=1, head=False, **keywords)
        like = self.task.like(512)
        self.pairs = self.noise(like), self.noise(like)

    def student_loss(self, x0: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        rows = torch.randint(512, (self.batch,), generator=self.g)
        x_1, sample = (side[rows] for side in self.pairs)
        answer = self.ask(self.student, x_1, torch.ones(self.batch), *given)
        return super().student_loss(x0, given) + 0.125 * (answer - sample).square().mean()


class SDTT(Loop):
    """Self-distillation through time on masked tokens, alpha = 1 - t: two teacher half steps in one of the student."""

    nodes = 32

    def belief(self, net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        return net(x, t)[..., : self.task.path.vocab].log_softmax(-1)  # type: ignore[attr-defined]

    def turns(self) -> None:
        x0, _ = self.draw()
        mask = self.task.path.mask_id  # type: ignore[attr-defined]
        index = torch.randint(self.nodes, (self.batch,), generator=self.g)
        t, s = 1 - index / self.nodes, 1 - (index + 1) / self.nodes
        r = 0.5 * (t + s)
        with torch.no_grad():
            x_t = torch.where(torch.rand(x0.shape, generator=self.g) < 1 - t[:, None], x0, mask)
            one = self.belief(self.teacher, x_t, t)
            cumulative = one.exp().double().cumsum(-1)
            u = torch.rand(x0.shape, generator=self.g, dtype=torch.float64)[..., None] * cumulative[..., -1:]
            drawn = torch.searchsorted(cumulative, u, right=True).squeeze(-1).clamp_max(one.shape[-1] - 1)
            reveal = torch.rand(x0.shape, generator=self.g) < ((t - r) / t)[:, None]
            x_r = torch.where((x_t == mask) & reveal, drawn, x_t)
            two = self.belief(self.teacher, x_r, r)
            target = torch.where((x_r == mask)[..., None], two, one)
        own = self.belief(self.student, x_t, t)
        error = (own.exp() * (own - target)).sum(-1)
        self.learn("student", torch.where(x_t == mask, error, 0.0).mean())
