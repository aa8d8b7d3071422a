"""A tokenizer of one's own: read from a file or a folder, learned with, filled in with, and refused in one line."""

import json

import pytest
import torch

from omnidistill.configuration.instantiation import build
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.modalities.text.own_tokens import OwnTokens
from omnidistill.modalities.text.task import Text
from omnidistill.random import generator
from omnidistill.samplers import Confidence

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def file(documents, tmp_path_factory):
    """Byte-level pairs, as GPT-2's, with a special token that no text holds."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    made.train_from_iterator((s for d in documents for s in d), trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $A", None, [("<s>", made.token_to_id("<s>"))]
    )
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def test_text_comes_back_whole_and_without_special_tokens(file):
    for source in (file, file.parent):
        tokens = OwnTokens(source)
        text = tokens.clean("The  old man\nsaw Cafe\u0301 \u6f22!")
        assert text == "The old man saw Caf\u00e9 \u6f22!" and tokens.vocab == 320
        ids = tokens.encode(text)
        assert tokens.decode(ids) == text and min(ids) > 0 and tokens.decode([0, *ids]) == text
        flat, lengths = tokens.encode_all([text, "", "a b"])
        assert flat.tolist() == ids + tokens.encode("a b") and lengths.tolist() == [
            len(ids),
            0,
            len(flat) - len(ids),
        ]


def test_a_task_reads_judges_and_fills_in_with_it(file, text_folder, tmp_path):
    options = {"_target_": "omnidistill.modalities.text.task.Text", "text": str(text_folder), "length": 40}
    network = {"width": 16, "kernel": 3, "dilations": [1]}
    task = build({**options, "tokenizer": str(file), "network": network, "name": "text/own"})
    batch = task.batch(24, generator(0), "held_out")
    found = task.measure(batch.x0, batch.context, generator(0))
    assert found["real_words"] == 1.0 and task.path.vocab == 320
    assert found["characters"] > 1.3 * float(batch.context.mask.sum(1).double().mean())
    counts = torch.ones(2, 24, dtype=torch.long)
    assert task.bootstrap(batch.x0, batch.context, generator(0), counts).tolist() == pytest.approx(
        [found["bits_per_char"]] * 2
    )
    line = "The OLD\u2028 __ of Zo\u0308e _!"
    (tmp_path / "a.txt").write_text(line, encoding="utf-8")
    ((name, context),) = task.inputs(tmp_path / "a.txt")
    denoiser = NetworkDenoiser(task.network(), task.path, **task.reading())
    like = task.like(1, context=context)
    x0 = task.sampler().sample(denoiser, like, 3, context, g=generator(0)).x0
    written = task.write(x0, context, tmp_path / "out" / name).read_text(encoding="utf-8")
    start, end = "The OLD\u2028 ", " of Zo\u0308e "
    assert written.startswith(start) and end in written and written.endswith("!\n")


def test_the_teachers_sampler_may_be_confidence(file, small):
    task = build({**small, "_target_": "omnidistill.modalities.text.task.Text",
                  "sampler": {"_target_": "omnidistill.samplers.Confidence", "block": 8}})  # fmt: skip
    assert isinstance(task.sampler(), Confidence) and task.sampler().block == 8
    denoiser = NetworkDenoiser(task.network(), task.path, **task.reading())
    context = Context(mask=torch.ones(2, 60, dtype=torch.bool))  # longer than any in training
    x0 = task.sampler().sample(denoiser, task.like(2, context=context), 4, context, g=generator(0)).x0
    assert x0.shape == (2, 60) and int(x0.max()) < task.tokens.vocab


def test_what_is_no_tokenizer_is_refused_in_one_line(file, tmp_path):
    (tmp_path / "bad.json").write_text('{"model": 3}')
    (tmp_path / "cut.json").write_bytes(file.read_bytes()[:500])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "x--y.Z"}}))
    for name in ("bad.json", "cut.json", "absent.json", "folder"):
        with pytest.raises(UserError, match=name.replace(".", r"\.")) as error:
            OwnTokens(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"task\.tokenizer or task\.merges"):
        Text(tokenizer=str(file), merges=["t|h"])
