"""Architectures as numbers: the published ones by name, any other as a dictionary of numbers."""

from dataclasses import dataclass

from cleanclip_jax.registry import Registry


@dataclass(frozen=True)
class Stack:
    """The numbers of one transformer; `hidden` is the width inside its MLPs."""

    layers: int
    width: int
    heads: int
    hidden: int
    causal: bool
    epsilon: float


@dataclass(frozen=True)
class Variant:
    """The numbers of one architecture. `patch` 0 means the modified ResNet.

    Attributes:
      vision_layers: a depth for a vision transformer and four depths for a ResNet.
      vision_head_width: of an attention head; of the attention pool's in a ResNet.
      vision_hidden, text_hidden: the width inside an MLP; 0: four times the tower's.
      vision_epsilon, text_epsilon: of the layer norms.
      vision_pool: token | mean (of the normed patches) | mean_norm (the patches' mean, normed).
      ln_pre: whether patches are normed before the first block.
      causal: whether a token sees those before it alone.
      text_pool: end | first | last: the token whose features are a caption's.
      text_end: the id of the end of text; -1: the highest of a row.
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
    vision_head_width: int = 64
    vision_hidden: int = 0
    text_hidden: int = 0
    vision_epsilon: float = 1e-5
    text_epsilon: float = 1e-5
    vision_pool: str = "token"
    ln_pre: bool = True
    causal: bool = True
    text_pool: str = "end"
    text_end: int = -1

    @property
    def vision_heads(self) -> int:
        """Heads of a vision transformer's attention, or of a ResNet's attention pool."""
        width = self.vision_width if self.patch else 32 * self.vision_width
        return width // self.vision_head_width

    @property
    def vision(self) -> Stack:
        """The image tower's transformer."""
        assert isinstance(self.vision_layers, int)
        hidden = self.vision_hidden or 4 * self.vision_width
        numbers = self.vision_layers, self.vision_width, self.vision_heads, hidden
        return Stack(*numbers, causal=False, epsilon=self.vision_epsilon)

    @property
    def text(self) -> Stack:
        """The text tower's transformer."""
        hidden = self.text_hidden or 4 * self.text_width
        numbers = self.text_layers, self.text_width, self.text_heads, hidden
        return Stack(*numbers, causal=self.causal, epsilon=self.text_epsilon)


_ROWS = {
    "RN50": Variant(1024, 224, (3, 4, 6, 3), 64, 0, 12, 512, 8),
    "RN101": Variant(512, 224, (3, 4, 23, 3), 64, 0, 12, 512, 8),
    "RN50x4": Variant(640, 288, (4, 6, 10, 6), 80, 0, 12, 640, 10),
    "RN50x16": Variant(768, 384, (6, 8, 18, 8), 96, 0, 12, 768, 12),
    "RN50x64": Variant(1024, 448, (3, 15, 36, 10), 128, 0, 12, 1024, 16),
    "ViT-B/32": Variant(512, 224, 12, 768, 32, 12, 512, 8),
    "ViT-B/16": Variant(512, 224, 12, 768, 16, 12, 512, 8),
    "ViT-B/16-plus-240": Variant(640, 240, 12, 896, 16, 12, 640, 10),
    "ViT-L/16": Variant(768, 224, 24, 1024, 16, 12, 768, 12),
    "ViT-L/14": Variant(768, 224, 24, 1024, 14, 12, 768, 12),
    "ViT-H/14": Variant(1024, 224, 32, 1280, 14, 24, 1024, 16, vision_head_width=80),
    "ViT-g/14": Variant(
        *(1024, 224, 40, 1408, 14, 24, 1024, 16), vision_head_width=88, vision_hidden=6144
    ),
    "ViT-bigG/14": Variant(
        *(1280, 224, 48, 1664, 14, 32, 1280, 20), vision_head_width=104, vision_hidden=8192
    ),
    # Small ones, for pictures of 32 and 64 pixels on a processor without accelerator.
    "ViT-32px/8-mini": Variant(64, 32, 3, 64, 8, 2, 64, 1, context_length=24, vocab_size=2048),
    "ViT-32px/8": Variant(128, 32, 4, 128, 8, 3, 128, 2, context_length=24, vocab_size=2048),
    "ViT-32px/4": Variant(128, 32, 4, 128, 4, 3, 128, 2, context_length=24, vocab_size=2048),
    "ViT-64px/8": Variant(128, 64, 4, 128, 8, 3, 128, 2, context_length=24, vocab_size=2048),
    "RN-32px": Variant(128, 32, (1, 1, 1, 1), 16, 0, 3, 128, 2, context_length=24, vocab_size=2048),
    "RN-64px": Variant(128, 64, (1, 1, 1, 1), 16, 0, 3, 128, 2, context_length=24, vocab_size=2048),
}
VARIANTS: Registry[Variant] = Registry("config.model.variant", _ROWS)
