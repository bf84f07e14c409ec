"""Claims: exclusive, given back, and given back by the system when their process is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from loratory.sweep.claims import Claims


def test_one_claim_at_a_time_and_back_again(tmp_path: Path) -> None:
    one, other = Claims(tmp_path), Claims(tmp_path)
    assert one.place == other.place != Claims(tmp_path / "elsewhere").place
    assert one.claim(1)
    assert not one.claim(1)
    assert not other.claim(1)
    assert other.claim("control")
    one.release(1)
    assert other.claim(1)


@pytest.mark.kill
def test_a_killed_process_gives_its_claims_back(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from loratory.sweep.claims import Claims; "
        "claims = Claims(Path(sys.argv[1])); print(claims.claim(3), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert not Claims(tmp_path).claim(3)
        process.kill()
    assert Claims(tmp_path).claim(3)
