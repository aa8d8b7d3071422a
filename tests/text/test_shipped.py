"""The teacher that comes with the package."""

from pathlib import Path

import torch

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.modalities.text.task import Text
from omnidistill.student import read_denoiser


def untrained(task):
    torch.manual_seed(0)
    return NetworkDenoiser(task.network(), task.path, **task.reading()).eval()


def test_the_shipped_teacher_knows_english_spelling():
    """One letter of each word hidden, in sentences that are in no corpus: the teacher finds most of them."""
    task = Text(**shipped_options())
    folder = task.shipped_teacher()
    assert (folder / "teacher.safetensors").stat().st_size < 8e6
    teacher, _ = read_denoiser(folder, "teacher", task)
    text = (
        "the children walked through the garden and talked about their school, because it was raining again."
    )
    ids = torch.tensor([task.tokens.encode(text[:96])])
    places = [i + 2 for i, c in enumerate(text[:90]) if c == " " and text[i + 2].isalpha()]
    rows = ids.repeat(len(places), 1)
    truth = rows[torch.arange(len(places)), places]
    rows[torch.arange(len(places)), places] = task.path.mask_id

    def right(denoiser):
        with torch.no_grad():
            guess = denoiser(rows, 0.05).logits[torch.arange(len(places)), places].argmax(-1)
        return float((guess == truth).double().mean())

    assert right(teacher) > 0.6
    assert right(untrained(task)) < 0.3


def shipped_options():
    import yaml

    file = Path(__file__).parents[2] / "configs" / "task" / "text" / "brown.yaml"
    options = yaml.safe_load(file.read_text())["task"]
    options.pop("_target_")
    return options
