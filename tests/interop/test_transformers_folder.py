"""Folders of transformers as teachers: the belief is the model's, in its tokenizer's numbers; one command distils."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

import tokenizers
import transformers

import omnidistill
from omnidistill.configuration.compose import compose
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.text.own_tokens import OwnTokens
from omnidistill.random import generator
from omnidistill.runs import distil, setup
from omnidistill.samplers import Confidence
from omnidistill.testing import check_denoiser
from omnidistill.training.safetensors_file import write_safetensors

TEXT = "the old man saw a grey dog run by his small house and then he went home again to sleep"
WORDS = TEXT.split()
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<hidden>"}
MASK = 2  # of this tokenizer
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def tokenizer(folder):
    vocab = {word: number for number, word in enumerate([*SPECIAL.values(), *sorted({*WORDS})])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)
    fast.save_pretrained(folder)
    return len(vocab)


def saved(folder, kind):
    """The folder, and the model that somebody else would load from it, on rows without padding."""
    vocab = tokenizer(folder)
    torch.manual_seed(0)
    columns = vocab + 5  # a table is often larger than its tokenizer
    if kind == "bert":
        made = transformers.BertForMaskedLM(
            transformers.BertConfig(vocab_size=columns, max_position_embeddings=40, **SIZES)
        )
    elif kind == "roberta":
        made = transformers.RobertaForMaskedLM(
            transformers.RobertaConfig(
                vocab_size=columns, max_position_embeddings=40, type_vocab_size=1, pad_token_id=0, **SIZES
            )
        )
    else:
        config = transformers.LlamaConfig if kind == "llama" else transformers.Qwen2Config
        model = transformers.LlamaForCausalLM if kind == "llama" else transformers.Qwen2ForCausalLM
        made = model(config(vocab_size=columns, num_key_value_heads=2, is_causal=False, **SIZES))
    for name, parameter in made.named_parameters():  # small ones would hide which way attention looks
        if parameter.ndim > 1 and "norm" not in name.lower():
            torch.nn.init.normal_(parameter, std=0.2)
    made.save_pretrained(folder)
    if kind == "dream":
        said = json.loads((folder / "config.json").read_text())
        said |= {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": MASK}
        (folder / "config.json").write_text(json.dumps(said))
    return made.eval()


def asked(folder, *words):
    cfg = compose("config", ["task=text/own", f"teacher={folder}", "recipe=di-m-o", "out=out", *words])
    task = setup.task_of(cfg)
    return task, setup.teacher_of(cfg, task, "cpu")


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama", "dream"])
def test_the_belief_is_the_models(kind, tmp_path):
    model = saved(tmp_path, kind)
    task, teacher = asked(tmp_path, "task.length=24")
    vocab = task.tokens.vocab
    assert task.shape == (24,) and teacher.path.vocab == vocab and task.tokens.encode("the dog")[0] < vocab
    x = torch.randint(3, vocab, (3, 9), generator=generator(0))
    x[:, ::2] = teacher.path.mask_id
    theirs = torch.where(x == vocab, MASK, x)
    with torch.no_grad():
        everything = torch.zeros(3, 1, 9, 9)  # each place looks at every other, in a causal class, too
        keywords = {"attention_mask": everything} if kind in ("llama", "dream") else {}
        logits = model(input_ids=theirs, **keywords).logits[..., :vocab]
        found = teacher(x, 0.5).probs
        alone = teacher(x[:, :5], 0.5).probs
        padded = teacher(x, 0.5, Context(mask=torch.arange(9).expand(3, 9) < 5)).probs[:, :5]
    if kind == "dream":  # what stands at a place is about the next one
        logits = torch.cat((logits[:, :1], logits[:, :-1]), 1)
    logits[..., MASK] = -torch.inf
    assert torch.allclose(found[:, ::2], logits.softmax(-1)[:, ::2], atol=1e-5)
    assert torch.equal(found[:, 1::2].argmax(-1), x[:, 1::2]), "what is not masked is known"
    assert torch.allclose(alone, padded, atol=1e-5), "padding behind changes nothing"
    assert not torch.allclose(alone, found[:, :5], atol=1e-3), "the places behind are looked at"


@pytest.mark.parametrize("kind", ["bert", "llama", "dream"])
def test_what_it_writes_is_read_again_and_by_the_library_itself(kind, tmp_path):
    """A causal class stays open in both directions, with nothing said in the call, and a shift stays one."""
    saved(tmp_path / "a", kind)
    teacher = omnidistill.teacher(tmp_path / "a")
    teacher.network.model.save_pretrained(tmp_path / "b")
    tokenizer(tmp_path / "b")
    x = torch.randint(3, 9, (2, 9), generator=generator(0))
    x[:, ::2] = teacher.path.mask_id
    again = omnidistill.teacher(tmp_path / "b")
    library = type(teacher.network.model).from_pretrained(tmp_path / "b").eval()
    with torch.no_grad():
        assert torch.equal(again(x, 0.5).probs, teacher(x, 0.5).probs)
        logits = library(input_ids=torch.where(x == teacher.path.mask_id, MASK, x)).logits
        wanted = teacher.network(x, torch.ones(2))
    logits = torch.cat((logits[:, :1], logits[:, :-1]), 1) if kind == "dream" else logits
    kept = torch.arange(logits.shape[-1]) != MASK
    assert torch.allclose(logits[..., kept], wanted[..., kept], atol=1e-5)


def test_a_llada_is_read_as_the_llama_that_it_is(tmp_path):
    """Against its blocks written out: RMS norms, rotary places, SiLU gates, nothing causal."""
    vocab = tokenizer(tmp_path)
    d, heads, layers, hidden, theta = 16, 2, 2, 24, 5e5
    shapes = {"wte": (vocab + 3, d), "ln_f": (d,), "ff_out": (vocab + 3, d)}
    for i in range(layers):
        square = {f"blocks.{i}.{name}": (d, d) for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
        wide = {f"blocks.{i}.{name}": (hidden, d) for name in ("ff_proj", "up_proj")}
        norms = {f"blocks.{i}.{name}": (d,) for name in ("attn_norm", "ff_norm")}
        shapes |= {**square, **wide, **norms, f"blocks.{i}.ff_out": (d, hidden)}
    g = generator(1)
    w = {name: torch.randn(shape, generator=g) * 0.4 for name, shape in shapes.items()}
    write_safetensors(
        {f"model.transformer.{name}.weight": value for name, value in w.items()},
        tmp_path / "model.safetensors",
    )
    config = {"model_type": "llada", "architectures": ["LLaDAModelLM"], "mask_token_id": MASK, "d_model": d}
    config |= {"n_heads": heads, "n_kv_heads": heads, "n_layers": layers, "mlp_hidden_size": hidden}
    config |= {"block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "rope": True}
    config |= {"rope_theta": theta, "vocab_size": vocab, "embedding_size": vocab + 3, "weight_tying": False}
    config |= {"max_sequence_length": 64, "rms_norm_eps": 1e-5, "alibi": False, "include_bias": False}
    (tmp_path / "config.json").write_text(json.dumps(config))

    def rms(x, scale):
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * scale

    def turned(x):
        half = d // heads // 2
        angles = torch.arange(x.shape[-2])[:, None] * theta ** (-torch.arange(half) / half)
        angles = torch.cat((angles, angles), -1)
        return x * angles.cos() + torch.cat((-x[..., half:], x[..., :half]), -1) * angles.sin()

    x = torch.randint(3, vocab, (2, 7), generator=g)
    x[:, 1::2] = MASK
    h = w["wte"][x]
    for i in range(layers):
        block = {
            name.removeprefix(f"blocks.{i}."): v for name, v in w.items() if name.startswith(f"blocks.{i}.")
        }
        y = rms(h, block["attn_norm"])
        q, k, v = (
            (y @ block[name].T).view(2, 7, heads, -1).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        a = (turned(q) @ turned(k).transpose(-1, -2) / math.sqrt(d // heads)).softmax(-1) @ v
        h = h + a.transpose(1, 2).reshape(2, 7, d) @ block["attn_out"].T
        y = rms(h, block["ff_norm"])
        h = h + (F.silu(y @ block["ff_proj"].T) * (y @ block["up_proj"].T)) @ block["ff_out"].T
    logits = (rms(h, w["ln_f"]) @ w["ff_out"].T)[..., :vocab]
    logits[..., MASK] = -torch.inf
    teacher = omnidistill.teacher(tmp_path)
    with torch.no_grad():
        found = teacher(torch.where(x == MASK, teacher.path.mask_id, x), 0.5).probs
    assert torch.allclose(found[:, 1::2], logits.softmax(-1)[:, 1::2], atol=1e-5)


def test_a_dreams_own_tokenizer_is_read_without_its_code(tmp_path):
    """Vocabulary, merges and a class in the folder, which is a Qwen2's by another name."""
    saved(tmp_path, "dream")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {entry: number for number, entry in enumerate([*alphabet[:-4], "Ġt", "he", "Ġthe"])}
    said = {"mask_token": "<|mask|>", "pad_token": "<|mask|>", "unk_token": None}
    kept = {"content": "<|mask|>", "special": True}
    kept |= dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    said |= {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
    }
    end = {**kept, "content": "<|endoftext|>"}
    said |= {"added_tokens_decoder": {str(len(vocab)): end, str(len(vocab) + 1): kept}}
    for name, content in (("vocab.json", json.dumps(vocab)), ("tokenizer_config.json", json.dumps(said))):
        (tmp_path / name).write_text(content)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ t\nh e\nĠt he\n")
    (tmp_path / "tokenization_dream.py").write_text("raise SystemExit('this was run')")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"vocab_size": len(vocab) + 3, "mask_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").unlink()
    known = compose("config", ["task=text/own", f"teacher={tmp_path}", "recipe=di-m-o", "out=out"]).task
    assert known.foreign.network.mask_id == len(vocab) + 1 and known.foreign.network.vocab == len(vocab) + 2
    tokens = OwnTokens(known.tokenizer)
    assert tokens.decode(tokens.encode("a the hat")) == "a the hat" and len(tokens.encode("a the")) == 2


def test_a_folder_is_distilled_by_one_command_text_in_and_text_out(tmp_path):
    saved(tmp_path / "teacher", "llama")
    draws = torch.Generator().manual_seed(0)
    lines = [
        " ".join(WORDS[i] for i in torch.randint(len(WORDS), (9,), generator=draws)) + "." for _ in range(60)
    ]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    quick = ["updates=2", "batch=4", "steps=[1,4]", "device=cpu", "precision=fp32", "task.teacher_steps=4"]
    judged = ["evaluation.samples=16", "evaluation.batch=16", f"out={tmp_path / 'out'}"]
    words = ["task=text/own", f"teacher={tmp_path / 'teacher'}", f"task.folder={tmp_path / 'text.txt'}"]
    distil.distill(compose("config", [*words, "recipe=sdtt", "task.length=16", *quick, *judged]))
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert document["primary"]["name"] == "bits_per_char" and "bigram" in document["student"][0]["metrics"]
    student = omnidistill.load(tmp_path / "out")
    ids = student.sample(3, steps=2, context=Context(mask=torch.ones(3, 30, dtype=torch.bool)))
    known = {*WORDS, "<unk>", "."}
    assert ids.shape == (3, 30), "longer than it was trained, for places are turned and not looked up"
    assert MASK not in ids and {*student.task.tokens.decode(ids[0]).split()} <= known
    from omnidistill.cli import main

    (tmp_path / "gaps.txt").write_text("the old _ saw _ dog")
    asked_ = [f"input={tmp_path / 'gaps.txt'}", f"out={tmp_path / 'filled'}", "steps=2"]
    assert main(["sample", str(tmp_path / "out"), *asked_]) == 0
    (filled,) = (tmp_path / "filled").glob("*.txt")
    assert filled.read_text().startswith("the old ") and "_" not in filled.read_text()


def test_blocks_in_the_order_of_confidence(tmp_path):
    """With one token a step the order is that of sureness within each block, from left to right."""
    saved(tmp_path, "bert")
    decoding = "task.sampler={_target_: omnidistill.samplers.Confidence, block: 4, temperature: 0.0}"
    task, teacher = asked(tmp_path, "task.length=16", decoding)
    sampler = task.sampler()
    assert isinstance(sampler, Confidence)
    context = task.contexts(2, generator(0))
    made = sampler.sample(teacher, task.like(2, context=context), 16, context, g=generator(0), keep=True)
    open_ = torch.stack([state == teacher.path.mask_id for state in made.states])
    for block in range(4):
        later = open_[:, :, 4 * block + 4 :].flatten(1).any(1)
        assert bool(open_[4 * block, :, 4 * block : 4 * block + 4].all())
        assert later[: 4 * block + 5].all() or block == 3
    assert not open_[-1].any()
    check_denoiser(teacher, made.x0, context)


def test_what_a_discriminator_reads_are_the_last_hidden_states(tmp_path):
    model = saved(tmp_path, "bert")
    _, teacher = asked(tmp_path)
    x = torch.randint(3, 9, (4, 6), generator=generator(0))
    with torch.no_grad():
        belief, found = teacher.examine(x, 0.5, answered=2)
        wanted = model(input_ids=x, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(found["model"], wanted, atol=1e-5) and belief.logits.shape[0] == 2
    assert teacher.features(x, 0.5).shape == (4, teacher.feature_channels())


def test_what_is_not_known_is_said_in_a_line(tmp_path):
    saved(tmp_path, "bert")
    with pytest.raises(UserError, match=r"knows 40 places; task.length=41"):
        asked(tmp_path, "task.length=41")
    teacher = omnidistill.teacher(tmp_path)
    with pytest.raises(UserError, match="40 places and is asked about 41 tokens"):
        teacher(torch.zeros(1, 41, dtype=torch.long), 0.5)
    with pytest.raises(
        UserError, match="holds a teacher with length, tokenizer, which image/own knows nothing of"
    ):
        compose("config", ["task=image/own", f"teacher={tmp_path}", "recipe=dmd2", "out=out"])
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"give task.mask_token=NAME"):
        asked(tmp_path)
    assert asked(tmp_path, "task.mask_token='<hidden>'")[1].network.mask_id == MASK
    with pytest.raises(UserError, match=r"give another task.mask_token"):
        asked(tmp_path, "task.mask_token=dogs")
    config = json.loads((tmp_path / "config.json").read_text())
    for kind, said, why in (
        ("gpt2", ["GPT2LMHeadModel"], 'predicts next tokens; .*"is_causal": false'),
        ("sedd", ["Sedd"], "a model of its own code, model_type=sedd"),
        ("llada", None, "LLaDA with block_type=None"),
    ):
        (tmp_path / "config.json").write_text(
            json.dumps(config | {"model_type": kind, "architectures": said})
        )
        with pytest.raises(UserError, match=why):
            asked(tmp_path, "task.mask_token='<hidden>'")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match=r"no tokenizer.json"):
        asked(tmp_path)
    words = ["task.mask_token='<hidden>'", f"task.tokenizer={tmp_path / 'elsewhere.json'}"]
    assert asked(tmp_path, *words)[0].tokens.vocab == teacher.path.vocab
    with pytest.raises(UserError, match="is no folder"):
        omnidistill.teacher(tmp_path / "nowhere")
