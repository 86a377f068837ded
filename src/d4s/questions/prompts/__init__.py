"""What a language model is told, one module per version; a version that has been used never changes."""
