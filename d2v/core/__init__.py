"""Pure tensor functions: no files, no clock, no device choice, no modality."""
