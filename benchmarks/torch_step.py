"""CleanCLIP's training step in PyTorch, which benchmarks/train_step.py holds ours against.

    best      what PyTorch does fastest: bfloat16 autocast where that is asked for, channels_last
              for a ResNet, torch.compile where it helps, fused AdamW, scaled_dot_product_attention,
              TF32 for float32 on a GPU, uint8 pictures normalised on the device
    original  as the paper's code runs: float32 and eager, contiguous pictures normalised before,
              unfused AdamW, attention pool over all positions, every caption as long as the
              context, logits in half precision on a GPU

Both encode both views in one forward. Towers are Hugging Face's; a ResNet is timm's where that is
asked for, else torch_resnet.py's, which bears OpenAI's names.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch_resnet import ResNet
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection
from transformers import __version__ as transformers_version
from turns import Job

from cleanclip_jax.process import keep_memory
from cleanclip_jax.start.torch.sidecars import huggingface_config

# OpenAI's, as in views/normalise.py.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
MAX_LOGIT_SCALE = 4.6052
PEAK_RATE = 5e-4  # the config's default; the cosine after the warm-up is never reached here
TRIED = 2.0  # seconds that each mode of torch.compile is tried for


class Clip(nn.Module):
    """Both towers and the logit scale."""

    def __init__(self, job: Job, way: str, timm: bool = False):
        super().__init__()
        v, attention = job.numbers, "eager" if way == "original" else "sdpa"
        # A ResNet has no name in Hugging Face's config: its text tower alone is taken from there.
        config = huggingface_config(v if v.patch else replace(v, vision_layers=1, patch=1))
        for tower in ("text_config", "vision_config"):
            config[tower]["hidden_act"] = "quick_gelu"
        self.logit_scale = nn.Parameter(torch.tensor(0.0))
        if v.patch:
            config["vision_config"]["image_size"] = v.image_size
            self.both = CLIPModel._from_config(CLIPConfig(**config), attn_implementation=attention)
            del self.both.logit_scale
            return
        words = CLIPTextConfig(**config["text_config"])
        self.text = CLIPTextModelWithProjection._from_config(words, attn_implementation=attention)
        if timm:
            from timm import create_model

            self.visual = create_model("resnet50_clip", num_classes=v.features)
        else:
            self.visual = ResNet(v, whole=way == "original")

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Takes our weights, as train_step.py's `exported` names them: all of them, no other."""
        prefix = "both." if hasattr(self, "both") else ""
        named = {
            name if name.startswith(("visual.", "logit_scale")) else (prefix or "text.") + name: x
            for name, x in tensors.items()
        }
        # torch.tensor, for what was read may be read-only.
        self.load_state_dict({name: torch.tensor(x) for name, x in named.items()}, strict=True)

    def features(
        self, images: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Un-normalised features of pictures [n, 3, s, s] and of tokens [n, length]."""
        if not hasattr(self, "both"):
            return self.visual(images), self.text(input_ids=tokens).text_embeds
        image = self.both.vision_model(pixel_values=images).pooler_output
        text = self.both.text_model(input_ids=tokens).pooler_output
        return self.both.visual_projection(image), self.both.text_projection(text)


def info_nce(queries: torch.Tensor, keys: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    logits = scale * queries @ keys.T
    answers = torch.arange(len(queries), device=queries.device)
    return F.cross_entropy(logits.float(), answers)


def terms(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """MMCL, and with a second view the in-modal term, of unit embeddings [b, 2 views, d]."""
    views = rows.shape[1] // 2
    image, text = rows[:, 0], rows[:, views]
    loss = (info_nce(image, text, scale) + info_nce(text, image, scale)) / 2
    if views == 2:
        own = info_nce(image, rows[:, 1], scale) + info_nce(text, rows[:, 3], scale)
        loss = loss + own / 2
    return loss


class Step:
    """One way of training, with what it holds on the device.

    Args:
      data: (images uint8[b, views, s, s, 3], tokens int32[b, views, n]) of several batches.
      weights: ours, as train_step.py exports them; None: torch's own, at random.
    """

    def __init__(
        self,
        job: Job,
        way: str,
        data: list[tuple[np.ndarray, np.ndarray]],
        weights: Mapping[str, np.ndarray] | None,
        timm: bool = False,
    ):
        self.job, self.way, self.done = job, way, 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if way == "best" and self.device.type == "cpu":
            keep_memory()  # as our side does
        torch.manual_seed(job.seed)
        self.model = Clip(job, way, timm)
        if weights is not None:
            self.model.load(weights)
        self.model.to(self.device).train()
        self.mean, self.std = (
            torch.from_numpy(x).to(self.device).view(3, 1, 1) for x in (MEAN, STD)
        )
        self.best = way == "best"
        if self.best and not job.numbers.patch:
            self.model.to(memory_format=torch.channels_last)
        self.data = [self.placed(*batch) for batch in data]
        decayed, others = [], []
        for name, x in self.model.named_parameters():
            matrix = x.ndim > 1 or "class_embedding" in name
            (decayed if matrix else others).append(x)
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        fused = True if self.best else None  # None: PyTorch's own choice, not fused
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, fused=fused)
        self.loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = self.whole_loss

    def placed(self, images: np.ndarray, tokens: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch on the device, its views one after another, pictures as the way takes them."""
        pictures = torch.from_numpy(images).to(self.device).flatten(0, 1).permute(0, 3, 1, 2)
        if not self.best:
            pictures = self.normalised(pictures).contiguous()
        return pictures, torch.from_numpy(tokens).to(self.device).long().flatten(0, 1)

    def normalised(self, pictures: torch.Tensor) -> torch.Tensor:
        return (pictures.float() / 255 - self.mean) / self.std

    def embeddings(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Unit embeddings float32[b, 2 views, d]: pictures, then texts."""
        if images.dtype == torch.uint8:
            images = self.normalised(images)
        half = self.best and self.job.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            features = self.model.features(images, tokens)
        both = (x.float().unflatten(0, (-1, self.job.views)) for x in features)
        return F.normalize(torch.cat(list(both), 1), dim=-1)

    def whole_loss(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        rows = self.embeddings(images, tokens)
        half = self.way == "original" and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.float16, enabled=half):
            return terms(rows, self.model.logit_scale.exp())

    def check(self, images: np.ndarray, tokens: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and unit embeddings of a few pairs, in float32; changes nothing."""
        norms = [x for x in self.model.modules() if isinstance(x, nn.BatchNorm2d)]
        kept = [{name: x.clone() for name, x in norm.named_buffers()} for norm in norms]
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            pictures, ids = self.placed(images, tokens)
            pictures = pictures if pictures.is_floating_point() else self.normalised(pictures)
            features = self.model.features(pictures, ids)
            both = [x.float().unflatten(0, (-1, self.job.views)) for x in features]
            rows = F.normalize(torch.cat(both, 1), dim=-1)
            loss = float(terms(rows, self.model.logit_scale.exp()))
        for norm, buffers in zip(norms, kept, strict=True):
            norm.load_state_dict(buffers, strict=False)
        return loss, rows.cpu().numpy()

    def step(self) -> torch.Tensor:
        """One update; its loss, not waited for."""
        for group in self.optimizer.param_groups:
            group["lr"] = PEAK_RATE * min((self.done + 1) / self.job.warmup_steps, 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(*self.data[self.done % len(self.data)])
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)
        self.done += 1
        return loss.detach()

    def wait(self, loss: torch.Tensor) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return float(loss)

    def modes(self) -> list[str]:
        """The modes of torch.compile that come into question; none: eager."""
        if not self.best:
            return ["none"]
        if self.job.compile != "auto":
            return [self.job.compile]
        tuned = "max-autotune-no-cudagraphs"
        return ["default", tuned] if self.device.type == "cuda" else ["none", "default"]

    def first(self) -> dict[str, Any]:
        """Does the first step, or tries each mode of torch.compile and keeps the fastest."""
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.best
            torch.backends.cudnn.benchmark = self.best
        tried, modes, first_loss = {}, self.modes(), None
        for mode in modes:
            if mode != "none":
                self.loss = torch.compile(self.whole_loss, mode=mode)
            began = time.perf_counter()
            loss = self.wait(self.step())
            seconds, first_loss = time.perf_counter() - began, first_loss or loss
            began, steps = time.perf_counter(), 0
            while len(modes) > 1 and time.perf_counter() - began < TRIED:
                self.wait(self.step())
                steps += 1
            each = (time.perf_counter() - began) / max(steps, 1)
            tried[mode] = (each, seconds, self.loss)
        chosen = min(modes, key=lambda mode: tried[mode][0])
        _, seconds, self.loss = tried[chosen]
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        said = {"compile_seconds": round(seconds, 2), "first_loss": first_loss, "compile": chosen}
        if len(modes) > 1:
            said["compile_tried_ms"] = {mode: round(1000 * x[0], 2) for mode, x in tried.items()}
        return said

    def about(self) -> dict[str, Any]:
        """What it runs on and with."""
        gpu = self.device.type == "cuda"
        kind = torch.cuda.get_device_name() if gpu else "cpu"
        return {"device": kind, "torch": torch.__version__, "transformers": transformers_version}

    def peak_bytes(self) -> int | None:
        """The most memory of the GPU that it has held; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None
