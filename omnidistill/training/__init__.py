"""Roles and their schedule, the one Lightning module, averages, checkpoints. Heavy imports stay inside `loop`."""
