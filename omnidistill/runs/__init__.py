"""The commands' work: train a teacher, distil it, sample, evaluate, sweep. Each is in the module of its name."""
