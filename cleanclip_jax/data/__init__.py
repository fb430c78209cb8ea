"""Pairs from files to batches on the host: sources and the Grain pipeline."""
