"""CLIP's modified ResNet in PyTorch, under OpenAI's names, for torch_step.py."""

import torch
import torch.nn.functional as F
from torch import nn

from cleanclip_jax.models.variants import Variant


class Bottleneck(nn.Module):
    """1x1, 3x3, average pool for a stride, 1x1; the short way is pooled likewise."""

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        wide = 4 * planes
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.downsample = None
        if stride > 1 or inputs != wide:
            convolution = nn.Conv2d(inputs, wide, 1, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(wide))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        if self.stride > 1:
            out, x = (F.avg_pool2d(each, self.stride) for each in (out, x))
        out = self.bn3(self.conv3(out))
        short = x if self.downsample is None else self.downsample(x)
        return F.relu(out + short, inplace=True)


class AttentionPool(nn.Module):
    """Attention with the mean as the query, or with every position and the first one kept."""

    def __init__(self, positions: int, width: int, heads: int, features: int, whole: bool):
        super().__init__()
        self.heads, self.whole = heads, whole
        self.positional_embedding = nn.Parameter(torch.empty(positions, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        asking = x if self.whole else x[:, :1]

        def split(rows: torch.Tensor) -> torch.Tensor:
            return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        found = F.scaled_dot_product_attention(
            split(self.q_proj(asking)), split(self.k_proj(x)), split(self.v_proj(x))
        )
        return self.c_proj(found.transpose(1, 2).flatten(2))[:, 0]


class ResNet(nn.Module):
    """CLIP's modified ResNet, under OpenAI's names."""

    def __init__(self, v: Variant, whole: bool):
        super().__init__()
        assert isinstance(v.vision_layers, tuple)
        w = v.vision_width
        for i, (before, after) in enumerate(((3, w // 2), (w // 2, w // 2), (w // 2, w)), start=1):
            stride = 2 if i == 1 else 1
            setattr(self, f"conv{i}", nn.Conv2d(before, after, 3, stride, 1, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(after))
        inputs = w
        for stage, depth in enumerate(v.vision_layers):
            planes, blocks = w * 2**stage, []
            for i in range(depth):
                blocks.append(Bottleneck(inputs, planes, 2 if stage and not i else 1))
                inputs = 4 * planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        positions = (v.image_size // 32) ** 2 + 1
        self.attnpool = AttentionPool(positions, inputs, inputs // 64, v.features, whole)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in (1, 2, 3):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = F.relu(x, inplace=True)
        x = F.avg_pool2d(x, 2)
        for i in (1, 2, 3, 4):
            x = getattr(self, f"layer{i}")(x)
        return self.attnpool(x)
