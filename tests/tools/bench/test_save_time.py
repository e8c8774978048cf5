from wsicl_jax.config import config_from_dict
from wsicl_jax.storage.object_path import names_below, place_of
from wsicl_jax.tools.bench.save_time import bench_save


def test_the_time_of_a_checkpoint_is_measured_and_nothing_remains(s3):
    config = config_from_dict({"model": {"channels": [2, 4]}})
    place = place_of(s3)
    (place / "other").write_bytes(b"")
    numbers = bench_save(config, place, repeats=1, show=lambda table: None)
    assert 0 < numbers["waiting_seconds"] <= numbers["saving_seconds"]
    assert numbers["bytes"] > 1000 and numbers["files"] > 3 and numbers["verifying_seconds"] > 0
    assert names_below(place) == ["other"]
