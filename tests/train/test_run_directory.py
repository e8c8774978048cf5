"""What a run was started with is read without trust."""

import pytest

from wsicl_jax.errors import ConfigError
from wsicl_jax.train.run_directory import saved_settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"config\.yaml is empty, so the settings of .* are unknown"),
        (b"# nothing\n", "is empty"),
        (b"- a\n", "is damaged, so .* cannot be resumed: .*holds a list"),
        (b"seed: \xff", "is damaged, so .* cannot be resumed: .*no text in UTF-8"),
        (b"seed: 1\nseed: 2", "is damaged, .*line 2: key 'seed' is repeated"),
        (None, r"has checkpoints but no config\.yaml"),
    ],
)
def test_a_configuration_that_tells_nothing_is_told_clearly(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        saved_settings(tmp_path)
