"""How far a backdoor comes back: numbers of the courses that attack success takes.

Attack success after five poisons is of arXiv 2410.09838, as is the path between weights. For the
others no published definition was found; `rebound`, `area` and `wakes_at` are ours.
"""

from collections.abc import Mapping

import numpy as np

Course = Mapping[float, float]  # attack success, a share, by epoch or by place on the path


def rebound(course: Course) -> float:
    """The highest attack success of a course less that at its beginning; never below 0."""
    return max(course.values()) - course[min(course)]


def area(course: Course) -> float:
    """The mean of a course over its length, by trapezoids, whatever the spaces between its points.

    A course of one point is its value.
    """
    x = np.array(sorted(course), np.float64)
    y = np.array([course[at] for at in x.tolist()])
    if len(x) == 1:
        return float(y[0])
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def wakes_at(course: Course, share: float = 0.5) -> float | None:
    """The first point at which attack success is `share` of the course's last; None where never.

    On a path to the poisoned model the last is that model's. None too where it has no success.
    """
    last = course[max(course)]
    reached = (at for at in sorted(course) if last > 0 and course[at] >= share * last)
    return next(reached, None)


def reactivated(asr: float, no_trigger: float, floor: float | None) -> float:
    """What of a woken attack success is the backdoor's: above the larger of its two controls.

    Args:
      asr: with the trigger and a perturbation that was sought for it.
      no_trigger: the same without the trigger, the perturbation sought for that.
      floor: with the trigger on a never poisoned model, likewise; None: there is no such model.
    """
    return asr - max(no_trigger, no_trigger if floor is None else floor)
