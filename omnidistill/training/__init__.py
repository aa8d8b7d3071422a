"""Roles and their schedule, the engine and its loop, averages, checkpoints."""
