"""Other frameworks' ways in: `torch.compile(model, backend="monstera")`, and decoders of transformers."""
