"""The list of a config's keys, for --help and docs/config.md."""

from cleanclip_jax.config_keys import KEYS
from cleanclip_jax.keys import REQUIRED


def listing() -> str:
    """Every key with its default, what it takes and means: a line each."""
    lines = []
    for name, key in KEYS.items():
        default = "" if key.default is REQUIRED else f"={key.default}"
        lines.append(f"  --config.{name}{default}\n      {key.meaning} ({key.takes})")
    return "\n".join(lines)


def document() -> str:
    """docs/config.md."""
    lines = [
        "# Keys of a config",
        "",
        "Made by `python -m cleanclip_jax.key_list > docs/config.md`; `cleanclip train --help` "
        "lists them as well.",
        "A key is set by `--config.KEY=VALUE`. None, where it is the default, means: as the start "
        "run's, or not used.",
    ]
    section = None
    for name, key in KEYS.items():
        head = name.split(".")[0]
        if (section != head and "." in name) or section is None:
            section = head
            lines += ["", "| key | default | takes | meaning |", "|---|---|---|---|"]
        default = "required" if key.default is REQUIRED else f"`{key.default}`"
        takes = key.takes.replace(" | ", ", ")
        lines.append(f"| `{name}` | {default} | {takes} | {key.meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
