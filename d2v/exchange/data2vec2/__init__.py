"""fairseq's data2vec 2.0 files in."""
