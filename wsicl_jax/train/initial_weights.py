"""Initial weights of a run, from another network."""

from flax import nnx

from wsicl_jax.config import ExperimentConfig
from wsicl_jax.distributed.broadcast import broadcast_from_leader
from wsicl_jax.errors import ConfigError
from wsicl_jax.weights.networks import StoredNetwork, find_network


def find_weights(config: ExperimentConfig) -> StoredNetwork | None:
    """The network that `train.initial_weights` names; None if it is empty.

    Raises:
        CheckpointError: the network is missing or damaged.
        ConfigError: its channels differ from `model.channels`.
    """
    if not config.train.initial_weights:
        return None
    stored = find_network(config.train.initial_weights)
    channels = stored.experiment.model.channels
    if channels != config.model.channels:
        raise ConfigError(
            f"train.initial_weights = {config.train.initial_weights} has channels "
            f"{list(channels)}, but model.channels is {list(config.model.channels)}; "
            "make them equal"
        )
    return stored


def initial_parameters(config: ExperimentConfig) -> nnx.State | None:
    """The parameters of `train.initial_weights`; None if it is empty.

    Collective: all processes of a run call it.

    Raises:
        CheckpointError, ConfigError: as `find_weights`; or this process reads another network
            than process 0.
    """
    if (stored := find_weights(config)) is None:
        return None
    if broadcast_from_leader(lambda: stored.digest) != stored.digest:
        raise ConfigError(
            f"train.initial_weights = {config.train.initial_weights} is another network here than "
            "on process 0; give all hosts the same"
        )
    return nnx.state(stored.load(), nnx.Param)
