"""A masked language model of transformers as a teacher, as LLaDA is one: no time, and a mask inside the vocabulary.

Our mask is the token after the last one, theirs is anywhere (126336 in LLaDA-8B), so tokens are renamed on the way in
and columns on the way out. Real weights: `AutoModel.from_pretrained(folder)` of such a model and its mask's number.
See to it that the model heeds `attention_mask`: LLaDA's own file did not, and then padding changes the answer.

    python docs/teachers/llada.py
"""

import tempfile

import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import MaskedPath


class Llada(nn.Module):
    """Tokens Long[b n] with the mask as the last one -> logits Float[b n vocab]; the time is not looked at."""

    theirs: Tensor

    def __init__(self, model: nn.Module, mask_id: int) -> None:
        super().__init__()
        self.model = model
        tokens = torch.arange(model.config.vocab_size)
        self.register_buffer("theirs", torch.cat((tokens[tokens != mask_id], tokens[mask_id : mask_id + 1])))

    def forward(self, x: Tensor, t: Tensor, *, mask: Tensor | None = None) -> Tensor:
        attention = None if mask is None else mask.long()
        logits = self.model(input_ids=self.theirs[x], attention_mask=attention).logits
        return logits[..., self.theirs[:-1]]


def teacher(model: nn.Module, mask_id: int) -> NetworkDenoiser:
    return NetworkDenoiser(Llada(model, mask_id), MaskedPath(model.config.vocab_size - 1), "logits")


def tiny(folder: str, vocab: int = 40) -> nn.Module:
    """A bidirectional masked language model of random weights, saved into `folder` and loaded from there."""
    from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=vocab, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return AutoModelForMaskedLM.from_pretrained(folder).eval()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        llada = teacher(tiny(folder), mask_id=7)
    student = omnidistill.distill(llada, "di-m-o", shape=(12,), updates=2, batch=4, device="cpu")
    print("student's tokens:", tuple(student.sample(2).shape))
