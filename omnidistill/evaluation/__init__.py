"""How good samples are: distances between samples, quality against steps, the gap closed, and the report page."""
