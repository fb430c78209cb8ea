"""The one training loop: pretraining, poisoned pretraining and every finetuning defence.

What it keeps to: the stream of batches is a function of (seed, step) alone; a checkpoint is
written only when the loss of the step that made it is known to be finite; metrics are fetched
after the next step is dispatched, so that the device never waits for them.
"""

from cleanclip_jax.run.build import Run
from cleanclip_jax.run.recorder import Done
from cleanclip_jax.run.state import State


def train(run: Run) -> State:
    """Trains a run from the step that it stands at to its last; returns its state then.

    Raises:
      StartAgain: SIGTERM or Ctrl-C has come: the step is saved, and the same run goes on from it.
    """
    state = run.state
    for done in range(run.first + 1, run.total + 1):
        length, batch = next(run.batches)
        with run.trace.step(done):
            state, metrics = run.step(done)(state, run.fixed, run.place(batch))
        waited = run.stream.wait_seconds
        run.recorder.take(Done(done, metrics, waited, batch["index"], run.flops(length)))
        leaving = run.preemption.reached(done) and done < run.total
        if done % run.config.train.checkpoint_every == 0 or done == run.total or leaving:
            run.recorder.catch_up()
            with run.recorder.paused():
                run.save(done, state)
        if leaving:
            raise run.preemption.stop(
                f"saved step {done} of {run.total} in {run.workdir}; the same command goes on from "
                "there"
            )
    return state
