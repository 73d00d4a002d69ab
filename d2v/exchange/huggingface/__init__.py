"""Hugging Face: its three data2vec models in and out."""
