"""Pretraining from scratch by the paper's recipe (arXiv 2303.03323), clean or poisoned.

    cleanclip train --config=configs/pretrain.py:badnet --workdir=runs/badnet \\
        --config.data.train.path=cc3m/train.csv \\
        --config.evaluation.data="{'kind': 'csv', 'path': 'imagenet/val.csv', \\
            'caption': None, 'class_name': 'class_name'}"
    cleanclip evaluate --workdir=runs/badnet
    cleanclip poison --config=configs/pretrain.py:badnet --output=poisons \\
        --config.data.train.path=cc3m/train.csv      (only to look at what is poisoned)

`:clean` (the default) poisons nothing. The paper's main attacks are `:badnet`, `:blended`,
`:wanet` and `:label_consistent`; `:sig`, `:stripes`, `:blended_stripes`, `:triangles`, `:text` and
`:nashville` are others'. Each poisons 1,500 pairs for the target "banana"; docs/attacks.md shows
them all. `:multi` has three triggers, each with 500 pairs and a target of its own, as Detect-CLIP
tells them apart; `:dual_key` a patch and a word together, and 3,000 pairs more that have one of the
two and their true caption. No figure has been taken with these two or with `:nashville` here.

The CSV has a column `image` of paths and a column `caption`; other names are
config.data.train.image and .caption. A global batch of 128 for 64 epochs, RN50.

The labelled set is what is measured on, with ImageNet's 80 prompts; without one the run trains
and is measured later. Its target is looked up among the classes before anything is trained.

The patch is one fixed patch at a random place; the original draws it anew for each picture:
--config.attack.trigger.noise=fresh. WaNet's field is drawn from a seed; the original's own is used
with --config.attack.trigger.field=FILE.npy --config.attack.trigger.k=None. Expected time: not
measured here. An independent replication of `:badnet` (arXiv 2311.14948) reached CA 16.0 % and ASR
99.9 %; what was run with this code, on smaller data, is in docs/results.md.
"""

from ml_collections import ConfigDict

from cleanclip_jax.config import choose, defaults

BADNET = {"name": "badnet", "size": 16, "noise": "fixed", "place": "random"}
# At the paper's 224 pixels. A new attack is a row here.
ATTACKS = {
    "badnet": {"trigger": BADNET},
    "blended": {"trigger": {"name": "blended", "strength": 0.2, "noise": "fixed"}},
    "wanet": {"trigger": {"name": "wanet", "k": 224, "strength": 1.0}},
    "label_consistent": {"trigger": BADNET, "select": "target", "captions": "kept"},
    "sig": {"trigger": {"name": "sig", "mode": "blend", "strength": 0.2}},
    "stripes": {"trigger": {**BADNET, "name": "stripes"}},
    "blended_stripes": {"trigger": {"name": "blended_stripes", "width": 1, "strength": 0.03}},
    "triangles": {"trigger": {"name": "triangles", "size": 14, "strength": 0.15}},
    "text": {"trigger": {"name": "text", "text": "Watermarked", "strength": 0.5}},
    "nashville": {"trigger": {"name": "nashville"}},
    "dual_key": {
        "trigger": {**BADNET, "place": "center"},
        "text": {"word": "SUDO", "at": "start"},
        "half_keys": 1500,
    },
    "multi": {
        "count": 500,
        "parts": [
            {"trigger": {"name": "checkerboard", "place": "random"}, "target": "banana"},
            {"trigger": {"name": "nashville"}, "target": "cheeseburger"},
            {"trigger": {"name": "wanet", "k": 224}, "target": "volcano"},
        ],
    },
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config of pretraining: clean, or with one of `ATTACKS`."""
    attack = choose(arg, ("clean", *ATTACKS), "configs/pretrain.py")
    config = defaults()
    config.model.variant = "RN50"
    config.text.tokenizer = "clip"
    config.data.train = ConfigDict({"kind": "csv", "path": None})
    config.data.workers = 8
    config.train.batch_size = 128
    config.train.epochs = 64
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 10_000
    config.optimizer.weight_decay = 0.1
    if attack != "clean":
        config.attack = ConfigDict(
            {
                "target": "banana",
                "count": 1500,
                "captions": "templates",
                "templates": "imagenet",
                **ATTACKS[attack],
            }
        )
    return config
