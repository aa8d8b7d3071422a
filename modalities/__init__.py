"""Built-in modalities, one folder each, found through the entry-point group `omnidistill.modalities`."""
