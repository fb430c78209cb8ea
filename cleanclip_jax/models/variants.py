"""The table of CLIP architectures, by name."""

from dataclasses import dataclass

from cleanclip_jax.registry import Registry


@dataclass(frozen=True)
class Variant:
    """The numbers of one architecture. `patch` 0 means the modified ResNet.

    `vision_layers` is a depth for a vision transformer and four depths for a ResNet.
    """

    features: int
    image_size: int
    vision_layers: int | tuple[int, ...]
    vision_width: int
    patch: int
    text_layers: int
    text_width: int
    text_heads: int
    context_length: int = 77
    vocab_size: int = 49408

    @property
    def vision_heads(self) -> int:
        """A vision transformer's heads, 64 wide each."""
        return self.vision_width // 64


_ROWS = {
    "RN50": Variant(1024, 224, (3, 4, 6, 3), 64, 0, 12, 512, 8),
    "RN101": Variant(512, 224, (3, 4, 23, 3), 64, 0, 12, 512, 8),
    "RN50x4": Variant(640, 288, (4, 6, 10, 6), 80, 0, 12, 640, 10),
    "RN50x16": Variant(768, 384, (6, 8, 18, 8), 96, 0, 12, 768, 12),
    "ViT-B/32": Variant(512, 224, 12, 768, 32, 12, 512, 8),
    "ViT-B/16": Variant(512, 224, 12, 768, 16, 12, 512, 8),
    "ViT-L/14": Variant(768, 224, 24, 1024, 14, 12, 768, 12),
    # Small ones, for pictures of 32 and 64 pixels on a processor without accelerator.
    "ViT-32px/8-mini": Variant(64, 32, 3, 64, 8, 2, 64, 1, context_length=24, vocab_size=2048),
    "ViT-32px/8": Variant(128, 32, 4, 128, 8, 3, 128, 2, context_length=24, vocab_size=2048),
    "ViT-32px/4": Variant(128, 32, 4, 128, 4, 3, 128, 2, context_length=24, vocab_size=2048),
    "ViT-64px/8": Variant(128, 64, 4, 128, 8, 3, 128, 2, context_length=24, vocab_size=2048),
    "RN-32px": Variant(128, 32, (1, 1, 1, 1), 16, 0, 3, 128, 2, context_length=24, vocab_size=2048),
    "RN-64px": Variant(128, 64, (1, 1, 1, 1), 16, 0, 3, 128, 2, context_length=24, vocab_size=2048),
}
VARIANTS: Registry[Variant] = Registry("config.model.variant", _ROWS)
find_variant = VARIANTS.find
