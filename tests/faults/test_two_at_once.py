"""Two processes that write to one place: a message of the one, a whole result of the other."""

import subprocess
import sys

import pytest
from faults.conftest import VERBS
from faults.test_full_disk import AGAIN, debris

from wsicl_jax.storage.lock import is_held

LOCKS = {
    "convert": ".store.1-of-1.lock",
    "train": "run/.lock",
    "sweep": ".sweep.1-of-1.lock",
    "import": ".imported.lock",
}
"""What the verbs hold that cannot share their work."""

_HOLDS = """
import sys
from pathlib import Path
from wsicl_jax.storage.lock import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("verb", LOCKS)
def test_a_verb_is_refused_in_one_line_while_another_process_works_there(place, wsicl, verb):
    lock = place.output / LOCKS[verb]
    command = [sys.executable, "-c", _HOLDS, str(lock)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        told = wsicl(verb, *VERBS[verb](place), *AGAIN.get(verb, []))
        assert told.code == 2, told.err
        (line,) = told.err.splitlines()
        assert f"in use by another process, number {other.pid} on " in line
        files = {path for path in place.output.rglob("*") if path.is_file()}
        assert files == {lock} and is_held(lock)
        other.kill()


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_of_two_at_once_one_succeeds_and_what_is_there_is_whole(place, wsicl, verb):
    command = [sys.executable, "-m", "wsicl_jax", verb, *VERBS[verb](place)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(process.communicate(timeout=240)[1], process.returncode) for process in both]
    assert 0 in [code for _, code in ended], ended
    for told, code in ended:
        assert "Traceback" not in told
        assert code in (0, 2)
        if code == 2:
            line = told.splitlines()[-1]
            assert "in use by another process" in line or "already" in line
    assert debris(place.output) == []
    if verb in ("convert", "train", "sweep", "predict"):
        assert wsicl(verb, *VERBS[verb](place), *AGAIN.get(verb, [])).code == 0
        return
    place_of = {"import": "imported", "export": "new/m.safetensors"}
    assert wsicl("info", str(place.output / place_of[verb])).code == 0
