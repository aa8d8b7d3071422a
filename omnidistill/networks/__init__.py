"""Networks on tensors of any meaning: vectors, grids, sequences, points. Import each from its own module."""
