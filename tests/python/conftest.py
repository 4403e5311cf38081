"""A real cmpoold for each test that asks for one."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

import cmpool

SECONDS = 20


class Daemon:
    def __init__(self, folder):
        self.runtime = tempfile.mkdtemp(prefix="cmpool-test-", dir="/dev/shm")
        self.process = subprocess.Popen(
            [os.environ["CMPOOL_DAEMON"], "--listen", "127.0.0.1:0", "--capacity", "64M", "--log-level", "warn"]
            + ["--data-dir", str(folder / "data"), "--runtime-dir", f"{self.runtime}/run"],
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line.startswith("ready cmpool://"), line
        self.address = line.split()[1]

    def uri(self, transport="shm", deadline_ms=20_000):
        return f"{self.address}?deadline_ms={deadline_ms}&transport={transport}"

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        self.thaw()
        self.process.terminate()
        try:
            assert self.process.wait(SECONDS) == 0
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            shutil.rmtree(self.runtime, ignore_errors=True)


@pytest.fixture
def daemon(tmp_path: Path):
    one = Daemon(tmp_path)
    yield one
    one.end()


@pytest.fixture(params=["shm", "tcp"])
def pool(daemon, request):
    with cmpool.Pool(daemon.uri(request.param), model="test", dtype="u8", block_tokens=4) as opened:
        assert opened.status()["transport"] == request.param
        yield opened
