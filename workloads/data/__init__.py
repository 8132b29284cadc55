"""Readers of the official files of each data set, one source a file, and the fixed splits."""
