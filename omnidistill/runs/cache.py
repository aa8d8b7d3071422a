"""A task's data through an encoder, once for many runs: every row is encoded and written, in order, and what is there
is not made again."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from omnidistill import __version__
from omnidistill.configuration import origin
from omnidistill.configuration.compose import build, save_config
from omnidistill.configuration.targets import function
from omnidistill.context import Batch, Condition, Context
from omnidistill.errors import UserError
from omnidistill.progress import track
from omnidistill.random import generator
from omnidistill.runs import setup
from omnidistill.student import described
from omnidistill.tasks import Encoding, Task
from omnidistill.training import cache_format
from omnidistill.training.cache_format import SPLITS, Header
from omnidistill.training.safetensors_file import digest
from omnidistill.training.shards import held

SHARD = 256


def make(cfg: DictConfig) -> FilePath:
    """Writes the rows of both splits into `cfg.out`, or with `resume` those that are not there yet.

    Raises:
        UserError: a task without data, rows that are not alike, or what is there is damaged or another cache.
        KeyboardInterrupt: stopped; whole shards are kept.
    """
    out, device = FilePath(cfg.out), setup.device_of(cfg)
    task: Task = build(cfg.task)
    encoder = encoder_of(cfg.encoder, task)
    name = cfg.encoder or ""
    sizes = {split: _size(task, split, cfg.rows) for split in SPLITS}
    with torch.no_grad():
        first = {split: _rows(task, split, 0, min(2, sizes[split]), cfg.seed) for split in SPLITS}
        asked = first["train"].to(device)
        made = encoder.encode(asked)
        assert made.x0 is not None
        header = Header(
            task=task.name,
            data=_data(cfg, task, first),
            encoder=name,
            digest=encoder.digest,
            conditions=encoder.conditions
            or _changed(made.context.condition, asked.context.condition, encoder),
            shape=tuple(made.x0.shape[1:]),
            dtype=next(
                (name for name, dtype in cache_format.DTYPES.items() if dtype == made.x0.dtype),
                str(made.x0.dtype),
            ),
            sizes=sizes,
            shard=SHARD,
            labels=tuple(task.labels),
            made_by={"omnidistill": __version__, "torch": torch.__version__},
        )
        if (out / cache_format.HEADER).is_file():
            header = _same(out, cache_format.read_header(out), header)
        save_config(cfg, out)
        header.write(out)
        if encoder.null is not None:
            cache_format.write_null(out, header, encoder.null)
        _fill(out, header, task, encoder, cfg.seed, device)
    return out


def encoder_of(name: str | None, task: Task) -> Encoding:
    """The encoder that a command names: a folder that the task's modality reads, a function of the user's, or none.

    Raises:
        UserError: no such folder or function.
    """
    if name is None:
        return Encoding(digest=task.encoder_digest())
    if FilePath(name).is_dir():
        return task.encoder(FilePath(name))
    if ":" not in name:
        raise UserError(f"encoder={name} is neither a folder nor package.module:function")
    made = function(origin.named("encoder", name))
    encode = functools.partial(_encoded_by, made, name)
    return Encoding(encode, _digest(made), null=getattr(made, "null", None))


def _encoded_by(made: Any, name: str, batch: Batch) -> Batch:
    return _kept(made(batch.x0, batch.context), batch, name)


def _changed(made: Condition, given: Condition, encoder: Encoding) -> str:
    """The digest of what made other conditions than the data had; empty where these were kept."""
    kept = made is None or made is given
    if isinstance(made, Tensor) and isinstance(given, Tensor):
        kept = made.shape == given.shape and torch.equal(made, given)
    return "" if kept else encoder.digest


def _kept(answer: Any, batch: Batch, name: str) -> Batch:
    """What a function of the user's made of a batch: samples, or a whole batch with other conditions."""
    if isinstance(answer, Tensor):
        answer = Batch(answer, batch.context)
    if not isinstance(answer, Batch) or answer.x0 is None or len(answer.x0) != batch.count:
        raise UserError(
            f"encoder={name} answers a {type(answer).__name__}; it is called with (samples, context) and answers as "
            "many samples, or a Batch of them with their context"
        )
    return answer


def _digest(made: Any) -> str:
    """SHA-256, hexadecimal: of a module's weights; else of the file in which a function is written."""
    if isinstance(made, nn.Module):
        return digest({name: value.detach().cpu() for name, value in made.state_dict().items()}, {})
    try:
        file = inspect.getsourcefile(inspect.unwrap(made))
    except TypeError:
        file = inspect.getsourcefile(type(made))
    return hashlib.sha256(FilePath(str(file)).read_bytes()).hexdigest()


def _size(task: Task, split: str, rows: int | None) -> int:
    known = task.rows(split)
    if known is None and rows is None:
        raise UserError(
            f"the data of {task.name} are drawn and not counted (stretches, crops, noise); rows=N says how many to keep"
        )
    if known == 0:
        raise UserError(
            f"{task.name} has no data of {split} here; {task.data_hint or 'name them with task.folder=DIR'}"
        )
    if known is not None:
        return known if rows is None else min(rows, known)
    assert rows is not None
    return rows if split == "train" else max(2, rows // 8)


def _rows(task: Task, split: str, start: int, end: int, seed: int) -> Batch:
    """Rows by their numbers; where they are drawn, a draw of each chunk's own generator."""
    if task.rows(split) is not None:
        batch = task.at(torch.arange(start, end), split)
    else:
        batch = task.alike(end - start, generator(seed, "cache", split, start), split)
    if batch.x0 is None:
        raise UserError(f"{task.name} has no data here; {task.data_hint or 'name them with task.folder=DIR'}")
    return batch


def _data(cfg: DictConfig, task: Task, first: Mapping[str, Batch]) -> str:
    """Which data these are: the task's section, and a digest of the first rows of both splits."""
    said = {key: repr(value) for key, value in described(setup.plain(cfg.task), task).items()}
    rows = {split: batch.x0 for split, batch in first.items() if batch.x0 is not None}
    return digest(rows, said)


def _same(out: FilePath, there: Header, wanted: Header) -> Header:
    """The header that is there, if it is of the same rows.

    Raises:
        UserError: the first thing in which it is of others.
    """
    for name in ("task", "encoder", "digest", "conditions", "data", "shape", "dtype", "sizes"):
        a, b = getattr(there, name), getattr(wanted, name)
        if a != b:
            short = name in ("digest", "conditions", "data")
            a, b = (f"{x[:12]}..." if short and x else x for x in (a, b))
            what = {
                "digest": "an encoder of digest",
                "conditions": "a text encoder of digest",
                "data": "data of digest",
            }.get(name, name)
            raise UserError(
                f"'{out}' holds rows of {what} {a}, and these would be of {b}; choose another out"
            )
    return there


def _fill(out: FilePath, header: Header, task: Task, encoder: Encoding, seed: int, device: str) -> None:
    todo = list(_missing(out, header))
    total, done = sum(header.sizes.values()), 0
    done = total - sum(end - start for _, _, start, end in todo)
    with held() as stopped, track(total, "encoding") as advance:
        advance(done)
        for split, index, start, end in todo:
            x0, context = _encoded(_rows(task, split, start, end, seed), header, encoder, device)
            cache_format.write_shard(out, header, split, index, x0, context)
            done += end - start
            advance(end - start)
            if stopped and done < total:
                raise KeyboardInterrupt(f"{done} of {total} rows kept in {out}")


def _missing(out: FilePath, header: Header) -> Iterator[tuple[str, int, int, int]]:
    for split in SPLITS:
        known = cache_format.shards(out, header, split).whole(header.count(split))
        for index in known:
            cache_format.read_shard(out, header, split, index)
        for index in sorted({*range(header.count(split))} - {*known}):
            yield split, index, index * header.shard, min((index + 1) * header.shard, header.sizes[split])


def _encoded(batch: Batch, header: Header, encoder: Encoding, device: str) -> tuple[Tensor, Context]:
    made = encoder.encode(batch.to(device))
    assert made.x0 is not None
    x0 = made.x0.cpu()
    if tuple(x0.shape[1:]) != header.shape:
        raise UserError(
            f"rows are not alike: {tuple(x0.shape[1:])} after {header.shape}; a cache holds samples of one shape"
        )
    if str(x0.dtype) not in {str(dtype) for dtype in cache_format.DTYPES.values()}:
        raise UserError(f"rows are {x0.dtype}; an encoder answers float32, or whole numbers for tokens")
    if x0.is_floating_point() and not bool(x0.isfinite().all()):
        raise UserError(f"the encoder {header.encoder or 'of the task'} answered NaN or infinity")
    return x0, made.context.to("cpu")
