"""Audio: files, spectra and mel signatures for every modality that hears, and the music task."""
