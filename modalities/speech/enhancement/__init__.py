"""Speech enhancement: noisy recordings into clean ones, as compressed complex spectrograms on a mean-reverting path."""
