"""From what is typed and what is written in YAML to a checked configuration, and from that to objects."""
