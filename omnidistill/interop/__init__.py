"""Bridges to the libraries that people run. Each module imports its library, so it is imported where it is used."""
