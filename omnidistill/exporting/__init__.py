"""Students handed back to the libraries that teams deploy: each format a file, each verified against the student."""
