"""Losses for named roles: pure arithmetic on tensors. No optimiser, no trainer, no modality."""
