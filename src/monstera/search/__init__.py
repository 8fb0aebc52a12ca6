"""Chooses which holes go where, and which network: by what layers cost on a machine and holes cost in accuracy."""
