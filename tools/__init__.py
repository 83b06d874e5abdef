"""What the Makefile runs: the study, its summary page and the README."""
