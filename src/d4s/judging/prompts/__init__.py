"""What a judge is told, one module per version; a version that has been used never changes."""
