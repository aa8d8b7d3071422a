"""How good samples are: distances between samples, quality against steps, the gap closed, tables and the report page."""
