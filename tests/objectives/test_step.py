"""The workbench: what is shared keeps its graph, and elementwise losses become a number without surprises."""

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.objectives import Matching, reduce

F64 = torch.float64


def test_the_shared_copy_has_a_graph_whoever_asks_first(closed):
    """Score identity sends a gradient through x_t; asked after matching, which asks under no_grad, it is the same."""
    path = closed.flow()
    models = {
        "teacher": closed.gaussian(0.0, 1.0, path),
        "student": closed.student(0.5, 0.8, path),
        "fake_score": closed.gaussian(0.7, 0.5, path),
    }
    batch, like = closed.free(64)
    matching = Matching()

    def gradient(after_matching):
        step = closed.step("student", models, batch, like)
        if after_matching:
            matching.losses("student", step)
        x_t, t = step.noised(matching.times)
        real, fake = step["teacher"](x_t, t).mean, step["fake_score"](x_t, t).mean
        loss = ((real - fake) * (real - step.rollout.x0) - 1.2 * (real - fake) ** 2).mean()
        return torch.stack(torch.autograd.grad(loss, list(models["student"].parameters())))

    alone = gradient(False)
    torch.testing.assert_close(gradient(True), alone, rtol=1e-12, atol=1e-14)
    assert float(alone.norm()) > 0.01
    critics = closed.step("fake_score", models, batch, like)
    assert not critics.noised(matching.times)[0].requires_grad


def test_a_mean_over_real_elements_then_over_samples():
    loss = torch.arange(12.0, dtype=F64).reshape(2, 3, 2)
    mask = torch.tensor([[[True], [True], [False]], [[True], [False], [False]]])
    expected = 0.5 * (loss[0, :2].mean() + 3.0 * loss[1, :1].mean())
    found = reduce(loss, torch.tensor([1.0, 3.0]), mask)
    torch.testing.assert_close(found, expected)
    where = torch.tensor([[True, False], [False, True], [True, True]]).expand(2, 3, 2)
    found = reduce(loss, 2.0, mask, where)
    kept = (loss * where * mask).flatten(1).sum(1) / torch.tensor([4.0, 2.0])
    torch.testing.assert_close(found, 2.0 * kept.mean())


@pytest.mark.parametrize("channels, frames, batch", [(3, 3, 2), (2, 4, 4), (4, 4, 4)])
def test_a_weight_a_frame_is_applied_before_the_mean(channels, frames, batch):
    """Frames as many as channels or as samples: the axes say which is which, not the sizes."""
    g = torch.Generator().manual_seed(0)
    loss, weight = (
        torch.rand(batch, channels, frames, dtype=F64, generator=g),
        torch.rand(batch, frames, generator=g),
    )
    expected = torch.stack([(loss[i] * weight[i].double()).mean() for i in range(batch)]).mean()
    torch.testing.assert_close(reduce(loss, weight[:, None, :]), expected)


@pytest.mark.parametrize("shape", [(4, 4), (4, 1), (1, 4), (2, 4, 4, 1), (3, 1, 1), (1, 1, 2)])
def test_shapes_that_only_happen_to_broadcast_are_refused(shape):
    loss = torch.rand(4, 4, 4)
    for options in (
        {"weight": torch.ones(shape)},
        {"mask": torch.ones(shape) > 0},
        {"where": torch.ones(shape) > 0},
    ):
        with pytest.raises(UserError, match="as many axes"):
            reduce(loss, **options)
    with pytest.raises(UserError, match="weight of shape"):
        reduce(loss, torch.ones(3))
