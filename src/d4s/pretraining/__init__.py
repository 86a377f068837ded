"""Corpus, tokenizer and training of the small models that the pipeline trains itself."""
