"""The one training loop: pretraining, poisoned pretraining and every finetuning defence.

What it keeps to: the stream of batches is a function of seed and step, and of the splits that
choose a stage's records, which are written down; a checkpoint is written only when the loss of the
step that made it is known to be finite, and stands at each stage's end; metrics are fetched after
the next step is dispatched, so that the device never waits for them.
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
    for stage in run.stages:  # one, where no split chooses the records
        with run.begin(stage, state) as begun:
            for done in range(max(run.first, stage.first) + 1, stage.last + 1):
                length, batch = next(begun.batches)
                with run.trace.step(done):
                    state, metrics = begun.step(done)(state, run.fixed, run.place(batch))
                waited = begun.stream.wait_seconds
                run.recorder.take(Done(done, metrics, waited, batch["index"], run.flops(length)))
                leaving = run.preemption.reached(done) and done < run.total
                if done % run.config.train.checkpoint_every == 0 or done == stage.last or leaving:
                    run.recorder.catch_up()
                    with run.recorder.paused():
                        run.save(done, state)
                if leaving:
                    raise run.preemption.stop(
                        f"saved step {done} of {run.total} in {run.workdir}; the same command goes "
                        "on from there"
                    )
    return state
