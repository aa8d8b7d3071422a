"""The engine under Lightning's trainer: the same numbers as its own loop, also from a checkpoint of Lightning's."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Adversarial, Matching, Weighted
from omnidistill.training.loop import run
from omnidistill.training.module import Distillation
from omnidistill.training.roles import cast
from omnidistill.training.settings import Settings

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lightning") is None, reason="lightning is an extra: omnidistill[lightning]"
)
TASK = GaussianMixtureTask([[-1.0, 0.0], [0.8, 0.6]], 0.2, network={"width": 16, "depth": 1})


def engine(updates: int = 4) -> Distillation:
    """Student, critic with two updates and a head: three networks, two optimisers."""
    objective = Weighted(
        {"matching": Matching(critic_updates=2), "adversarial": Adversarial()},
        {"matching": 1.0, "adversarial": 0.1},
    )
    torch.manual_seed(0)
    student, origin = (NetworkDenoiser(TASK.network(), TASK.path, **TASK.reading()) for _ in range(2))
    crew = cast(student, origin, objective, 0.8)
    settings = Settings(updates=updates, batch=8, log_every=1)
    return Distillation(crew, TASK.exact_teacher(), objective, settings, TASK.like)


def trainer(folder: Path, **options):
    import lightning as L

    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "accelerator": "cpu",
    }
    return L.Trainer(max_epochs=1, devices=1, default_root_dir=folder, **quiet, **options)


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_the_same_student(tmp_path: Path) -> None:
    from omnidistill.interop.lightning_module import LightningDistillation

    alone, inside, start = engine(), engine(), copy.deepcopy(engine().trained.state_dict())
    run(alone, TASK, tmp_path / "alone", log=False)
    fit = trainer(tmp_path, enable_checkpointing=False)
    fit.fit(LightningDistillation(inside, TASK))
    assert inside.update == 4 and inside.role_updates == alone.role_updates
    assert {"student/matching", "fake_score/denoising"} <= {*fit.logged_metrics}
    for name, value in alone.trained.state_dict().items():
        assert torch.equal(value, inside.trained.state_dict()[name]), name
    assert any(not torch.equal(value, start[name]) for name, value in alone.trained.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_lightnings_holds_moments_and_counters(tmp_path: Path) -> None:
    from omnidistill.interop.lightning_module import LightningDistillation

    whole, half, again = engine(), engine(), engine()
    run(whole, TASK, tmp_path / "whole", log=False)
    stopped = trainer(tmp_path, enable_checkpointing=False, limit_train_batches=2)
    stopped.fit(LightningDistillation(half, TASK))
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    module = LightningDistillation(again, TASK)
    kept = torch.load(tmp_path / "half.ckpt", weights_only=True)
    module.load_state_dict(kept["state_dict"])
    module.on_load_checkpoint(kept)
    assert again.update == 2
    trainer(tmp_path, enable_checkpointing=False).fit(module)
    for name, value in whole.trained.state_dict().items():
        assert torch.equal(value, again.trained.state_dict()[name]), name


def test_several_processes_are_refused() -> None:
    from omnidistill.interop.lightning_module import LightningDistillation

    module = LightningDistillation(engine(), TASK)
    module.trainer = type("Two", (), {"world_size": 2})()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"one process.*devices=1"):
        module.on_fit_start()
