"""Video: short clips of camera recordings, `video/clips`."""
