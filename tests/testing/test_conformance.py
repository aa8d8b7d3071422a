"""The suites accept what is right and name what is wrong: each broken subject below fails by the property it breaks."""

import copy

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, Guided, NetworkDenoiser
from omnidistill.exact import GaussianMixtureTask, MarkovTextTask
from omnidistill.objectives.adversarial import Adversarial
from omnidistill.objectives.base import Losses, RoleSpec
from omnidistill.objectives.consistency import Consistency
from omnidistill.objectives.denoising import Denoising
from omnidistill.objectives.flow_map import FlowMap
from omnidistill.objectives.matching import Matching
from omnidistill.objectives.regression import Regression
from omnidistill.objectives.step import Step, reduce
from omnidistill.objectives.weighted import Weighted
from omnidistill.paths.symmetry import RigidMotion
from omnidistill.posteriors import PointPosterior
from omnidistill.tasks import Metric, Task
from omnidistill.testing import ConformanceError, check_denoiser, check_objective, check_path, check_task

G = {
    "rectified_flow": paths.rectified_flow, "vp_cosine": paths.vp_cosine, "vp_linear": paths.vp_linear,
    "trigflow": paths.trigflow, "edm": paths.edm, "grad_tts": paths.grad_tts, "ouve": paths.ouve,
    "brownian_bridge": paths.brownian_bridge, "residual_shift": paths.residual_shift,
    "rigid": lambda: paths.rectified_flow(RigidMotion()),
    "masked": lambda: paths.MaskedPath(7, "cosine"), "noisy masked": lambda: paths.MaskedPath(7, "arccos", 0.4),
    "uniform": lambda: paths.UniformPath(7),
}  # fmt: skip


def samples(path, count=4):
    g = torch.Generator().manual_seed(3)
    if "categorical" in path.offers:
        return torch.randint(7, (count, 6), generator=g), Context()
    x0 = path.symmetry.project(torch.randn(count, 5, 3, generator=g))
    return x0, Context(anchor=torch.randn(count, 5, 3, generator=g) if "anchored" in path.offers else None)


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", G)
def test_every_path_conforms(name):
    path = G[name]()
    lines = check_path(path, *samples(path))
    assert sum("has the law of renoise" in line for line in lines) == 1 and len(lines) >= 7


class Wrong(paths.GaussianPath):
    """A rectified flow with one mistake."""

    def __init__(self, mistake):
        super().__init__("wrong", lambda t: 1 - t, lambda t: t, span=(1e-3, 1.0))
        self.mistake = mistake

    def corrupt(self, x0, t, context=Context(), *, g=None):
        if self.mistake == "global":
            return super().corrupt(x0, t, context, g=None)
        if self.mistake == "start":
            t = torch.as_tensor(t, dtype=torch.float64).clamp_min(0.02)
        if self.mistake == "padding":
            context = Context(anchor=context.anchor)
        x = super().corrupt(x0, t, context, g=g)
        return x.double() if self.mistake == "dtype" else x

    def bridge(self, x_t, x0, t, s, context=Context(), *, churn=0.0, g=None):
        if self.mistake == "variance":  # the posterior's noise on top of the kept noise, not in its place
            noise = super().bridge(x_t, x0, t, s, context, churn=churn, g=g)
            return noise + 0.3 * churn * float(self.coefficients(s).sigma.max()) * torch.randn(
                x0.shape, generator=g
            )
        if self.mistake == "mean" and float(torch.as_tensor(s).max()) > 0:
            x0 = 1.02 * x0
        if self.mistake == "batch":
            t = torch.as_tensor(t, dtype=torch.float64).flatten()[0] + (
                0.01 if torch.as_tensor(t).ndim else 0.0
            )
        return super().bridge(x_t, x0, t, s, context, churn=churn, g=g)

    def share(self, x_t, x_r, t, r, s):
        right = super().share(x_t, x_r, t, r, s)
        return 0.9 * right if self.mistake == "share" else right


@pytest.mark.parametrize("mistake, message", [
    ("global", "repeats under one seed|global generator"),
    ("start", "corrupt to t = 0 returns x0"),
    ("padding", "of a padded sample equals"),
    ("dtype", "corrupt keeps shape and dtype"),
    ("variance", "has the law of renoise.*variance off"),
    ("mean", "has the law of renoise.*mean off"),
    ("batch", r"takes times of shape \[b\]"),
    ("share", "equal one jump"),
])  # fmt: skip
def test_a_broken_path_is_told_which_property(mistake, message):
    check_path(Wrong(None), *samples(Wrong(None)))
    with pytest.raises(ConformanceError, match=message) as caught:
        check_path(Wrong(mistake), *samples(Wrong(None)))
    assert "\n" not in str(caught.value)


def test_a_masked_path_that_reveals_too_much_is_found():
    path = paths.MaskedPath(7)
    right = path.bridge

    def eager(x_t, x0, t, s, context=Context(), *, churn=0.0, g=None):
        return right(x_t, x0, t, torch.as_tensor(s, dtype=torch.float64) * 0.93, context, churn=churn, g=g)

    path.bridge = eager
    with pytest.raises(ConformanceError, match=r"has the law of renoise.*frequency"):
        check_path(path, *samples(path))


# --- denoisers ------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """Elementwise; with a mistake it looks where it must not."""

    def __init__(self, mistake=None):
        super().__init__()
        self.weight, self.mistake = torch.nn.Parameter(torch.tensor(0.7)), mistake

    def forward(self, x, t, condition=None, mask=None, **keywords):
        out = torch.tanh(self.weight * x) * (1 + t.reshape(-1, *[1] * (x.ndim - 1)))
        if self.mistake == "batch":
            out = out + x.mean()
        if self.mistake == "padding":
            out = out + x.mean(1, keepdim=True)
        if self.mistake == "random":
            out = out + 0.1 * torch.randn(out.shape)
        if self.mistake == "nan":
            out = out / (1 - t.reshape(-1, *[1] * (x.ndim - 1)))
        if self.mistake == "graph":
            out = out.detach()
        return out


def denoiser(mistake=None, **options):
    return NetworkDenoiser(Net(mistake), paths.rectified_flow(), "flow", **options)


def state(mask=False):
    x0 = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    if not mask:
        return x0, Context()
    real = torch.arange(6) < torch.tensor([6, 4, 3, 5])[:, None]
    return x0 * real, Context(mask=real)


def test_denoisers_conform():
    assert len(check_denoiser(denoiser(), *state())) >= 6
    assert any("padding" in line for line in check_denoiser(denoiser(), *state(mask=True)))
    labels = Context(torch.tensor([0, 1, 2, 0]))
    check_denoiser(Guided(denoiser(), 2.0, 3), state()[0], labels)
    tokens = NetworkDenoiser(Tokens(), paths.MaskedPath(7), "logits")
    check_denoiser(tokens, *samples(tokens.path))


class Tokens(torch.nn.Module):
    def forward(self, x, t):
        return torch.sin(x[..., None] * torch.arange(1.0, 8.0)) + t[:, None, None]


@pytest.mark.parametrize("mistake, message", [
    ("batch", "order of a batch|alone is answered"),
    ("padding", "real elements do not read padding"),
    ("random", "answers repeat|global generator"),
    ("nan", "the belief is finite; seen: t=1"),
])  # fmt: skip
def test_a_broken_denoiser_is_told_which_property(mistake, message):
    with pytest.raises(ConformanceError, match=message):
        check_denoiser(denoiser(mistake), *state(mask=True))


class Direct(Denoiser):
    def __init__(self, mistake):
        super().__init__(paths.rectified_flow())
        self.mistake = mistake

    def belief(self, x_t, t, context, target_time):
        if self.mistake == "boundary":
            return PointPosterior(0.9 * x_t)
        if self.mistake == "calls":
            self.calls += x_t.shape[0]
        return PointPosterior(x_t.detach() if self.mistake == "graph" else x_t)


@pytest.mark.parametrize("mistake, message", [
    ("boundary", "a clean sample is believed"),
    ("calls", "a call adds the same count"),
    ("graph", "depends on x_t through the graph"),
])  # fmt: skip
def test_a_broken_closed_form_is_told_which_property(mistake, message):
    check_denoiser(Direct(None), *state())
    with pytest.raises(ConformanceError, match=message):
        check_denoiser(Direct(mistake), *state())


def test_checking_leaves_the_mode_alone():
    subject = denoiser().train()
    check_denoiser(subject, *state())
    assert subject.training


# --- objectives -----------------------------------------------------------------------------------

SMALL = {"width": 16, "depth": 2}


class Regress:
    """The student's belief against the teacher's, with a critic of its own; with a mistake."""

    needs, bank, rolls_out = frozenset({"data"}), None, False

    def __init__(self, mistake=None):
        self.mistake, self.roles = mistake, {"fake_score": RoleSpec(start="teacher", updates=1)}
        if mistake == "needs":
            self.needs = frozenset({"data", "masked"})

    def losses(self, role, step):
        if self.mistake == "silent" and role == "fake_score":
            return None
        t = torch.full((step.batch.count,), 0.6, dtype=torch.float64)
        g = None if self.mistake == "global" else step.g
        x_t = step.path.corrupt(step.x0, t, step.context, g=g)
        with torch.no_grad():
            target = step["teacher"](x_t, t, step.context)
        if self.mistake == "calls":
            step["teacher"](x_t, t, step.context)
        belief = step[role](x_t, t, step.context)
        if self.mistake == "constant":
            belief = belief.replace(belief.parameters.detach())
        error = belief.divergence(target)
        mask = None if self.mistake == "padding" else step.context.mask
        loss = reduce(error, 1.0, mask, step.path.unresolved(x_t, t))
        if self.mistake == "vector":
            loss = error.flatten(1).mean(1)
        if self.mistake == "nan":
            loss = loss / 0.0
        if self.mistake == "changes":
            next(step["teacher"].parameters()).mul_(1.1)
        return Losses(
            {"regress": loss},
            {"error": error.mean() if self.mistake == "attached" else error.detach().mean()},
        )

    def cost(self, role):
        return {role: 1, "teacher": 1}


class Labelled(GaussianMixtureTask):
    """A mixture whose teacher is a network, so that its parameters can be watched."""

    def exact_teacher(self):
        return None


class Ragged(MarkovTextTask):
    """Sequences of unequal length."""

    def batch(self, count, g, split="train"):
        whole = super().batch(count, g, split)
        lengths = torch.randint(6, whole.x0.shape[1] + 1, (count, 1), generator=g)
        mask = torch.arange(whole.x0.shape[1]) < lengths
        mask = mask.unsqueeze(-1) if self.onehot else mask
        return Batch(torch.where(mask, whole.x0, 0), Context(mask=mask))


def test_objectives_conform():
    for task in (GaussianMixtureTask(network=SMALL), Ragged(length=12, network={**SMALL, "heads": 2})):
        lines = check_objective(Regress(), task)
        assert [line.split("'")[1] for line in lines] == ["fake_score", "student"]


@pytest.mark.parametrize("mistake, message", [
    ("needs", "offer what it needs; seen: missing masked"),
    ("silent", "'fake_score' is trained, so it has losses"),
    ("global", "losses repeat|global generator"),
    ("calls", "cost declares the calls"),
    ("constant", "depends on the role's parameters"),
    ("vector", "is a finite scalar"),
    ("nan", "is a finite scalar"),
    ("attached", "diagnostic 'error' is detached"),
    ("changes", "changes no model"),
])  # fmt: skip
def test_a_broken_objective_is_told_which_property(mistake, message):
    with pytest.raises(ConformanceError, match=message):
        check_objective(Regress(mistake), Labelled(network=SMALL))


def test_an_objective_that_reads_padding_is_found():
    with pytest.raises(ConformanceError, match="how much padding there is changes no loss"):
        check_objective(Regress("padding"), Ragged(length=12, network={**SMALL, "heads": 2}))


# --- tasks ----------------------------------------------------------------------------------------


def test_tasks_conform():
    check_task(GaussianMixtureTask(network=SMALL), teacher_steps=16)
    check_task(MarkovTextTask(length=12, network={**SMALL, "heads": 2}), teacher_steps=16)
    check_task(GaussianMixtureTask(network=SMALL, conditional=True), teacher_steps=16)


class WrongTask(GaussianMixtureTask):
    def __init__(self, mistake):
        super().__init__(network=SMALL)
        self.mistake = mistake
        if mistake == "name":
            self.name = "unnamed"
        if mistake == "upside down":
            self.primary = Metric("energy", "higher")
        if mistake == "shape":
            self.shape = (3,)

    def batch(self, count, g, split="train"):
        if self.mistake == "same":
            g = torch.Generator().manual_seed(0)
        return super().batch(count, g, split)

    def measure(self, x0, context, g):
        found = super().measure(x0, context, g)
        if self.mistake == "order":
            found["energy"] += float(x0[0, 0].abs())
        if self.mistake == "unmeasured":
            found.pop("energy")
        if self.mistake == "nan":
            found["energy"] = float("nan")
        return found

    def bootstrap(self, x0, context, g, counts):
        return super().bootstrap(x0, context, g, counts) + float(self.mistake == "bootstrap")

    def network(self, *, target_time=False, guidance=False):
        network = super().network(target_time=target_time, guidance=guidance)
        if self.mistake == "embedding" and target_time:
            with torch.no_grad():
                network.target_time.linear.bias.add_(0.5)
        return network

    def exact_teacher(self):
        teacher = super().exact_teacher()
        return OneStep(teacher) if self.mistake == "teacher" else teacher

    def render(self, x0, context, target):
        files = super().render(x0, context, target)
        if self.mistake == "unwritten":
            files[0].write_bytes(b"")
        return files


class OneStep(Denoiser):
    """A teacher that knows the mean of the data only."""

    def __init__(self, teacher):
        super().__init__(teacher.path)

    def belief(self, x_t, t, context, target_time):
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, *[1] * (x_t.ndim - 1))
        return PointPosterior(torch.where(t == 0, x_t, 0.0 * x_t))


@pytest.mark.parametrize("mistake, message", [
    ("name", "it has a name"),
    ("shape", "x0 has the task's shape"),
    ("same", "another seed, another batch"),
    ("unmeasured", "primary metric is measured"),
    ("nan", "metrics are finite"),
    ("order", "energy ignores the order"),
    ("bootstrap", "the bootstrap of energy is of energy"),
    ("upside down", "the floor's energy is better"),
    ("embedding", "starts equal to the one without"),
    ("teacher", "at 16 steps beats 1"),
    ("unwritten", "no file is empty"),
])  # fmt: skip
def test_a_broken_task_is_told_which_property(mistake, message):
    with pytest.raises(ConformanceError, match=message):
        check_task(WrongTask(mistake), teacher_steps=16)


def test_an_error_inside_is_a_failed_property_of_one_line():
    task = copy.copy(GaussianMixtureTask(network=SMALL))
    task.render = lambda *_: 1 / 0
    with pytest.raises(
        ConformanceError, match="render writes readable files; seen: ZeroDivisionError"
    ) as caught:
        check_task(task, teacher_steps=16)
    assert "\n" not in str(caught.value)


# --- what is ours ---------------------------------------------------------------------------------


class RaggedNet(torch.nn.Module):
    feature_module, feature_axis, feature_channels = "body", 2, 8

    def __init__(self):
        super().__init__()
        self.enter, self.body, self.leave = (
            torch.nn.Linear(3, 8),
            torch.nn.Linear(8, 8),
            torch.nn.Linear(8, 3),
        )

    def forward(self, x, t, mask, target_time=None):
        hidden = self.enter(x) + t[:, None, None]
        hidden = hidden if target_time is None else hidden * (1.0 + target_time[:, None, None])
        hidden = hidden + (hidden * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return self.leave(torch.tanh(self.body(torch.tanh(hidden))))


class RaggedClouds(Task):
    """Points modulo rigid motion, between 4 and 9 of them."""

    name, shape, primary = "test/clouds", (9, 3), Metric("none")
    path = paths.rectified_flow(RigidMotion())

    def batch(self, count, g, split="train"):
        mask = (torch.arange(9) < torch.randint(4, 10, (count, 1), generator=g))[..., None]
        return Batch(
            self.path.symmetry.project(torch.randn(count, 9, 3, generator=g), mask), Context(mask=mask)
        )

    def network(self, *, target_time=False, guidance=False):
        return RaggedNet()

    def reading(self):
        return {"parameterisation": "edm"}


OBJECTIVES = {
    "consistency training": lambda: Consistency("bridge", "self"),
    "consistency distillation": lambda: Consistency("teacher", "average"),
    "pseudo-Huber": lambda: Consistency("bridge", "self", divergence="huber"),
    "progressive": lambda: Consistency("teacher", "jump", rounds=2),
    "second order": lambda: Consistency("teacher", "teacher", teacher_steps=2, second_order=True),
    "stored": lambda: Consistency("stored", "average"),
    "matching": Matching,
    "score distillation": lambda: Matching("none", normaliser="none"),
    "denoising": Denoising,
    "regression": lambda: Regression(steps=4),
    "adversarial": lambda: Weighted({"matching": Matching(), "adversarial": Adversarial()},
                                    {"matching": 1.0, "adversarial": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_families_conform_on_ragged_clouds(name):
    assert check_objective(OBJECTIVES[name](), RaggedClouds())


MAPS = (
    {},
    {"decay": 0.9},
    {"identity": "lagrangian"},
    {"identity": "lagrangian", "derivative": "difference"},
    {"identity": "eulerian", "power": 1.0, "normalise": 0.1},
    {"identity": "eulerian", "along": "student", "learned_weight": True},
)


@pytest.mark.parametrize("options", MAPS, ids=str)
def test_flow_maps_conform_on_ragged_clouds_and_one_hots(options):
    objective = FlowMap(**options)
    assert check_objective(objective, RaggedClouds(), target_time=True)
    tokens = Ragged(length=12, path="onehot", network={**SMALL, "heads": 2})
    assert check_objective(objective, tokens, target_time=True)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_families_conform_on_ragged_tokens(name):
    task, objective = Ragged(length=12, network={**SMALL, "heads": 2}), OBJECTIVES[name]()
    if objective.needs & {"deterministic", "differentiable"} or name == "pseudo-Huber":
        with pytest.raises(ConformanceError, match=r"offer what it needs|unknown divergence"):
            check_objective(objective, task)
    else:
        assert check_objective(objective, task)


def test_stored_trajectories_keep_their_own_conditions():
    """The loss on a bank does not depend on the conditions of the batch that happens to be drawn with it."""
    task = GaussianMixtureTask(network=SMALL, conditional=True)
    origin = NetworkDenoiser(task.network(), task.path, **task.reading())
    with torch.no_grad():
        for parameter in origin.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    states = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1))
    bank = {
        "states": states,
        "times": torch.tensor([1.0, 0.5, 0.0]).double(),
        "context": Context(torch.arange(4)),
    }
    losses = []
    for label in (0, 5):
        batch = Batch(states[:, -1], Context(torch.full((4,), label)))
        models = {"student": origin, "target": origin, "teacher": origin}
        g = torch.Generator().manual_seed(2)
        step = Step("student", batch, models, g, like=states[:, 0], null=task.null, bank=bank)
        losses.append(Consistency("stored").losses("student", step).terms["consistency"])
    assert torch.equal(losses[0], losses[1])
