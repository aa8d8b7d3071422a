"""Text: the Brown corpus or the user's own, character by character or in byte pairs, and n-gram judges."""
