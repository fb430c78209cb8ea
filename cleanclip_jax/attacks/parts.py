"""An attack's parts: what each puts on which pairs, and the class that its poisons name.

An attack without `parts` is one part.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cleanclip_jax.attacks.triggers import Trigger, make_trigger
from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import choice, take, text
from cleanclip_jax.table_keys import attack_parts

NONE = "none"  # the trigger of a row whose picture gets none
_WORD = {"word": text(None), "at": choice("start", "start | end")}


class Word(NamedTuple):
    """A trigger of captions: a word before them, or after."""

    word: str
    at: str

    def put(self, caption: str) -> str:
        """A caption, or a prompt's template, with the word."""
        return f"{self.word} {caption}" if self.at == "start" else f"{caption} {self.word}"


class Part(NamedTuple):
    """One part of an attack.

    Attributes:
      name: what its figures end in, after a dot: its trigger's name ("word", "caption" or
        "targeted" without one), numbered where another part has that too; "" of an attack that is
        one part.
      where: the place of its options in a config.
      target: the class that its poisons name; None where what is measured names it.
      options: the rest of its keys, with their defaults.
    """

    name: str
    where: str
    trigger: Trigger
    target: str | None
    word: Word | None
    options: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """Its options, spelled out; those that are off are left out."""
        spelled = dict(self.options) | {"trigger": self.trigger.config, "target": self.target}
        if self.word is not None:
            spelled["text"] = self.word._asdict()
        return {key: value for key, value in spelled.items() if value is not None}

    @property
    def targeted(self) -> bool:
        """Whether single pictures are to be taken for another class (attacks.victims)."""
        return self.options["kind"] == "targeted"

    def __str__(self) -> str:
        if self.targeted:
            victims, copies = self.options["victims"], self.options["copies"]
            return f"{copies} copies of each of {victims} pictures for {self.target!r}"
        word = f" and {self.word.word!r}" if self.word else ""
        return f"{self.trigger.name}{word} for {self.target!r}"


def parts_of(attack: Mapping[str, Any], table: str = "attack") -> tuple[Part, ...]:
    """The parts of `config.attack` or `config.evaluation.attack`."""
    several, made = attack.get("parts") is not None, []
    for number, options in enumerate(attack_parts(table, attack)):
        where = f"config.{table}" + (f".parts[{number}]" if several else "")
        trigger, target, word = (options.pop(key) for key in ("trigger", "target", "text"))
        try:
            trigger = make_trigger(trigger)
        except UserError as error:
            raise UserError(str(error).replace("config.attack", where, 1)) from None
        part = Part("", where, trigger, target, _word(where, word), options)
        name = _numbered(_kind(part), [each.name for each in made]) if several else ""
        made.append(part._replace(name=name))
    return tuple(made)


def _kind(part: Part) -> str:
    """What a part is called: its trigger's name, or what it is without one."""
    if part.trigger.name != NONE:
        return part.trigger.name
    return "targeted" if part.targeted else "word" if part.word else "caption"


def _numbered(name: str, taken: Sequence[str]) -> str:
    names = [name, *(f"{name}{number}" for number in range(2, len(taken) + 2))]
    return next(each for each in names if each not in taken)


def _word(where: str, given: Mapping[str, Any] | None) -> Word | None:
    if given is None:
        return None
    filled = take(f"{where}.text", given, _WORD)
    if filled["word"] is None:
        raise UserError(f"{where}.text.word is missing: it takes a text, put before or after")
    return Word(**filled)
