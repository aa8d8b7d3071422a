"""Scenes: the student is a set of 3D Gaussians, a sample is what a camera sees of it, `scenes/toys`."""
