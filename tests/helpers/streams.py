"""Training batches whose arguments, those of `Reading` too, come as one flat list."""

from dataclasses import fields
from typing import Any

from cleanclip_jax.data.stream.pipeline import Batch, Batches, Reading, train_batches
from cleanclip_jax.record import Source
from cleanclip_jax.text.tokenizer import Tokenizer

READING = {field.name for field in fields(Reading)}


def stream_of(source: Source, tokenizer: Tokenizer, **options: Any) -> Batches[Batch]:
    reading = Reading(**{key: options.pop(key) for key in READING & options.keys()})
    return train_batches(source, tokenizer, reading, **options)
