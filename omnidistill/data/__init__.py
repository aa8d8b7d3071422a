"""Named data sets: where their files come from, whether they are what they should be, where they are kept."""
