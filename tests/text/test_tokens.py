"""Text to ids and back, by characters and by byte pairs, and a tokenizer that travels in plain values."""

import unicodedata

import pytest
import yaml

from omnidistill.errors import UserError
from omnidistill.modalities.text import merges as merges_command
from omnidistill.modalities.text.task import Text
from omnidistill.modalities.text.tokens import ALPHABET, Tokens, learn_merges
from omnidistill.random import generator


def test_cleaning_keeps_the_alphabet_alone():
    assert Tokens().clean("  Café\tNo. 5 —  “so” ") == "cafe no. 5 so"
    assert Tokens(" aAbB").clean("AbBa xA") == "AbBa A"


@pytest.mark.parametrize("alphabet", [ALPHABET, ALPHABET + "\u00e9\u00ef"])
def test_composed_and_decomposed_accents_are_one_text(alphabet):
    tokens = Tokens(alphabet)
    for text in ("r\u00e9sum\u00e9s na\u00efve", "\u1e69q\u0307x"):
        composed, apart = (tokens.clean(unicodedata.normalize(form, text)) for form in ("NFC", "NFD"))
        assert composed == apart and len(composed) == len(
            unicodedata.normalize("NFC", text).replace("\u0307", "")
        )
    assert "caf\u00e9".replace("\u00e9", tokens.clean("\u00e9")) == tokens.clean("cafe\u0301")
    assert tokens.clean("soft\u00adly zero\u200dwidth") == "softly zerowidth"


def test_ids_come_back_as_the_same_text():
    tokens = Tokens()
    text = tokens.clean("The quick brown fox, it's said: jumped over 12 dogs!")
    assert tokens.decode(tokens.encode(text)) == text
    ids, lengths = tokens.encode_all([text, "", "a b"])
    assert ids.tolist() == tokens.encode(text + "a b") and lengths.tolist() == [len(text), 0, 3]


@pytest.mark.parametrize("alphabet", ["aa ", "abc", ""])
def test_alphabets_are_distinct_characters_with_a_space(alphabet):
    with pytest.raises(UserError, match="alphabet"):
        Tokens(alphabet)


def test_byte_pairs_are_learned_and_round_trip(documents):
    plain = Tokens()
    texts = [plain.clean(s) for d in documents for s in d]
    merges = learn_merges(texts, plain.alphabet, plain.vocab + 30)
    assert merges == learn_merges(texts, plain.alphabet, plain.vocab + 30)
    pairs = Tokens(plain.alphabet, merges)
    assert pairs.vocab == plain.vocab + len(merges) and 20 <= len(merges) <= 30
    ids, _ = pairs.encode_all(texts)
    assert pairs.decode(ids) == "".join(texts)
    assert ids.tolist() == [i for text in texts for i in pairs.encode(text)]
    assert len(ids) < 0.7 * sum(map(len, texts))
    again = Tokens(*yaml.safe_load(yaml.safe_dump([pairs.alphabet, list(pairs.merges)])))
    assert again.encode(texts[0]) == pairs.encode(texts[0])


def test_damaged_merges_are_refused():
    with pytest.raises(UserError, match="damaged"):
        Tokens(merges=["th|e"])
    with pytest.raises(UserError, match="does not hold the alphabet"):
        learn_merges(["a b"], Tokens().alphabet, 10)


def test_the_command_writes_a_task_that_a_text_in_pairs_is_read_by(text_folder, tmp_path):
    file = tmp_path / "task" / "text" / "pairs.yaml"
    merges_command.main([f"text={text_folder}", "vocab=80", f"out={file}"])
    options = yaml.safe_load(file.read_text())["task"]
    assert options.pop("_target_").endswith("Text")
    task = Text(**options)
    batch = task.batch(16, generator(0), "held_out")
    found = task.measure(batch.x0, batch.context, generator(0))
    assert found["real_words"] == 1.0
    assert found["characters"] > 1.3 * float(batch.context.mask.sum(1).double().mean())
    with pytest.raises(UserError, match="unknown key 'words'"):
        merges_command.main(["words=3"])
