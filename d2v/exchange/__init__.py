"""Models of other libraries in and out: what their tensors and settings are called there."""
