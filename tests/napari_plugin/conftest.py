from inference.conftest import model  # noqa: F401
from serve.conftest import address, folder, network, start  # noqa: F401
