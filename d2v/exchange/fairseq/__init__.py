"""fairseq: its speech, text and picture files in."""
