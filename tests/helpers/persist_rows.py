"""Made figures of `cleanclip persist`: a backdoor that comes back, beside a model without one."""

from typing import Any


def row(protocol: str, model: str, **more: Any) -> dict[str, Any]:
    shares = {k: v for k, v in more.items() if k not in ("at", "rate", "seed")}
    at = {k: v for k, v in more.items() if k in ("at", "rate", "seed")}
    figures = {name: {"value": share} for name, share in shares.items()}
    return {"protocol": protocol, "model": model, **at, "figures": figures}


ROWS = [
    row("before", "cleaned", ca=0.5, asr=0.02),
    row("before", "poisoned", ca=0.5, asr=1.0),
    row("before", "floor", ca=0.6, asr=0.01),
]
for model, ca, shares in (("cleaned", 0.5, (0.02, 0.6, 1.0)), ("floor", 0.3, (0.01, 0.0, 1.0))):
    ROWS += [row("path", model, at=i / 2, ca=ca, asr=x) for i, x in enumerate(shares)]
for model, ca, shares in (("cleaned", 0.5, (0.1, 0.3)), ("floor", 0.6, (0.01, 0.02))):
    at = {"rate": 1e-3, "seed": 0, "ca": ca}
    ROWS += [row("rebound", model, at=i, asr=x, **at) for i, x in enumerate(shares, 1)]
for model, shown, shares in (
    ("cleaned", "trigger", (0.9, 0.8)),
    ("cleaned", "no trigger", (0.4, 0.4)),
    ("floor", "trigger", (0.5, 0.5)),
):
    at = {"at": shown, "before": 0.01}
    ROWS += [row("reactivation", model, seed=i, asr=x, **at) for i, x in enumerate(shares)]
ROWS += [row("presence", m, at="bec", bec=x) for m, x in (("cleaned", 0.25), ("floor", 0.0))]
