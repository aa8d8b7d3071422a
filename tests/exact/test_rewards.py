"""Rewards of exact tasks against figures by hand."""

import pytest
import torch

from omnidistill.context import Context
from omnidistill.exact.rewards import Apart, Count, Extent, Half, Nearest, Towards


def test_rewards_by_hand():
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.0]])
    assert Towards([0.0])(x, None, Context()).tolist() == [-0.5, -0.5]
    assert Half([0.0, 1.0], 1.0)(x, None, Context()).tolist() == [1.0, 0.0]
    assert Nearest([[1.0, 1.0], [0.0, 0.0]])(x, None, Context()).tolist() == [-0.5, -0.5]
    tokens = torch.tensor([[0, 1, 0, 2]])
    assert Count(0)(tokens, None, Context()).tolist() == [0.5]
    assert Count(0)(tokens, None, Context(mask=torch.tensor([[True, True, False, False]]))).tolist() == [0.5]


def test_a_clouds_extent_has_no_pose():
    g = torch.Generator().manual_seed(0)
    cloud = torch.randn(3, 7, 3, generator=g, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))
    extent = Extent()(cloud, None, Context())
    torch.testing.assert_close(Extent()(cloud @ turn + 5.0, None, Context()), extent)
    assert torch.equal(Extent(-1.0)(2.0 * cloud, None, Context()), -Extent()(2.0 * cloud, None, Context()))
    assert float(Extent()(2.0 * cloud, None, Context())[0]) == pytest.approx(2.0 * float(extent[0]))


def test_two_points_of_a_cloud_are_apart_in_every_pose():
    cloud = torch.tensor(
        [[[0.0, 0.0, 0.0], [1.0, 2.0, 2.0], [9.0, 9.0, 9.0]], [[0.0] * 3, [0.0] * 3, [9.0] * 3]]
    )
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    for x in (cloud, cloud @ turn - 4.0):
        assert Apart([0, 1], 2.9)(x, None, Context()).tolist() == [1.0, 0.0]
        assert Apart([1, 0], 3.1)(x, None, Context()).tolist() == [0.0, 0.0]
        assert Apart([0, 2], 3.1)(x, None, Context()).tolist() == [1.0, 1.0]
