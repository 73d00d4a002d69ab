"""Pictures: the official code and timm in, timm out."""
