"""Speed, memory and error beside transformers and CTranslate2, on the same weights. Run by `make bench`."""
