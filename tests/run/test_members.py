"""Several runs trained to their ends."""

from helpers.small_run import small_config

from cleanclip_jax.run.members import train_members


def test_one_run_that_fails_leaves_the_others_whole(tmp_path):
    whole, broken = small_config(), small_config()
    broken.start = str(tmp_path / "not there")
    failures = train_members({tmp_path / "broken": broken, tmp_path / "whole": whole})
    assert list(failures) == [tmp_path / "broken"]
    assert "not there" in str(failures[tmp_path / "broken"])
    assert (tmp_path / "whole" / "checkpoints" / "4").is_dir()
