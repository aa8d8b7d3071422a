"""Speech: cleaning of noisy recordings, synthesis from text."""
