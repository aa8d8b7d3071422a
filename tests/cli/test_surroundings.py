"""Where a command finds itself: streams, names, other processes, folders that vanish, sizes that no machine holds."""

import io
import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from omnidistill import cli
from omnidistill.configuration import listing, plugins
from omnidistill.errors import RunError, UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.random import PerSample, categorical, generator, normal, uniform
from omnidistill.runs import folders, process
from omnidistill.training.memory import check_bytes, check_network

MAIN = "import sys; from omnidistill.cli import main; sys.exit(main())"


class Gone(io.StringIO):
    """A pipe whose reader has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_output_that_nobody_reads_is_no_failure(monkeypatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (Gone(), closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["tasks", "--json"]) == 0


def test_characters_that_a_stream_lacks_are_replaced(monkeypatch) -> None:
    for encoding in ("ascii", "latin-1"):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr("omnidistill.cli.page", lambda known: "x · ↓ y")
        assert cli.main(["--help"]) == 0
        assert raw.getvalue().startswith(b"x ") and raw.getvalue().strip().endswith(b" y")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    code = "import sys; from omnidistill.cli import main; sys.exit(main(['--version']))"
    done = subprocess.run(
        f'"{sys.executable}" -c "{code}" > /dev/full', shell=True, capture_output=True, text=True
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "body", ["import sys; sys.exit(3)", "1 / 0", "CONFIGS = 5", "CONFIGS = 'no.such.package'"]
)
def test_a_broken_plugin_breaks_nothing_else(tmp_path, monkeypatch, capsys, body) -> None:
    (tmp_path / "a_broken_plugin.py").write_text(f"print('hello')\n{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("a_broken_plugin", None)
    point = plugins.EntryPoint("broken", "a_broken_plugin", plugins.GROUP)
    nonsense = plugins.EntryPoint("nonsense", "!!", plugins.GROUP)
    real = plugins.entry_points
    monkeypatch.setattr(plugins, "entry_points", lambda group: [*real(group=group), point, nonsense])
    plugins.search_path.cache_clear()
    try:
        assert cli.main(["tasks", "--json"]) == 0
        done = capsys.readouterr()
        assert done.out.startswith("[") and "hello" not in done.out and "left out" in done.err
    finally:
        plugins.search_path.cache_clear()


def test_a_broken_file_among_others_breaks_no_list(command, inside: Path) -> None:
    (inside / "own/recipe").mkdir(parents=True)
    (inside / "own/recipe/broken.yaml").write_text("a: [")
    done = command("recipes", "--json", "configs=own")
    assert done.status == 0 and "broken.yaml" in done.err and "dmd2" in done.out


def test_names_as_they_are(refused, command, inside: Path) -> None:
    good = ("task=exact/gaussian_mixture", "recipe=dmd2")
    assert "NUL" in refused("distill", *good, "out=a\0b")
    assert "NUL" in refused("report", "a\0b")
    (inside / "a=b").mkdir()
    assert "takes no keys" not in refused("report", "a=b"), "a folder that is there is no key"
    refused("report", "~nobody-of-this-name/x")
    refused("sample", "nowhere", "out=~nobody-of-this-name/x", "device=cpu")


def test_the_task_of_python_is_in_no_list(refused, inside: Path) -> None:
    assert listing.OWN not in listing.names("task") and listing.OWN not in [
        t["name"] for t in listing.tasks()
    ]
    assert "from Python" in refused("distill", "task=own", "recipe=dmd2", "out=made")


@pytest.mark.parametrize("more", ["task=exact/markov_text", "task.stdd=1", "task.network.width=99999999999"])
def test_a_refused_run_leaves_nothing(refused, inside: Path, more: str) -> None:
    refused("distill", "task=exact/gaussian_mixture", "recipe=dmd2", "out=a/b", "device=cpu", more)
    assert list(inside.iterdir()) == []
    (inside / "mine").mkdir()
    refused("distill", "task=exact/gaussian_mixture", "recipe=dmd2", "out=mine", "device=cpu", more)
    assert (inside / "mine").is_dir(), "a folder that was there stays"


def _hold(folder: str, ready, done) -> None:
    with folders.alone(Path(folder)):
        ready.set()
        done.wait(30)


def test_two_processes_cannot_have_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready, done))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(UserError, match="another process is at work"), folders.opened(tmp_path):
            pass
    finally:
        done.set()
        other.join()
    with folders.opened(tmp_path):
        pass


def test_a_folder_that_vanishes_is_a_failed_run(tmp_path: Path) -> None:
    for again in (False, True):
        with pytest.raises(RunError, match="is gone"), folders.opened(tmp_path / "run") as folder:
            shutil.rmtree(folder)
            if again:
                folder.mkdir()
    with pytest.raises(RunError, match=r"lacks student\.json"):
        folders.check_whole(tmp_path, ("student.json",))


@pytest.mark.parametrize(
    "left", [(".config.yaml.partial",), ("logs/command.txt",), (".lock", "logs/command.txt"), ()]
)
def test_a_run_killed_at_its_beginning_can_be_begun(tmp_path: Path, left) -> None:
    (tmp_path / "logs").mkdir()
    for name in left:
        (tmp_path / name).write_text("x")
    for options in ({}, {"resume": True}, {"again": True}, {"resume": True, "mark": "sweep.json"}):
        assert folders.prepare(tmp_path, **options) == tmp_path


def test_a_cell_does_not_outlive_its_sweep(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("asks the Linux kernel")
    code = """
import subprocess, sys, time
from omnidistill.runs.process import with_its_parent
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], preexec_fn=with_its_parent())
print(child.pid, flush=True); time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while (
        Path(f"/proc/{child}").exists()
        and "Z" not in Path(f"/proc/{child}/stat").read_text().split(")")[1][:3]
    ):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert process.with_its_parent() is not None


def test_a_sample_does_not_depend_on_what_is_beside_it() -> None:
    like, mask = (
        torch.empty(4, 5),
        torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]]) > 0,
    )
    probs = torch.rand(4, 5, 3, generator=generator(0))

    def own(where: slice) -> PerSample:
        return PerSample([generator(7, i) for i in range(4)[where]])

    for draw in (
        lambda w, m: normal(like[w], own(w), m),
        lambda w, m: uniform(like[w], own(w), m),
        lambda w, m: categorical(probs[w], own(w), m),
    ):
        for m in (None, mask):
            parts = [draw(w, None if m is None else m[w]) for w in (slice(0, 1), slice(1, 3), slice(3, 4))]
            assert torch.equal(torch.cat(parts), draw(slice(0, 4), m))
    whole = normal(like, own(slice(0, 4)), mask)
    assert torch.equal(whole[1, :2], torch.randn(2, generator=generator(7, 1))) and not whole[~mask].any()
    with pytest.raises(ValueError, match="4 generators for a batch of 2"):
        normal(like[:2], own(slice(0, 4)))


def test_what_no_machine_holds_is_refused_before_memory_is_taken(refused, inside: Path) -> None:
    with pytest.raises(UserError, match="GiB of memory"):
        check_bytes(1 << 60, "a sample", "ask for fewer")
    with pytest.raises(UserError):
        check_network(lambda: torch.nn.Linear(1 << 24, 1 << 24))
    with pytest.raises(UserError, match="of another one"):
        check_network(lambda: torch.nn.Linear(1 << 14, 1 << 14), {"a": torch.ones(3)})
    check_network(GaussianMixtureTask().network)
    good = ("task=exact/gaussian_mixture", "recipe=dmd2", "out=made")
    assert "at most 1024" in refused("distill", *good, "threads=100000")
    assert "must be at most" in refused("distill", *good, "task.network.depth=1000000")
