"""Speech from text: a log-mel made from characters, and the sound made from that."""
