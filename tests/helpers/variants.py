"""The shapes of the golden values, which tests may name like any architecture."""

from cleanclip_jax.models.variants import VARIANTS, Variant

RESNET = Variant(48, 64, (1, 2, 1, 1), 8, 0, 2, 64, 1, context_length=16, vocab_size=300)
VIT = Variant(48, 32, 2, 64, 8, 2, 64, 1, context_length=16, vocab_size=300)

# Half as much to compile, where the values of the original play no part.
ONE = Variant(48, 32, 1, 64, 8, 1, 64, 1, context_length=16, vocab_size=300)

VARIANTS.add("RN-test", RESNET)
VARIANTS.add("ViT-test-one", ONE)
VARIANTS.add("ViT-test-clip", Variant(48, 32, 1, 64, 8, 1, 64, 1))  # for CLIP's own words
VARIANTS.add("ViT-test", VIT)
