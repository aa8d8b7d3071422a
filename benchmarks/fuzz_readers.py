"""The readers of what goes with a run, and of texts, for `fuzz.py`: small good files, and what reads them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

STUDENT = {
    "schema": 1,
    "task": {"_target_": "omnidistill.exact.GaussianMixtureTask", "network": {"width": 8, "depth": 1}},
    "reading": {"parameterisation": "flow", "time_input": "t", "sigma_data": 1.0, "unit_input": False},
    "target_time": False,
    "guided": False,
    "transition": "renoise",
    "steps": 1,
    "random_tokens": None,
    "guidance": None,
    "made_by": {"recipe": "dmd2", "seed": 0},
}
JUMPING = {
    **STUDENT,
    "task": {
        "_target_": "omnidistill.exact.BridgeTask",
        "dim": 3,
        "network": {"width": 8, "depth": 1},
    },
    **{
        "target_time": True,
        "guided": True,
        "transition": "gamma",
        "steps": 2,
        "times": None,
        "shift": 1.0,
    },
    **{"gamma": 0.3, "guidance": 2.0, "block": None, "adapter": None},
}
TOKENS = {
    **STUDENT,
    "task": {"_target_": "omnidistill.exact.MarkovTextTask", "vocab": 4, "length": 6,
             "network": {"width": 8, "depth": 1, "heads": 1}},
    "reading": {"parameterisation": "logits", "time_input": "t"},
    **{"transition": "ancestral", "random_tokens": 0.1},
}  # fmt: skip
CONFIG = """task: {_target_: omnidistill.exact.GaussianMixtureTask, std: 0.2}
objective: {matching: 1.0}
families:
  matching: {_target_: omnidistill.objectives.matching.Matching, critic_updates: 2}
updates: 3
batch: 8
seed: 0
steps: [1, 2]
out: a
student: {steps: 1, transition: renoise}
evaluation: {samples: 16, seed: 0}
"""
CELL = {"task": "exact/bridge", "column": "dmd2", "choice": "dmd2", "seed": 0, "recipe": "dmd2", "reason": ""}
OUTCOME = {"status": "failed", "exit_status": 1, "reason": "r", "seconds": 1.0, "attempts": 1}
HELD = b"five\n"
DATA = """name: small
title: "t"
licence: l
attribution: a
files:
  good: {{bytes: {size}, sha256: {tree}, pattern: "**/*.txt"}}
  plain: {{bytes: {size}, sha256: {sum}}}
sources: [{{kind: folder, path: nowhere}}, {{kind: pypi, package: a==1}}, {{kind: url, address: "https://x/"}}]
"""
POINT = {"steps": 1, "nfe": 1, "metrics": {"energy": 0.5}, "seconds_per_sample": 0.1}
METRICS: dict[str, Any] = {
    **{"schema": 1, "task": "t", "recipe": "r", "seed": 0, "primary": {"name": "energy", "better": "lower"}},
    **{"floor": {"energy": 0.1}, "teacher": [POINT], "student": [POINT], "gap_closed": {"1": 50.0}},
    "training": {
        "student_updates": 1,
        "seconds": 1.0,
        "samples_per_second": 1.0,
        "peak_memory_mb": 1.0,
        "calls": {},
    },
    "environment": {"python": "3"},
}
SECOND = {
    **METRICS,
    **{"schema": 2, "samples": 16, "shown": ["energy"], "warnings": ["w"], "falls": [[1, 2]]},
    **{"input": {"metrics": {"energy": 1.0}, "interval": [0.9, 1.1]}, "gap_interval": {"1": [40.0, 60.0]}},
    "teacher": [{**POINT, "interval": [0.4, 0.6]}, {**POINT, "steps": 4, "nfe": 4}],
}
WORDS = (
    '{"text": "One caf\u00e9.", "id": "x"}\n{"text": null}\n{"text": "Two\u2028(three) \u00a35."}\n'.encode()
)
TOKENIZER = {
    **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None},
    **{"pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None},
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"},
}


CACHE = {
    **{
        "schema": 1,
        "task": "t",
        "data": "d",
        "encoder": "vae",
        "digest": "e",
        "shape": [2],
        "dtype": "float32",
    },
    **{"sizes": {"train": 3, "held_out": 2}, "shard": 2, "labels": ["a"], "conditions": "", "made_by": {}},
}
STORE = {
    **{"schema": 1, "task": "t", "path": "p", "teacher": "d", "sampler": "s", "steps": 1, "guidance": 1.0},
    **{
        "states": False,
        "times": [1.0, 0.0],
        "seed": 0,
        "size": 3,
        "shard": 2,
        "controlled": False,
        "made_by": {},
    },
}
BERT = {
    **{"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 5, "hidden_size": 8},
    **{
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 32,
    },
    "mask_token_id": 2,
}
LLADA = {
    **{
        "model_type": "llada",
        "d_model": 8,
        "n_heads": 2,
        "n_kv_heads": 1,
        "n_layers": 1,
        "mlp_hidden_size": 8,
    },
    **{
        "block_type": "llama",
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "rope": True,
        "rope_theta": 1e4,
    },
    **{
        "vocab_size": 3,
        "embedding_size": 5,
        "max_sequence_length": 32,
        "rms_norm_eps": 1e-5,
        "mask_token_id": 2,
    },
}


def _bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _weights() -> bytes:
    import torch

    from omnidistill.training.safetensors_file import write_safetensors

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "w.safetensors"
        write_safetensors({"a": torch.ones(3, 2), "b": torch.arange(4)}, file, {"state": "{}"})
        return file.read_bytes()


def _foreign_weights() -> bytes:
    """As another program writes them: without a digest, so that what is changed in them is not refused for that."""
    import torch
    from safetensors.torch import save

    return save({"a": torch.ones(3, 2), "b": torch.arange(4), "c": torch.zeros(2, dtype=torch.bfloat16)})


def _description() -> bytes:
    own = hashlib.sha256(HELD).hexdigest()
    listed = f"{own}  a.txt\n{own}  b/c.txt\n"
    values = {"size": len(HELD), "sum": own, "tree": hashlib.sha256(listed.encode()).hexdigest()}
    text = DATA.format(**values)
    return text.replace(f"bytes: {len(HELD)}", f"bytes: {2 * len(HELD)}", 1).encode()


def register(reader: Callable[..., Callable[..., Any]]) -> None:
    """Adds these readers to those of `fuzz.py`."""

    @reader("student.json", seeds=[_bytes(STUDENT), _bytes(JUMPING), _bytes(TOKENS)], form="json")
    def student(data: bytes, folder: Path) -> None:
        """Everything that loading does before weights are read, and the task and network that are described."""
        from omnidistill.configuration.instantiation import build, trusting
        from omnidistill.saved.description import read_recipe
        from omnidistill.saved.rebuilding import assemble, described_by
        from omnidistill.training.memory import check_network

        (folder / "student.json").write_bytes(data)
        recipe = read_recipe(folder, "student")
        if recipe.task is None:
            return
        with described_by(folder / "student.json"):
            task = build(trusting(recipe.task, ()))
            check_network(task.network)
            assemble(task.network(), task.path, recipe)
        recipe.sampler()

    @reader("config.yaml", seeds=[CONFIG.encode()], form="yaml")
    def configuration(data: bytes, folder: Path) -> None:
        """What resuming and evaluating build of it."""
        from omnidistill.configuration.compose import load_config
        from omnidistill.runs import setup

        (folder / "config.yaml").write_bytes(data)
        cfg = load_config(folder)
        task = setup.task_of(cfg)
        setup.objective_of(cfg, task)
        setup.sampler_of(cfg)

    @reader("safetensors", seeds=[_weights(), _foreign_weights()], form="safetensors")
    def weights(data: bytes, folder: Path) -> None:
        from omnidistill.training.safetensors_file import read_metadata, read_safetensors

        (folder / "w.safetensors").write_bytes(data)
        read_metadata(folder / "w.safetensors")
        read_safetensors(folder / "w.safetensors")

    @reader("metrics.json", seeds=[_bytes(METRICS), _bytes(SECOND)], form="json")
    def metrics(data: bytes, folder: Path) -> None:
        from omnidistill.evaluation.metrics_file import read_metrics
        from omnidistill.evaluation.table import print_table

        (folder / "metrics.json").write_bytes(data)
        document = read_metrics(folder)
        with open(os.devnull, "w", encoding="utf-8") as nowhere, mock.patch("sys.stdout", nowhere):
            print_table(document)

    @reader("report", seeds=[_bytes(METRICS), _bytes(SECOND)], form="json")
    def page(data: bytes, folder: Path) -> None:
        """The page of a received folder: nothing that stands in it becomes a script."""
        from omnidistill.evaluation.report import write_report

        (folder / "metrics.json").write_bytes(data)
        write_report(folder)
        text = (folder / "report.html").read_text(encoding="utf-8")
        assert "<script>alert" not in text.lower(), "a script of the file's stands in the page"

    @reader("data.yaml", seeds=[_description()], form="yaml")
    def description(data: bytes, folder: Path) -> None:
        """The data are gathered from a folder, by whatever files and patterns are described."""
        from omnidistill.data import datasets

        (folder / "d.yaml").write_bytes(data)
        for name in ("plain", "a.txt", "b/c.txt"):
            (folder / "have" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "have" / name).write_bytes(HELD)
        with mock.patch.dict(os.environ, {"OMNIDISTILL_DATA": str(folder / "cache")}):
            datasets.fetch(str(folder / "d.yaml"), folder / "have", say=lambda line: None)
            datasets.locate(str(folder / "d.yaml"))

    @reader(
        "sweep.json", seeds=[_bytes({"schema": 1, "cells": [CELL, {**CELL, "recipe": None}]})], form="json"
    )
    def sweep(data: bytes, folder: Path) -> None:
        from omnidistill.evaluation import cells

        (folder / "sweep.json").write_bytes(data)
        for found in cells.find(folder):
            assert folder.resolve() in found.run.resolve().parents, found.run

    @reader("sweep's cell", seeds=[_bytes(OUTCOME)], form="json")
    def cell(data: bytes, folder: Path) -> None:
        """How the process of a cell ended, with the page of the sweep."""
        from omnidistill.evaluation import cells

        (folder / "sweep.json").write_bytes(_bytes({"schema": 1, "cells": [CELL]}))
        (folder / "exact" / "bridge" / "dmd2").mkdir(parents=True, exist_ok=True)
        (folder / "exact" / "bridge" / "dmd2" / "0.json").write_bytes(data)
        for found in cells.find(folder):
            _ = found.seconds

    @reader("text.jsonl", seeds=[WORDS, b"\xff\xfe" + WORDS.decode().encode("utf-16-le")], form="jsonl")
    def text(data: bytes, folder: Path) -> None:
        from omnidistill.modalities.text.data import lines_of, own

        (folder / "a.jsonl").write_bytes(data)
        list(lines_of(folder / "a.jsonl"))
        own(folder / "a.jsonl")

    @reader("speech.jsonl", seeds=[WORDS], form="jsonl")
    def sentences(data: bytes, folder: Path) -> None:
        from omnidistill.modalities.speech.tts.sentences import sentences as read
        from omnidistill.modalities.speech.tts.text import normalise

        (folder / "a.jsonl").write_bytes(data)
        for _, said in read(folder / "a.jsonl"):
            if isinstance(said, str):
                normalise(said)

    @reader("cache.json", seeds=[_bytes(CACHE)], form="json")
    def cached(data: bytes, folder: Path) -> None:
        """A received cache, whose shards are of the undamaged header."""
        import torch

        from omnidistill.context import Context
        from omnidistill.training import cache, cache_format

        (folder / "cache.json").write_bytes(_bytes(CACHE))
        header = cache_format.read_header(folder)
        for split, index, rows in (("train", 0, 2), ("train", 1, 1), ("held_out", 0, 2)):
            context = Context(condition=torch.zeros(rows, dtype=torch.long))
            cache_format.write_shard(folder, header, split, index, torch.zeros(rows, 2), context)
        (folder / "cache.json").write_bytes(data)
        cache.Cache(folder).batch(2, torch.Generator())

    @reader("store.json", seeds=[_bytes(STORE)], form="json")
    def stored(data: bytes, folder: Path) -> None:
        """Received trajectories."""
        import torch

        from omnidistill.context import Context
        from omnidistill.training import store

        (folder / "store.json").write_bytes(_bytes(STORE))
        header = store.read_header(folder)
        for index, rows in ((0, 2), (1, 1)):
            store.write_shard(folder, header, index, torch.zeros(rows, 2, 2), Context())
        (folder / "store.json").write_bytes(data)
        store.read(folder, store.read_header(folder)).rows(torch.tensor([0, 2]))

    @reader("transformers' config.json", seeds=[_bytes(BERT), _bytes(LLADA)], form="json")
    def language_model(data: bytes, folder: Path) -> None:
        """A folder of transformers as a teacher, up to its weights."""
        from omnidistill.configuration.instantiation import build
        from omnidistill.interop import folder as libraries
        from omnidistill.training.memory import check_network

        (folder / "tokenizer.json").write_bytes(_bytes(TOKENIZER))
        (folder / "config.json").write_bytes(data)
        known = libraries.describe(folder, {})
        if known is not None:
            foreign = build(known["foreign"])
            check_network(foreign.made)
            foreign.made()

    @reader("tokenizer.json", seeds=[_bytes(TOKENIZER)], form="json")
    def tokenizer(data: bytes, folder: Path) -> None:
        from omnidistill.modalities.text.own_tokens import OwnTokens

        (folder / "tokenizer.json").write_bytes(data)
        made = OwnTokens(folder / "tokenizer.json")
        made.decode(made.encode("a b c"))
