"""Coordinates: ensembles of molecular structures up to rigid motion; adenylate kinase, or the user's own files."""
