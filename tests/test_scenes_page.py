"""What docs/scenes.md shows runs as it stands there, on a small teacher of pictures."""

import re
from pathlib import Path

import torch

import omnidistill
from omnidistill.context import Context, labels_of
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import rectified_flow

PAGE = (Path(__file__).parents[1] / "docs" / "scenes.md").read_text()


class Teacher(torch.nn.Module):
    """A picture of one grey for each of ten labels; none for the label after them."""

    def __init__(self) -> None:
        super().__init__()
        self.grey = torch.nn.Parameter(torch.linspace(-0.9, 0.9, 10))

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: object) -> torch.Tensor:
        labels = labels_of(condition)
        assert labels is not None and "camera" in condition, "guidance empties the label alone"
        grey = torch.cat((self.grey, self.grey.mean()[None]))[labels]
        return grey[:, None, None, None].expand_as(x)


def test_a_renderer_of_ones_own() -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code
    assert len(code[1].strip().splitlines()) <= 30
    teacher = NetworkDenoiser(Teacher(), rectified_flow(), "x0")
    names = {"torch": torch, "omnidistill": omnidistill, "Context": Context, "teacher": teacher}
    exec(code[1], names)
    u, c = teacher.network.grey.mean(), teacher.network.grey[3]
    guided = float((u + 3.0 * (c - u)).detach())
    around = names["around"]
    assert around.shape == (8, 3, 16, 16)
    torch.testing.assert_close(around, torch.full_like(around, guided), atol=0.1, rtol=0.0)


def test_a_renderer_is_kept_and_found_again(tmp_path: Path) -> None:
    """Guidance by a function that empties the condition; the user's own module stays as it is."""

    class Shade(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shade = torch.nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor, t: torch.Tensor, condition: object) -> torch.Tensor:
            return self.shade[condition["camera"]][:, None, None, None].expand_as(x)

    teacher, mine = NetworkDenoiser(Teacher(), rectified_flow(), "x0"), Shade()
    told = {"camera": torch.arange(2), "label": torch.tensor([3, 3])}
    student = omnidistill.distill(
        teacher,
        "scaledreamer",
        student=mine,
        shape=(1, 4, 4),
        condition=told,
        null=lambda given: {**given, "label": torch.full_like(given["label"], 10)},
        updates=4,
        batch=4,
        out=tmp_path / "scene",
        options=["guidance=2", "optim.lr=0.05"],
    )
    assert bool((mine.shade == 0).all())
    made = student.sample(2, context=Context(condition=told))
    assert bool((made != 0).all())
    again = omnidistill.load(tmp_path / "scene", network=Shade(), path=rectified_flow())
    torch.testing.assert_close(again.sample(2, context=Context(condition=told)), made)


def test_the_pages_options_and_recipes_are_there() -> None:
    from omnidistill.configuration.listing import recipes

    known = {entry["name"] for entry in recipes()}
    table = PAGE.split("|---|---|---|\n")[1].split("\n\n")[0]
    named = [name for line in table.splitlines() for name in re.findall(r"`([\w-]+)`", line.split("|")[1])]
    assert len(named) == 11 and set(named) <= known
    assert all(
        (Path(__file__).parents[1] / "docs" / place).exists()
        for place in re.findall(r"\]\(([\w./]+\.py)\)", PAGE)
    )
