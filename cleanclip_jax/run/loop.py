"""The one training loop: pretraining, poisoned pretraining and every finetuning defence.

What it keeps to: the stream of batches is a function of (seed, step) alone; a checkpoint is
written only when the loss of the step that made it is known to be finite; metrics are fetched
after the next step is dispatched, so that the device never waits for them.
"""

from cleanclip_jax.errors import StartAgain
from cleanclip_jax.run.build import Run
from cleanclip_jax.run.recorder import Done
from cleanclip_jax.run.state import State


def train(run: Run) -> State:
    """Trains a run from the step that it stands at to its last; returns its state then.

    Raises:
      StartAgain: SIGTERM has come: the step is saved, and the same run goes on from it.
    """
    state, late = run.state, None
    for done in range(run.first + 1, run.total + 1):
        length, batch = next(run.batches)
        with run.trace.step(done):
            state, metrics = run.step(state, run.fixed, run.place(batch))
        if late is not None:
            run.recorder.record(late)
        waited = run.stream.wait_seconds
        late = Done(done, metrics, waited, batch["index"], run.flops(length))
        leaving = run.preemption.reached(done) and done < run.total
        if done % run.config.train.checkpoint_every == 0 or done == run.total or leaving:
            run.recorder.record(late)
            late = None
            with run.recorder.paused():
                run.save(done, state)
        if leaving:
            raise StartAgain(
                f"SIGTERM: saved step {done} of {run.total} in {run.workdir}; the same command "
                "goes on from there",
                together=True,
            )
    return state
