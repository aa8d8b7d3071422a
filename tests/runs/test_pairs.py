"""A store of teacher trajectories: what is read is what would be made; whatever is not as it was written is refused."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from omnidistill.cli import main
from omnidistill.configuration.compose import build, compose
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.random import generator
from omnidistill.runs import folders, pairs, setup
from omnidistill.training import store

SMALL = [
    "task=exact/gaussian_mixture",
    "task.conditional=true",
    "task.network={width: 8, depth: 1}",
    "recipe=std",
    "families.segments.bank=600",
    "families.segments.jumps.nodes=4",
    "families.segments.ends.nodes=4",
    "device=cpu",
]


def configured(*overrides):
    return compose("config", [*SMALL, "out=unused", *overrides])


def online(cfg):
    task = build(cfg.task)
    teacher = setup.guided(setup.teacher_of(cfg, task, "cpu"), task, cfg.guidance)
    spec = setup.objective_of(cfg, task).bank
    return pairs.bank_of(spec, task, teacher, cfg.seed, "cpu"), spec, task, teacher


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "store"
    assert main(["pairs", *SMALL, f"out={out}"]) == 0
    return out


def copied(made: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, to))


def same(a, b, count: int) -> None:
    index = torch.randint(count, (64,), generator=generator("rows"))
    mine, other = a.rows(index), b.rows(index)
    assert torch.equal(mine["states"], other["states"]) and torch.equal(mine["times"], other["times"])
    assert torch.equal(mine["context"].condition, other["context"].condition)


def test_what_is_stored_is_what_would_be_made_before_training(made):
    """All states, or their ends, or fewer rows: as `bank_of` gives them to the same keys."""
    for more in ((), ("families.segments.bank=256",)):
        cfg = configured(*more)
        bank, spec, task, teacher = online(cfg)
        there = pairs.stored(made, spec, cfg, task, teacher)
        assert len(there) == len(bank) == spec.size
        same(there, bank, spec.size)
    ends = ("recipe=dmd", "families.regression.pairs=256", "families.regression.steps=4")
    cfg = compose("config", [*SMALL[:3], *ends, "out=unused"])
    bank, spec, task, teacher = online(cfg)
    assert not spec.states
    same(pairs.stored(made, spec, cfg, task, teacher), bank, spec.size)


def test_rows_of_pieces_are_rows_of_the_whole():
    from omnidistill.training.bank import Bank

    states = torch.arange(30.0).reshape(10, 3)
    context = Context({"words": torch.arange(10), "picture": states[:, :1]}, mask=states > 4)
    cuts = [slice(0, 4), slice(4, 8), slice(8, 10)]
    bank = Bank([(states[c], context[c]) for c in cuts], torch.tensor([1.0, 0.5, 0.0]))
    index = torch.tensor([9, 0, 3, 4, 4, 8, 7])
    found = bank.rows(index)
    assert torch.equal(found["states"], states[index])
    assert torch.equal(found["context"].condition["words"], index)
    assert torch.equal(found["context"].mask, context.mask[index])
    assert len(bank.first(5)) == 5 and torch.equal(
        bank.first(5).rows(torch.tensor([4]))["states"], states[4:5]
    )
    assert torch.equal(bank.ends().rows(index)["states"], states[index][:, [0, 2]])
    assert bank.ends().pieces[0][0].data_ptr() == bank.pieces[0][0].data_ptr()  # nothing is copied


def test_contexts_of_every_kind_come_back(tmp_path):
    header = store.Header("t", "p", "d", "s", 1, 1.0, False, (1.0, 0.0), 0, 3)
    condition = {"words": torch.arange(6).reshape(3, 2), "voice": torch.randn(3, 4)}
    context = Context(condition, anchor=torch.randn(3, 2), mask=torch.tensor([[True, False]] * 3))
    states = torch.randn(3, 2, 2)
    store.write_shard(tmp_path, header, 0, states, context)
    found, there = store.read_shard(tmp_path, header, 0)
    assert torch.equal(found, states) and torch.equal(there.mask, context.mask)
    assert torch.equal(there.anchor, context.anchor) and there.reference is None
    assert all(torch.equal(there.condition[key], value) for key, value in condition.items())


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_shards_are_mapped(made):
    bank = store.read(made, store.read_header(made))
    mapped = Path("/proc/self/maps").read_text()
    assert all(str(store.place(made, i).resolve()) in mapped for i in range(3)) and len(bank) == 600


def test_writing_goes_on_where_it_was_stopped(made, tmp_path, monkeypatch, capsys):
    """Ctrl-C waits for the shard in hand; the finished store is the one that was never stopped, byte for byte."""
    write, out = store.write_shard, tmp_path / "store"

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGINT)
        write(*given)

    monkeypatch.setattr(store, "write_shard", interrupted)
    assert main(["pairs", *SMALL, f"out={out}"]) == 130
    assert "256 of 600 trajectories kept" in capsys.readouterr().err
    header = store.read_header(out)
    assert store.whole(out, header) == [0] and len(store.read_shard(out, header, 0)[0]) == 256
    cfg = configured()
    _, spec, task, teacher = online(cfg)
    with pytest.raises(UserError, match=r"holds 1 of 3 shards; .* resume=true") as error:
        pairs.stored(out, spec, cfg, task, teacher)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(store, "write_shard", write)
    assert main(["pairs", *SMALL, f"out={out}", "resume=true"]) == 0
    for index in range(3):
        assert store.place(out, index).read_bytes() == store.place(made, index).read_bytes()
    before = store.place(out, 0).stat().st_mtime_ns
    assert main(["pairs", *SMALL, f"out={out}", "resume=true"]) == 0  # nothing is left to do
    assert store.place(out, 0).stat().st_mtime_ns == before


def test_a_shard_that_was_cut_short_damaged_or_brought_is_refused(made, tmp_path):
    out = copied(made, tmp_path / "store")
    header, file = store.read_header(out), store.place(out, 1)
    good = file.read_bytes()
    g = generator("damage")
    places = torch.randint(8, len(good), (12,), generator=g).tolist()
    bad = [good[:-5], good[: len(good) // 2], b"", store.place(out, 0).read_bytes()]
    bad += [good[:p] + bytes([good[p] ^ 4]) + good[p + 1 :] for p in places]
    for content in bad:
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"00001.*delete it, and .*resume=true makes it again"):
            store.read(out, header)
    file.unlink()
    assert main(["pairs", *SMALL, f"out={out}", "resume=true"]) == 0
    assert file.read_bytes() == good
    text = (out / store.HEADER).read_text()
    (out / store.HEADER).write_text(text.replace('"guidance": 1.0', '"guidance": 2.0'))
    with pytest.raises(UserError, match="of another store"):
        store.read(out, store.read_header(out))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task.std=0.2"], "of teacher .* and this run has teacher"),
        (["task.path=vp_cosine"], "of path .*rectified_flow.* and this run has path .*vp_cosine"),
        (["families.segments.jumps.nodes=8"], "of steps 4, and this run has steps 8"),
        (["guidance=2.0"], "of guidance 1.0, and this run has guidance 2.0"),
        (["families.segments.bank=601"], "holds 600 trajectories .* wants 601; ask for fewer"),
    ],
)
def test_a_store_of_something_else_is_refused_in_one_line(made, overrides, said):
    cfg = configured(*overrides)
    task = build(cfg.task)
    teacher = setup.guided(setup.teacher_of(cfg, task, "cpu"), task, cfg.guidance)
    with pytest.raises(UserError, match=said) as error:
        pairs.stored(made, setup.objective_of(cfg, task).bank, cfg, task, teacher)
    assert "\n" not in str(error.value)


def test_a_store_of_another_sampler_or_network_teacher_is_refused(made, monkeypatch):
    from omnidistill.denoisers import NetworkDenoiser
    from omnidistill.samplers import Euler

    cfg = configured()
    _, spec, task, teacher = online(cfg)
    torch.manual_seed(0)
    network = NetworkDenoiser(task.network(), task.path, **task.reading())
    with pytest.raises(UserError, match="of teacher"):
        pairs.stored(made, spec, cfg, task, network)
    first = pairs.digest_of(network, {})
    next(network.network.parameters()).data[0] += 1e-3
    assert pairs.digest_of(network, {}) != first
    monkeypatch.setattr(task, "sampler", lambda: Euler())
    with pytest.raises(UserError, match=r"of sampler Heun\(.*\), and this run has sampler Euler\("):
        pairs.stored(made, spec, cfg, task, teacher)


def test_the_students_size_does_not_matter(made):
    cfg = configured("task.network={width: 16, depth: 2}", "task.teacher_steps=8")
    _, spec, task, teacher = online(cfg)
    assert len(pairs.stored(made, spec, cfg, task, teacher)) == 600


def test_one_process_writes_at_a_time(made, tmp_path, capsys):
    out = copied(made, tmp_path / "store")
    with folders.alone(out):
        assert main(["pairs", *SMALL, f"out={out}", "resume=true"]) == 2
    assert "another process is at work" in capsys.readouterr().err


def test_a_run_with_a_store_is_the_run_without(made, tmp_path):
    tiny = [*SMALL, "updates=2", "batch=8", "fit.updates=0", "ema=0.5", "evaluation.samples=16", "steps=1"]
    assert main(["distill", *tiny, f"out={tmp_path / 'a'}", f"pairs={made}"]) == 0
    assert main(["distill", *tiny, f"out={tmp_path / 'b'}"]) == 0
    weights = [(tmp_path / name / "student.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_mistakes_are_one_line(made, tmp_path, capsys):
    assert main(["distill", *SMALL, f"out={tmp_path / 'a'}", "pairs=nowhere"]) == 2
    assert "pairs=nowhere is no folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["distill", *SMALL, f"out={tmp_path / 'b'}", f"pairs={tmp_path / 'empty'}"]) == 2
    assert "holds no trajectories" in capsys.readouterr().err
    other = ["task=exact/gaussian_mixture", "recipe=scm"]
    assert main(["pairs", *other, f"out={tmp_path / 'c'}"]) == 2
    assert "looks at no stored trajectories" in capsys.readouterr().err
    assert main(["distill", *other, f"out={tmp_path / 'd'}", f"pairs={made}"]) == 2
    assert "looks at no stored trajectories" in capsys.readouterr().err
