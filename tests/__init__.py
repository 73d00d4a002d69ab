"""Tests of d2v; each file's docstring says what it proves."""
