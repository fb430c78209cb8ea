"""Where triggers, terms, sources, prompts, metrics and detectors of your own are registered.

    from cleanclip_jax.extend import detector, metric, prompts, source, term, trigger

in a file that `--import=FILE.py` names, or in a module of an installed package that is an entry
point of the group `cleanclip_jax`; then they are used by name in any config (docs/extend.md). Each
name is fetched when it is first used, so that a worker process loads no more than it needs.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cleanclip_jax.config import declare
from cleanclip_jax.config_keys import weight

if TYPE_CHECKING:
    from cleanclip_jax.attacks.triggers import trigger
    from cleanclip_jax.data.sources import source
    from cleanclip_jax.detect.detectors import detector
    from cleanclip_jax.measure.metrics import metric
    from cleanclip_jax.text.prompts import prompts

__all__ = ["detector", "metric", "prompts", "source", "term", "trigger"]

_PLACES = {
    "trigger": "cleanclip_jax.attacks.triggers",
    "source": "cleanclip_jax.data.sources",
    "prompts": "cleanclip_jax.text.prompts",
    "metric": "cleanclip_jax.measure.metrics",
    "detector": "cleanclip_jax.detect.detectors",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"cleanclip_jax.extend has no {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def term(
    name: str,
    needs: Iterable[str] = ("text",),
    meaning: str = "a term of one's own",
    **options: Any,
) -> Callable[[Callable], Callable]:
    """Decorates a loss, f(Context) → (scalar, memory): it is the term `name` of the objective.

    Its weight is config.objective.NAME, 0 where nothing is said.

    Args:
      needs: of view, start, label, ...: losses.terms.NEEDS.
      options: others of losses.terms.Term, as its `memory`.
    """

    def decorate(loss: Callable) -> Callable:
        terms = import_module("cleanclip_jax.losses.terms")
        terms.TERMS.add(name, terms.Term(loss, frozenset(needs), **options))
        declare(f"objective.{name}", weight(0.0, meaning))
        return loss

    return decorate
