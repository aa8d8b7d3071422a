"""The suite for beliefs: what passes it, and that each broken promise is found."""

import pytest
import torch

from omnidistill import paths
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.networks.mlp import MLP
from omnidistill.posteriors import CategoricalPosterior, MixturePosterior, PointPosterior
from omnidistill.testing import ConformanceError, check_belief, check_denoiser


def mixture(g):
    parts = (
        torch.randn(4, 3, 2, generator=g),
        torch.randn(4, 3, generator=g),
        0.2 * torch.randn(4, 3, generator=g),
    )
    return MixturePosterior.of(*parts), torch.randn(4, 2, generator=g), paths.rectified_flow()


def point(g):
    return (
        PointPosterior(torch.randn(4, 2, generator=g)),
        torch.randn(4, 2, generator=g),
        paths.rectified_flow(),
    )


def tokens(g):
    x0 = torch.randint(5, (4, 3), generator=g)
    return CategoricalPosterior(torch.randn(4, 3, 5, generator=g)), x0, paths.MaskedPath(5)


@pytest.mark.parametrize("kind", [mixture, point, tokens])
def test_beliefs_conform(kind):
    belief, x0, path = kind(torch.Generator().manual_seed(0))
    assert len(check_belief(belief, x0, path)) == 4


class Loud(PointPosterior):
    def replace(self, parameters):
        return type(self)(parameters)


class Unweighted(Loud):
    def pull(self, direction, weight=1.0):
        return super().pull(direction)


class Drifting(Loud):
    def gap(self, real, kind="forward"):
        return super().gap(real, kind) + 0.1


class Unlikely(Loud):
    def log_prob(self, x0):
        return super().log_prob(x0).sum(-1)


class Sharpening(Loud):
    def guide(self, unconditional, scale):
        return PointPosterior(2 * self.mean)


@pytest.mark.parametrize("kind, message", [
    (Unweighted, "pull"), (Drifting, "gap to itself"), (Unlikely, "one number"), (Sharpening, "guide with itself"),
])  # fmt: skip
def test_broken_beliefs_are_found(kind, message):
    g = torch.Generator().manual_seed(0)
    with pytest.raises(ConformanceError, match=message):
        check_belief(
            kind(torch.randn(4, 2, generator=g)), torch.randn(4, 2, generator=g), paths.rectified_flow()
        )


class Forgetful(MLP):
    """Answers something else when features are asked for."""

    def forward(self, x, t, *args, features=None, **keywords):
        answer = super().forward(x, t, *args, features=features, **keywords)
        return answer if features is None else (None if answer[0] is None else answer[0] + 1, answer[1])


def test_a_network_whose_features_change_its_answer_is_found():
    x0 = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for network, broken in ((MLP(3, 8, 1), False), (Forgetful(3, 8, 1), True)):
        denoiser = NetworkDenoiser(network, paths.rectified_flow(), "flow")
        if broken:
            with pytest.raises(ConformanceError, match="its belief is that of a call"):
                check_denoiser(denoiser, x0)
        else:
            assert "belief and features come from one counted call" in " ".join(check_denoiser(denoiser, x0))
