"""Rewards of pictures `(x0_hat, x0, context)`, one a sample, higher is better."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.image.codec import SHIPPED, Latents
from omnidistill.modalities.image.metrics import load_classifier
from omnidistill.modalities.image.networks import Classifier

SIDES = {"classifier": 28, "digits_classifier": 8}
"""Of the pictures that each was trained on."""


class Label:
    """Log probability that a shipped classifier gives to the label that the sample was asked for.

    Args:
        classifier: `classifier` (Fashion-MNIST, 28x28) or `digits_classifier` (8x8).
        autoencoder: that decodes latents: `shipped`, or a folder; None where samples are pixels.
    """

    def __init__(self, classifier: str = "classifier", autoencoder: str | None = None) -> None:
        if classifier not in SIDES:
            raise UserError(f"there is no classifier '{classifier}'; possible: {', '.join(SIDES)}")
        self.name, self.side, self.autoencoder = classifier, SIDES[classifier], autoencoder

    @cached_property
    def _classifier(self) -> Classifier:
        return load_classifier(self.name)

    @cached_property
    def _codec(self) -> Latents | None:
        if self.autoencoder is None:
            return None
        return Latents(
            SHIPPED if self.autoencoder == "shipped" else self.autoencoder, (1, self.side, self.side)
        )

    def __call__(
        self, x0_hat: Float[Tensor, "b ..."], x0: Tensor | None, context: Context
    ) -> Float[Tensor, "b"]:
        if x0_hat.ndim != 4:
            raise UserError(
                f"the reward Label judges pictures, or latents that an autoencoder decodes; this task's samples are "
                f"{tuple(x0_hat.shape[1:])}: take a task of pictures or another reward"
            )
        labels = context.condition
        if not isinstance(labels, Tensor):
            raise UserError("the reward Label judges by the label asked for; take a task that has labels")
        wanted = (1, self.side, self.side) if self._codec is None else self._codec.shape
        if tuple(x0_hat.shape[1:]) != wanted:
            raise UserError(
                f"the reward Label judges {'pixels' if self._codec is None else 'latents'} {wanted}, samples are "
                f"{tuple(x0_hat.shape[1:])}; autoencoder=shipped, or a folder, decodes latents, null is pixels"
            )
        with torch.autocast(x0_hat.device.type, enabled=False):
            pictures = x0_hat.float() if self._codec is None else self._codec.decode(x0_hat.float())
            logits = self._classifier.to(x0_hat.device)(pictures)
        return logits.log_softmax(1).gather(1, labels.long()[:, None])[:, 0]
