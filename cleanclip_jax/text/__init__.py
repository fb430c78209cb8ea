"""Captions on the host: tokenizer, augmentation, prompt templates."""
