"""Other frameworks' ways in: the backend of `torch.compile`, decoders of transformers, torch's kernels for 2:4."""
