"""Packaged Hydra configuration: one YAML file a task, recipe, trainer, claim, sweep or data set."""
