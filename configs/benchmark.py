"""Suites of `cleanclip benchmark`: attacks x defences x detectors (docs/benchmark.md).

    cleanclip benchmark small --workdir=runs/benchmark      minutes, on digits
    cleanclip benchmark open --workdir=runs/open            days on two cores, in pieces
    cleanclip benchmark cc3m --workdir=runs/cc3m --plan     what it would cost; for a cluster

A suite is data: a set, model, attack, defence or detector of your own is a row more, in a file of
your own whose get_config begins with this one's.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import choose

# The most informative first.
MAIN_ATTACKS, MAIN_DEFENCES = (
    ("badnet", "blended", "wanet", "stripes"),
    ("mmcl", "cleanclip", "par"),
)


def _trigger(**options) -> dict:
    return {"keys": (f"attack.trigger={options}",)}


# At 32 pixels, as far as they are no file. Rates and targets are the set's.
PATCH = {"size": 5, "place": "fixed"}
ATTACKS = {
    "badnet": _trigger(name="badnet", **PATCH),
    "blended": _trigger(name="blended", strength=0.2),
    "wanet": _trigger(name="wanet", k=4, strength=6.0),  # at 1.0 a small model learns nothing
    "stripes": _trigger(name="stripes", **PATCH),
    "badnet_anywhere": _trigger(name="badnet", size=5, place="random"),
    "sig": _trigger(name="sig", mode="blend", strength=0.2),
    "blended_stripes": _trigger(name="blended_stripes", width=1, strength=0.05),
    "triangles": _trigger(name="triangles", size=4, strength=0.15),
    "text": _trigger(name="text", text="Watermarked", size=0.125, strength=0.5),
    "nashville": _trigger(name="nashville"),
    "yellow": _trigger(name="yellow", **PATCH),
    "label_consistent": {
        "keys": (
            f"attack.trigger={ {'name': 'badnet', **PATCH} }",
            "attack.select=target",
            "attack.captions=kept",
        )
    },
    "dual_key": {
        "keys": (
            f"attack.trigger={ {'name': 'badnet', **PATCH} }",
            "attack.text={'word': 'sudo', 'at': 'start'}",
            "attack.half_keys=100",
        ),
        "asr": "asr_both",
    },
}
PAR = (
    "views.first=light",
    "train.trainable=towers",
    "optimizer.schedule=two_phase",
    "optimizer.learning_rate=1e-4",
    "optimizer.last_rate=1e-9",
    "optimizer.warmup_steps=0.5",
    "optimizer.beta2=0.98",
    "optimizer.weight_decay=1e-4",
    "optimizer.decay_mask=matrices",
    "objective.perturb={'weight': 1.0, 'threshold': 2.15}",
)
# Strong views of all inputs, and a caption from a pool of a tenth of CC3M's per pair.
ROCLIP = ("views.first=strong", "objective.matched={'weight': 1.0, 'pool': 512, 'every': 2}")
SAFE = "safe={'warm_in_modal': 2, 'warm_cross': 1, 'warm_cross_rate': 1e-4, 'threshold': 0.9}"
SAFECLIP = (
    *("views.first=strong", "views.image=strong", "objective.cross_modal=0.0"),
    *("objective.nearest_in_modal=1.0", "objective.crossed=1.0", SAFE),
)
# Of the small runs: finetuned for 300 steps of 64 pairs at each of the rates.
DEFENCES = {
    "mmcl": {"config": "configs/{set}.py:mmcl", "rates": (1e-3, 2e-3, 3e-3)},
    "cleanclip": {"config": "configs/{set}.py:cleanclip", "rates": (1e-3, 2e-3, 3e-3)},
    "par": {
        "config": "configs/{set}.py:mmcl",
        "keys": PAR,
        "over": "optimizer.first_rate",
        "rates": (1e-3, 3e-3),
    },
    "shrink": {
        "config": "configs/{set}.py:cleanclip",
        "keys": ("start_change.shrink=0.95", "start_change.perturb=1e-4"),
        "rates": (1e-3, 2e-3),
    },
    "supervised": {"config": "configs/{set}.py:supervised", "rates": (1e-3, 3e-3)},
    "unlearn": {  # an oracle: the plan of the attack says who the suspects are
        "config": "configs/{set}.py:mmcl",
        "keys": (
            "attack={'manifest': '{start}/poison.parquet'}",
            "data.suspects={'manifest': '{start}/poison.parquet'}",
            "objective.cross_modal=0.0",
            "objective.others=1.0",
            "objective.unlearn={'weight': 1.0, 'target': 0.0}",
        ),
        "rates": (3e-4, 1e-3),
    },
    "roclip": {"keys": ROCLIP, "rates": (1e-3,)},  # no config: the poisoned run, trained so
    "safeclip": {"keys": SAFECLIP, "rates": (1e-3,)},
}
PAIRS = (
    "slof",
    "kdist",
    "dao",
    "iforest",
    "clip_low",
    "clip_high",
    "clip_rise",
    "safeclip",
    "loss",
)
DETECTORS = {
    # More neighbours than poisons among the references, which would hide each other.
    **{name: {"kind": "pairs", "options": {"k": 64}} for name in PAIRS},
    "bdetclip": {"kind": "pictures"},
    "decree": {"kind": "model", "options": {"steps": 1000, "pictures": 500}},
}
SMALL_DETECTORS = {name: DETECTORS[name] for name in ("slof", "clip_high", "bdetclip")}
# Gentle: a rate that leaves a whole backdoor where it is.
REBOUND = {
    "config": "configs/{set}.py:mmcl",
    "keys": ("train.steps=300", "optimizer.learning_rate=3e-4"),
}
CC3M = ("data.train.path=cc3m/train.csv",)
IMAGENET = (
    "{'kind': 'csv', 'path': 'imagenet/val.csv', 'caption': None, 'class_name': 'class_name'}"
)
PAPER_ATTACKS = ("badnet", "blended", "wanet", "label_consistent", "stripes", "sig", "triangles")


def _small() -> dict:
    return {
        "title": "small: handwritten digits",
        "sets": {"demo": {"config": "configs/demo.py"}},
        "models": {"ViT-32px/8-mini": ()},
        "attacks": {
            "badnet": {"keys": ("attack.trigger.size=6",)},
            "blended": ATTACKS["blended"],
        },
        "defences": {
            name: {"config": f"configs/{{set}}.py:{name}", "rates": (2e-3, 5e-3)}
            for name in ("mmcl", "cleanclip")
        },
        "detectors": SMALL_DETECTORS,
        "rebound": REBOUND,
        "seeds": (0,),
    }


def _open() -> dict:
    tiny = "data.train.path=tiny_imagenet50_train.parquet"
    several = ("train.checkpoint_every=200", "train.keep=4")  # for the detector of early losses
    return {
        "title": "open: small CLIPs at 32 pixels",
        "sets": {
            "fashion": {"config": "configs/fashion.py", "keys": several},
            "tiny_imagenet50": {
                "config": "configs/tiny_imagenet50.py",
                "keys": (tiny, "evaluation.data.path=tiny_imagenet50_val.parquet", *several),
                "clean": (tiny, "train.steps=1000"),
                "pairs": (25_000, 25_000),
            },
        },
        "models": {"ViT-32px/8": ()},
        "attacks": ATTACKS,
        "defences": DEFENCES,
        "detectors": DETECTORS,
        "rebound": REBOUND,
        "seeds": (0, 1, 2),
        "first": [
            f"set=fashion,seed={seed},"
            + ",".join(f"attack={name}" for name in ("never poisoned", *MAIN_ATTACKS))
            + "".join(f",{place}" for place in places)
            for seed in (0, 1, 2)
            for places in (
                ("kind=poisoned",),
                tuple(f"defence={name}" for name in MAIN_DEFENCES),
                ("kind=detector",),
            )
        ],
    }


def _cc3m() -> dict:
    from pretrain import ATTACKS as FULL

    recipe = {"rates": (1e-6, 3e-6, 1e-5, 3e-5)}
    return {
        "title": "cc3m: the field's setting, 500,000 to 3 million pairs at 224 pixels",
        "sets": {
            "cc3m": {
                "config": "configs/pretrain.py",
                "keys": (*CC3M, f"evaluation.data={IMAGENET}"),
                "clean": ("data.train.path=clean/train.csv",),
                "pairs": (3_000_000, 100_000),
            }
        },
        "models": {"RN50": ("model.variant=RN50",), "ViT-B/32": ("model.variant=ViT-B/32",)},
        "attacks": {
            name: {"keys": (f"attack={ {'count': 1500, 'target': 'banana', **FULL[name]} }",)}
            for name in PAPER_ATTACKS
        },
        "defences": {
            "mmcl": {"config": "configs/cleanclip.py:mmcl", **recipe},
            "cleanclip": {"config": "configs/cleanclip.py", **recipe},
            "par": {
                "config": "configs/par.py",
                "over": "optimizer.first_rate",
                "rates": (1e-5, 3e-5, 1e-4),
            },
            "shrink": {"config": "configs/cleanclip.py:shrink", "rates": (3e-5, 1e-4)},
        },
        "detectors": {
            **{name: {"kind": "pairs"} for name in ("slof", "dao", "clip_high", "clip_rise")},
            "bdetclip": {"kind": "pictures"},
            "decree": {"kind": "model", "options": {"steps": 2000}},
        },
        "rebound": {"config": "configs/cleanclip.py:mmcl", "keys": ("train.steps=300",)},
        "seeds": (0, 1, 2),
        "first": [f"attack={attack},seed=0" for attack in ("never poisoned", *PAPER_ATTACKS[:3])],
    }


SUITES = {"small": _small, "open": _open, "cc3m": _cc3m}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns a suite: small, open or cc3m."""
    return ConfigDict(SUITES[choose(arg, SUITES, "configs/benchmark.py")]())
