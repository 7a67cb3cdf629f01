"""fairseq's command line: how its commands are written, run, and what they print is read."""
