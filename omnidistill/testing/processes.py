"""Several processes on one machine, as a launcher would start them, for tests."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch


def started(world: int, work: Callable[..., Any], *arguments: Any, timeout: float = 120.0) -> list[Any]:
    """`work(rank, *arguments)` in `world` processes that know of each other; what each returned, or its last words.

    They are forked, so that torch is not imported again; none may have used threads of its own before.
    """
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes, workers = [], []
    for rank in range(world):
        mine, theirs = context.Pipe(duplex=False)
        environment = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        worker = context.Process(target=_run, args=(theirs, environment, rank, work, arguments))
        worker.start()
        theirs.close()
        pipes.append(mine)
        workers.append(worker)
    said = []
    for pipe, worker in zip(pipes, workers, strict=True):
        try:
            said.append(pipe.recv() if pipe.poll(timeout) else "no answer in time")
        except EOFError:
            said.append("gone")
        worker.join(5)
        if worker.is_alive():
            worker.kill()
    return said


def _plain(value: Any) -> Any:
    """Tensors as arrays: torch would send a handle to memory of a process that ends."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _run(pipe: Any, environment: dict[str, str], rank: int, work: Callable[..., Any], arguments: Any) -> None:
    os.environ.update(environment)
    try:
        pipe.send(_plain(work(rank, *arguments)))
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    pipe.close()
    os._exit(0)  # a fork of a test run has nothing to tidy up
