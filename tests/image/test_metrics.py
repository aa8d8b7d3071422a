"""Fréchet distance, precision and recall against known answers; the shipped classifiers against real images."""

import math

import numpy as np
import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.image import data, metrics, render


def exact_sample(mean: torch.Tensor, cov: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """n points whose sample mean and covariance are exactly these."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, len(mean), generator=g, dtype=torch.float64)
    z = z - z.mean(0)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(z.T)), z.T, upper=False).T
    return z @ torch.linalg.cholesky(cov).T + mean


def random_covariance(d: int, seed: int) -> torch.Tensor:
    a = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T + 0.1 * torch.eye(d, dtype=torch.float64)


def test_frechet_of_commuting_gaussians_is_the_closed_form():
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    s, r = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 1.0, 0.25]).double()
    a = exact_sample(mean, s.diag(), 50, 0)
    b = exact_sample(torch.zeros(3, dtype=torch.float64), r.diag(), 70, 1)
    expected = mean.square().sum() + (s.sqrt() - r.sqrt()).square().sum()
    assert metrics.frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)


def test_frechet_of_any_gaussians_agrees_with_scipy():
    from scipy.linalg import sqrtm

    s, r = random_covariance(6, 0), random_covariance(6, 1)
    mean = torch.arange(6, dtype=torch.float64)
    a, b = exact_sample(mean, s, 100, 2), exact_sample(0 * mean, r, 80, 3)
    root = np.trace(sqrtm(s.numpy() @ r.numpy()).real)
    expected = float(mean.square().sum() + s.trace() + r.trace()) - 2 * float(root)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert metrics.frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)
    assert metrics.frechet_distance(a, a + 3) == pytest.approx(9 * 6, rel=1e-9)


def test_frechet_survives_singular_covariances():
    flat = torch.zeros(40, 8)
    flat[:, 0] = torch.linspace(-1, 1, 40)
    assert metrics.frechet_distance(flat, flat) == pytest.approx(0.0, abs=1e-12)
    assert metrics.frechet_distance(flat, 2 * flat) == pytest.approx(
        float(flat[:, 0].double().var()), rel=1e-9
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_frechet_refuses_nan(bad):
    a = torch.zeros(10, 3)
    a[4, 1] = bad
    with pytest.raises(UserError, match="1 of 10 feature vectors are NaN or infinite"):
        metrics.frechet_distance(a, torch.zeros(10, 3))
    with pytest.raises(UserError, match="at least 2"):
        metrics.frechet_distance(torch.zeros(1, 3), torch.zeros(10, 3))


def test_precision_and_recall_on_known_sets():
    g = torch.Generator().manual_seed(0)
    left, right = torch.randn(400, 4, generator=g), torch.randn(400, 4, generator=g)
    right[:, 0] += 30
    both = torch.cat((left[:200], right[:200]))
    # One of two modes: every sample is plausible, half of the real ones are out of reach.
    precision, recall = metrics.precision_recall(left, both)
    assert precision > 0.85 and recall == pytest.approx(0.5, abs=0.07)
    # The other way round: half of the samples are wrong, nothing real is missed.
    precision, recall = metrics.precision_recall(both, left)
    assert precision == pytest.approx(0.5, abs=0.07) and recall > 0.85
    # Collapsed onto a point: plausible, and covers nothing but its neighbourhood.
    collapsed = left[:1] + 1e-3 * torch.randn(400, 4, generator=g)
    precision, recall = metrics.precision_recall(collapsed, left)
    assert precision > 0.95 and recall < 0.02
    assert metrics.precision_recall(left, right) == (0.0, 0.0)


def test_precision_and_recall_by_hand():
    # k = 1: radii are 1, 1, 2 around the real points 0, 1, 3; and 0.5, 0.5, 6.5 around the fake 0, 0.5, 7.
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [0.5], [7.0]])
    precision, recall = metrics.precision_recall(fake, real, k=1)
    assert precision == pytest.approx(2 / 3)
    assert recall == pytest.approx(1.0)
    assert metrics.precision_recall(real, fake, k=1) == (pytest.approx(1.0), pytest.approx(2 / 3))
    with pytest.raises(UserError, match="more than k=3"):
        metrics.precision_recall(fake, real)


def test_shipped_classifier_classifies_real_images():
    images, labels = data.heldout()
    _, logits = metrics.features_and_logits(metrics.load_classifier(), images)
    assert (logits.argmax(1) == labels).double().mean() >= 0.88


def test_shipped_digit_classifier_classifies_real_digits():
    images, labels = data.digits("test")
    _, logits = metrics.features_and_logits(metrics.load_classifier("digits_classifier"), images)
    assert (logits.argmax(1) == labels).double().mean() >= 0.95


def test_evaluate_ranks_real_over_damaged_images():
    images, labels = data.heldout()
    classifier = metrics.load_classifier()
    real, _ = metrics.features_and_logits(classifier, images[2500:])
    g = torch.Generator().manual_seed(0)
    some, asked = images[:2500], labels[:2500]
    clean = metrics.evaluate(some, asked, classifier, real_features=real)
    noisy = metrics.evaluate(
        some + 0.2 * torch.randn(some.shape, generator=g), asked, classifier, real_features=real
    )
    blurred = torch.nn.functional.avg_pool2d(some, 3, 1, 1)
    blurred_figures = metrics.evaluate(blurred, asked, classifier, real_features=real)
    for worse in (noisy, blurred_figures):
        assert worse["frechet"] > 10 * clean["frechet"]
        assert worse["recall"] < 0.5 * clean["recall"]
        assert worse["precision"] < clean["precision"]
        assert worse["class_accuracy"] < clean["class_accuracy"] - 0.05
    assert clean["recall"] > 0.8 and clean["precision"] > 0.8 and clean["class_accuracy"] > 0.88
    # Dropping classes costs recall and Fréchet distance, not precision: what collapse looks like.
    kept = asked < 3
    collapsed = metrics.evaluate(some[kept], asked[kept], classifier, real_features=real)
    assert collapsed["recall"] < 0.5 and collapsed["precision"] > 0.8
    assert collapsed["frechet"] > 10 * clean["frechet"]


def test_evaluate_options_and_errors():
    images, labels = data.digits("test")
    classifier = metrics.load_classifier("digits_classifier")
    features, _ = metrics.features_and_logits(classifier, images)
    given = metrics.evaluate(images, labels, classifier, real_images=images)
    assert given == metrics.evaluate(images, labels, classifier, real_features=features)
    assert given["frechet"] == pytest.approx(0, abs=1e-9) and given["recall"] == 1.0
    assert "class_accuracy" not in metrics.evaluate(images, None, classifier, real_features=features)
    broken = images.clone()
    broken[3, 0, 2, 2] = math.nan
    with pytest.raises(UserError, match="1 of 360 samples hold NaN"):
        metrics.evaluate(broken, labels, classifier, real_features=features)
    with pytest.raises(ValueError, match="eval mode"):
        metrics.evaluate(images, labels, classifier.train(), real_features=features)


def test_render_writes_the_pixels(tmp_path):
    from PIL import Image

    samples = torch.stack([torch.full((1, 28, 28), value) for value in (-1.0, 0.0, 1.0, 2.0, -3.0)])
    path = render.render(samples, tmp_path / "new" / "grid.png", columns=3)
    page = np.asarray(Image.open(path))
    assert page.shape == (2 * 56 + 2, 3 * 56 + 4)
    centres = [int(page[28 + 58 * row, 28 + 58 * column]) for row in range(2) for column in range(3)]
    assert centres == [0, 128, 255, 255, 0, 255]
    assert (page[:, 56:58] == 255).all()
    with pytest.raises(UserError, match="NaN"):
        render.render(samples * math.nan, tmp_path / "nan.png")
    with pytest.raises(UserError, match="cannot draw samples of shape"):
        render.render(samples[:0], tmp_path / "none.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        render.render(samples, tmp_path / "file" / "grid.png")


def test_one_real_picture_is_compared_with():
    """Against a single point the Fréchet distance is the mean squared distance to it, and there are no neighbours."""
    classifier = metrics.load_classifier("digits_classifier")
    images = data.digits("train").images
    found = metrics.evaluate(images[1:200], None, classifier, images[:1])
    features = metrics.features_and_logits(classifier, images[:200])[0].double()
    apart = features[1:] - features[0]
    expected = apart.mean(0).square().sum() + apart.var(0).sum()
    assert set(found) == {"frechet"} and found["frechet"] == pytest.approx(float(expected), rel=1e-6)
