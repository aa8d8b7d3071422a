"""A model on the disk: its description beside its weights, and the denoiser that is built of them again."""
