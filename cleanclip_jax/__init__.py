"""CleanCLIP in JAX: poison, measure and clean CLIP models."""

__version__ = "0.1.0"
