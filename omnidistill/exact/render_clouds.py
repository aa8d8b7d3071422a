"""Clouds of points as a picture and as an .xyz file."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from omnidistill.exact.render import write_whole

DRAWN = 12


def write_clouds(clouds: Float[Tensor, "count n 3"], target: Path, title: str) -> list[Path]:
    """Writes `target.png`, the first clouds, their points joined in order, and `target.xyz`, all of them.

    Args:
        target: a path without suffix.
    """
    from matplotlib.figure import Figure
    from mpl_toolkits import mplot3d  # noqa: F401  registers the projection

    drawn = clouds[:DRAWN].numpy()
    columns = min(len(drawn), 4)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.2 * rows))
    figure.subplots_adjust(0, 0, 1, 1, 0, 0)
    reach = max(float(abs(drawn).max()), 1e-6)
    for i, cloud in enumerate(drawn):
        axis = figure.add_subplot(rows, columns, i + 1, projection="3d")
        axis.plot(*cloud.T, color="0.7", linewidth=0.8)
        axis.scatter(*cloud.T, c=range(len(cloud)), cmap="viridis", s=14, depthshade=False)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
        axis.set_box_aspect((1, 1, 1), zoom=1.7)
        axis.set_axis_off()
    picture, text = (target.with_name(target.name + suffix) for suffix in (".png", ".xyz"))
    frames = []
    for i, cloud in enumerate(clouds.tolist()):
        frames += [str(len(cloud)), f"{title} sample {i}"]
        frames += [f"C {x:.6f} {y:.6f} {z:.6f}" for x, y, z in cloud]

    def write(file: Path) -> None:
        file.write_text("\n".join(frames) + "\n")

    return [
        write_whole(picture, lambda file: figure.savefig(file, dpi=100)),
        write_whole(text, write),
    ]
