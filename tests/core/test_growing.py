"""A walk whose states grow: how they are resized, at which sizes a denoiser is asked, what is refused."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.paths.symmetry import RigidMotion
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.samplers import FewStep, Growing, student_sampler
from omnidistill.samplers.resize import resized, resizing

F64 = torch.float64


def test_smaller_are_means_over_areas_and_larger_are_cubic():
    """In two dimensions torch knows both, and neither in three."""
    x = torch.randn(2, 3, 12, 10, dtype=F64, generator=generator("x"))
    for size in ((6, 5), (4, 2), (12, 5)):
        torch.testing.assert_close(resized(x, size), F.interpolate(x, size=size, mode="area"))
    for size in ((24, 20), (13, 17), (12, 11)):
        expected = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
        torch.testing.assert_close(resized(x, size), expected)
    assert resized(x, (12, 10)) is x
    # A share of a cell: of five halves each mean keeps all that there is.
    assert resizing(5, 2).mul(5).tolist() == [[2, 2, 1, 0, 0], [0, 0, 1, 2, 2]]
    clip = torch.randn(2, 1, 4, 6, 8, generator=generator("clip"))
    torch.testing.assert_close(resized(clip, (2, 3, 4)), F.interpolate(clip, size=(2, 3, 4), mode="area"))
    flat = torch.full((1, 1, 3, 3, 3), 0.7, dtype=F64)
    torch.testing.assert_close(resized(flat, (5, 7, 2)), flat.new_full((1, 1, 5, 7, 2), 0.7))


class Knows(Denoiser):
    """One sample, at each size that it is asked at, which it notes; or a linear student."""

    def __init__(self, image, slope=0.0):
        super().__init__(paths.rectified_flow())
        self.image, self.asked = image, []
        self.slope = torch.nn.Parameter(torch.tensor(slope, dtype=F64))

    def belief(self, x_t, t, context, target_time):
        self.asked.append(tuple(x_t.shape[2:]))
        known = resized(self.image, x_t.shape[2:]).expand(x_t.shape)
        return PointPosterior(known + self.slope * x_t)


@pytest.mark.parametrize("shape", [(16,), (8, 12), (4, 4, 8)])
def test_an_exact_denoiser_of_one_sample_finds_it_at_every_step_count(shape):
    image = torch.randn(1, 2, *shape, dtype=F64, generator=generator("image"))
    like, sampler = torch.empty(3, 2, *shape, dtype=F64), Growing([0.25, 0.5, 1.0])
    orders = {1: [2], 2: [0, 2], 3: [0, 1, 2], 4: [0, 0, 1, 2], 5: [0, 0, 1, 1, 2], 6: [0, 0, 0, 1, 1, 2]}
    for steps, order in orders.items():
        knows = Knows(image)
        made = sampler.sample(knows, like, steps, g=generator("noise"), keep=True)
        torch.testing.assert_close(made.x0, image.expand(like.shape))
        sizes = [tuple(int(n * sampler.sizes[i]) for n in shape) for i in order]
        assert knows.asked == [tuple(x.shape[2:]) for x in made.states[:-1]] == sizes and made.nfe == steps
        walk = sampler.trajectory(knows, like, steps, g=generator("noise"))
        assert all(torch.equal(a, b) for a, b in zip(walk.states, made.states, strict=True))
        for k in range(steps):
            for data in (None, image.expand(like.shape)):
                before = knows.calls
                rollout = sampler.rollout(knows, like, steps, g=generator("noise"), data=data, k=k)
                assert knows.calls - before == (k + 1 if data is None else 1)
                assert tuple(rollout.x_t.shape[2:]) == tuple(rollout.x0.shape[2:]) == sizes[k]
            assert torch.equal(
                sampler.rollout(knows, like, steps, g=generator("noise"), k=k).x_t, walk.states[k]
            )


def test_the_gradient_of_a_whole_walk_goes_through_all_sizes():
    """x_0 of two steps is a polynomial of the student's slope, whose derivative finite differences know."""
    image = torch.randn(1, 1, 8, dtype=F64, generator=generator("image"))
    like, sampler = torch.empty(2, 1, 8, dtype=F64), Growing([0.5, 1.0])

    def end(slope):
        student = Knows(image, slope)
        made = sampler.rollout(student, like, 2, g=generator("noise"), whole=True).x0.square().sum()
        return made, student.slope

    made, slope = end(0.4)
    (found,) = torch.autograd.grad(made, slope)
    assert float(found) == pytest.approx(
        float((end(0.4 + 1e-5)[0] - end(0.4 - 1e-5)[0]).detach()) / 2e-5, rel=1e-7
    )


def test_with_one_size_it_is_the_plain_walk_bit_for_bit():
    image = torch.randn(1, 1, 8, 8, generator=generator("image"))
    like, times = torch.empty(4, 1, 8, 8), [1.0, 0.8, 0.5]
    student, data = Knows(image, 0.3), image.expand(like.shape)
    plain, grown = FewStep("renoise", times), Growing([1.0, 1.0, 1.0], times)
    for steps in (1, 2, 3, 6):
        made = [s.sample(student, like, steps, g=generator("noise")).x0 for s in (plain, grown)]
        assert torch.equal(*made)
        for options in ({}, {"data": data}, {"whole": True}):
            pair = [
                s.rollout(student, like, steps, g=generator("noise"), structure=generator("k"), **options)
                for s in (plain, grown)
            ]
            assert torch.equal(pair[0].x_t, pair[1].x_t) and torch.equal(pair[0].x0, pair[1].x0)
            assert pair[0].s == pair[1].s
    states = [s.trajectory(student, like, 3, g=generator("noise")).states for s in (plain, grown)]
    assert all(itertools.starmap(torch.equal, zip(*states, strict=True)))


@pytest.mark.parametrize("wrong, said", [
    ({"sizes": [0.5, 0.75]}, "rise from above 0 to 1"),
    ({"sizes": [1.0, 0.5, 1.0]}, "rise from above 0 to 1"),
    ({"sizes": [0.0, 1.0]}, "rise from above 0 to 1"),
    ({"sizes": []}, "rise from above 0 to 1"),
    ({"sizes": ["1"]}, "rise from above 0 to 1"),
    ({"sizes": [0.5, 1.0], "transition": "ode"}, "transition=ode keeps some; use student.transition=renoise"),
    ({"sizes": [0.5, 1.0], "transition": "gamma", "gamma": 0.5}, "transition=gamma keeps some"),
    ({"sizes": [0.5, 1.0], "transition": "ancestral"}, "transition=ancestral keeps some"),
])  # fmt: skip
def test_wrong_options_are_one_line(wrong, said):
    with pytest.raises(UserError, match=said) as error:
        student_sampler(**wrong)
    assert "\n" not in str(error.value)


def test_states_of_one_size_are_refused():
    sampler, like = Growing([0.5, 1.0]), torch.empty(2, 1, 8)
    flow = paths.rectified_flow()
    cases = [
        (paths.MaskedPath(5), torch.empty(2, 8, dtype=torch.long), Context(), "tokens have none between"),
        (flow, torch.empty(2, 8), Context(), "no axis behind their channels"),
        (paths.ouve(), like, Context(anchor=like), "the anchor has the full size"),
        (flow, like, Context(mask=like > 0), "lengths of a mask"),
        (
            paths.rectified_flow(RigidMotion()),
            torch.empty(2, 5, 3),
            Context(),
            "points in space lie on no grid",
        ),
    ]
    for path, state, context, said in cases:
        denoiser = Knows(torch.zeros(1, 1, 8))
        denoiser.path = path
        with pytest.raises(UserError, match=f"student.sizes resize states.*{said}.*leave it out"):
            sampler.sample(denoiser, state, 2, context, g=generator("noise"))
    with pytest.raises(UserError, match="begins at 4, got a start of shape"):
        sampler.sample(Knows(torch.zeros(1, 1, 8)), like, 2, g=generator("noise"), x_1=torch.zeros(2, 1, 8))
