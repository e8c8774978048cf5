from evaluate.conftest import four_at_once, model, store  # noqa: F401
