"""Downstream tasks: one file each."""
