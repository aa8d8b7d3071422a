"""omnidistill: slow generative teachers in, one-to-eight-step students out, for every modality with one core."""

__version__ = "0.1.0"
