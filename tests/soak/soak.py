"""A real cluster under load and faults for as long as it is told to, and what held at its end.

usage: soak.py BIN_FOLDER [--minutes N] [--seed S] [--members N] [--etcd N]

Members share etcd; clients (chaos_worker) write and read blocks and look at every byte. One fault follows the
other, drawn from the seed: a member killed, frozen, restarted or drained, a client killed, etcd's leader killed,
all of etcd frozen. After each one all members have to agree again. Exit code 0: everything held; 77: no etcd.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../include"))
from cmpool_testing import eventually  # noqa: E402  pylint: disable=wrong-import-position

LEASE_S = 3
AGREED_WITHIN_S = 20  # of a fault's end: a lease for who has gone, a lease for etcd to come back, elections
PATIENCE_S = 20
SETTLED_AFTER_S = 3  # the clients' end: leases and lanes of theirs are gone
OVERRUN_US_MAX = 1_000_000  # of a client's deadline; what shares the machine takes part of it
DESCRIPTORS_MORE_MAX = 40
KIB_MORE_MAX = 48 * 1024  # of memory that is no block
CAPACITY = "96M"


def pause(seconds):
    threading.Event().wait(seconds)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def own_kib(pid):
    """Memory of a process that is neither a file nor shared: no block, no index."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Program:
    """A program whose end is seen, and whose words are kept."""

    def __init__(self, command, words, stdout=subprocess.DEVNULL):
        self.words = open(words, "ab")
        self.process = subprocess.Popen(command, stdout=stdout, stderr=self.words, text=True)

    @property
    def pid(self):
        return self.process.pid

    def runs(self):
        return self.process.poll() is None

    def signal(self, number):
        if self.runs():
            self.process.send_signal(number)

    def end(self, number):
        self.signal(signal.SIGCONT)
        self.signal(number)
        return self.process.wait(PATIENCE_S)


class Etcd:
    def __init__(self, folder, count):
        self.folder = folder
        self.ports = [(free_port(), free_port()) for _ in range(count)]
        self.nodes = [None] * count
        for at in range(count):
            self.start(at)
        if not eventually(lambda: self.leader() is not None):
            sys.exit("etcd has no leader")

    def start(self, at):
        port, peer_port = self.ports[at]
        cluster = ",".join(f"e{each}=http://127.0.0.1:{ports[1]}" for each, ports in enumerate(self.ports))
        self.nodes[at] = Program(
            ["etcd", "--name", f"e{at}", "--data-dir", f"{self.folder}/etcd-{at}",
             "--listen-client-urls", f"http://127.0.0.1:{port}", "--advertise-client-urls", f"http://127.0.0.1:{port}",
             "--listen-peer-urls", f"http://127.0.0.1:{peer_port}",
             "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer_port}", "--initial-cluster", cluster,
             "--logger", "zap", "--log-level", "error"], f"{self.folder}/etcd-{at}.log")

    def leader(self):
        for at, (port, _) in enumerate(self.ports):
            try:
                ask = urllib.request.Request(f"http://127.0.0.1:{port}/v3/maintenance/status", b"{}")
                status = json.load(urllib.request.urlopen(ask, timeout=1))
            except (OSError, ValueError):
                continue
            if status.get("leader") == status["header"]["member_id"]:
                return at
        return None

    def uri(self):
        return "etcd://" + ",".join(f"127.0.0.1:{port}" for port, _ in self.ports) + "/soak"


class Member:
    def __init__(self, soak, at):
        self.soak, self.name = soak, f"node-{at}"
        self.run_folder = f"{soak.shm}/{at}"
        self.address = "127.0.0.1:0"
        self.start()

    def start(self):
        soak = self.soak
        self.program = Program(
            [soak.tool("cmpoold"), "--capacity", CAPACITY, "--shards", "1", "--name", self.name, "--host", self.name,
             "--listen", self.address, "--runtime-dir", self.run_folder, "--data-dir", f"{soak.folder}/{self.name}",
             "--log-level", "warn", "--meta", soak.etcd.uri()],
            f"{soak.folder}/{self.name}.log", subprocess.PIPE)
        line = self.program.process.stdout.readline()
        if not line.startswith("ready cmpool://"):
            soak.fail(f"{self.name} did not start: {line!r}")
            return
        self.address = line.split("//")[1].strip()
        self.descriptors = self.kib = None

    def view(self):
        """State by name as it sees them; none where it does not answer."""
        seen = subprocess.run([self.soak.tool("cmpool-cli"), "node", "ls", "--json", "--deadline-ms", "1000", "--pool",
                               f"cmpool://{self.address}?transport=tcp"], capture_output=True, check=False)
        if seen.returncode != 0:
            return None
        return {each["name"]: each["state"] for each in json.loads(seen.stdout)["members"]}


class Client:
    """Reads and writes until it is killed, and counts."""

    def __init__(self, soak, role, uri, seed):
        self.soak, self.role, self.uri, self.seed = soak, role, uri, seed
        self.total = {}
        self.start()

    def start(self):
        self.counts = {}
        self.killed = False
        self.program = Program([self.soak.tool("chaos_worker"), self.uri, self.role, str(self.seed)],
                               f"{self.soak.folder}/client.log", subprocess.PIPE)
        threading.Thread(target=self.read, args=(self.program,), daemon=True).start()

    def read(self, program):
        for line in program.process.stdout:
            words = line.split()
            if words and words[0] == "calls":
                self.counts = dict(zip(words[::2], map(int, words[1::2])))
            else:
                self.soak.fail(f"{self.role} at {self.uri}: {line.strip()}")

    def end(self):
        self.killed = True
        self.program.end(signal.SIGKILL)
        for name, value in self.counts.items():
            both = (self.total.get(name, 0), value)
            self.total[name] = max(both) if name == "overrun_us" else sum(both)


class Soak:
    def __init__(self, options, folder, shm):
        self.bin, self.folder, self.shm = options.bin, folder, shm
        self.rng = random.Random(options.seed)
        self.broken, self.faults = [], {}
        self.slowest_agreement = 0.0
        self.etcd = Etcd(folder, options.etcd)
        self.members = [Member(self, at) for at in range(options.members)]
        if not eventually(self.agreed, AGREED_WITHIN_S):
            self.fail("the members did not find each other")
        self.begin = {member: (descriptors(member.program.pid), own_kib(member.program.pid))
                      for member in self.members}
        self.clients = [Client(self, role, self.uri(at, transport), options.seed * 100 + at)
                        for at, (role, transport) in enumerate((("writer", "tcp"), ("writer", "auto"), ("reader", "tcp"),
                                                                ("reader", "auto"), ("reader", "tcp")))]

    def tool(self, name):
        return os.path.join(self.bin, name)

    def uri(self, at, transport="tcp"):
        return f"cmpool://{self.members[at % len(self.members)].address}?transport={transport}"

    def fail(self, what):
        self.broken.append(what)
        print(f"  BROKEN {what}", flush=True)

    def agreed(self):
        every = {member.name: "serving" for member in self.members}
        return all(member.view() == every for member in self.members)

    # ---- faults; each is over when it returns ----

    def member_killed(self):
        member = self.rng.choice(self.members)
        member.program.end(signal.SIGKILL)
        pause(self.rng.uniform(0.2, LEASE_S + 2))
        member.start()

    def member_frozen(self):
        member = self.rng.choice(self.members)
        member.program.signal(signal.SIGSTOP)
        pause(self.rng.uniform(0.2, LEASE_S + 3))
        member.program.signal(signal.SIGCONT)

    def member_restarted(self):
        member = self.rng.choice(self.members)
        if (code := member.program.end(signal.SIGTERM)) != 0:
            self.fail(f"{member.name} ended with {code} when it was asked to")
        member.start()

    def member_drained(self):
        member, asked = self.rng.sample(self.members, 2)
        pool = ["--pool", f"cmpool://{asked.address}", "--json"]
        cli = self.tool("cmpool-cli")
        # How far it comes is not the point: it may be called back in the middle.
        limit = str(self.rng.randint(1, 6))
        subprocess.run([cli, "node", "drain", member.name, "--limit", limit, *pool], capture_output=True, check=False)
        serve = [cli, "node", "serve", member.name, *pool]
        if not eventually(lambda: subprocess.run(serve, capture_output=True, check=False).returncode == 0):
            self.fail(f"{member.name} could not be called back")

    def client_killed(self):
        client = self.rng.choice(self.clients)
        client.end()
        client.start()

    def etcd_leader_killed(self):
        at = self.etcd.leader()
        if at is None:
            return
        self.etcd.nodes[at].end(signal.SIGKILL)
        pause(self.rng.uniform(0.2, 5))
        self.etcd.start(at)

    def etcd_frozen(self):
        for node in self.etcd.nodes:
            node.signal(signal.SIGSTOP)
        pause(self.rng.uniform(0.5, 2 * LEASE_S))
        for node in self.etcd.nodes:
            node.signal(signal.SIGCONT)

    def go_on(self, seconds):
        until = time.monotonic() + seconds
        kinds = [self.member_killed, self.member_frozen, self.member_restarted, self.member_drained,
                 self.client_killed, self.etcd_leader_killed, self.etcd_frozen]
        while time.monotonic() < until:
            pause(self.rng.uniform(0.2, 3))
            fault = self.rng.choice(kinds)
            self.faults[fault.__name__] = self.faults.get(fault.__name__, 0) + 1
            fault()
            over = time.monotonic()
            if not eventually(self.agreed, AGREED_WITHIN_S):
                self.fail(f"{AGREED_WITHIN_S} s after {fault.__name__} the members see "
                          f"{[member.view() for member in self.members]}")
            self.slowest_agreement = max(self.slowest_agreement, time.monotonic() - over)
            for program, name in [(member.program, member.name) for member in self.members] + [
                    (client.program, client.role) for client in self.clients]:
                if not program.runs():
                    self.fail(f"{name} has ended with {program.process.returncode}, and nobody asked it to")
                    return

    def conclude(self):
        for client in self.clients:
            client.end()
        pause(SETTLED_AFTER_S)
        for member in self.members:
            if not member.program.runs():
                continue
            pid = member.program.pid
            count, kib = descriptors(pid), own_kib(pid)
            first_count, first_kib = self.begin[member]
            print(f"  {member.name}: descriptors {first_count} -> {count}, own memory {first_kib} -> {kib} KiB")
            if count > first_count + DESCRIPTORS_MORE_MAX:
                self.fail(f"{member.name} keeps {count} descriptors, {first_count} when it began")
            if kib > first_kib + KIB_MORE_MAX:
                self.fail(f"{member.name} keeps {kib} KiB of its own, {first_kib} when it began")
        for member in self.members:
            if member.program.runs() and (code := member.program.end(signal.SIGTERM)) != 0:
                self.fail(f"{member.name} ended with {code} when it was asked to")
        total = {}
        for client in self.clients:
            for name, value in client.total.items():
                total[name] = max(total.get(name, 0), value) if name == "overrun_us" else total.get(name, 0) + value
        print("  faults: " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())))
        print("  clients: " + ", ".join(f"{name} {value}" for name, value in total.items()))
        print(f"  slowest agreement after a fault: {self.slowest_agreement:.1f} s")
        if total.get("hits", 0) == 0 or total.get("stored", 0) == 0:
            self.fail("nothing was stored, or nothing was found")
        if total.get("overrun_us", 0) > OVERRUN_US_MAX:
            self.fail(f"a call took {total['overrun_us']} us longer than its deadline")
        for node in self.etcd.nodes:
            node.end(signal.SIGTERM)

    def end_all(self):
        programs = [each.program for each in self.members + self.clients] if hasattr(self, "clients") else []
        for program in programs + self.etcd.nodes:
            if program is not None and program.runs():
                program.end(signal.SIGKILL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--etcd", type=int, default=3)
    options = parser.parse_args()
    if shutil.which("etcd") is None:
        print("skipped: etcd is not installed (Debian: etcd-server)")
        return 77
    folder, shm = tempfile.mkdtemp(prefix="cmpool-soak-"), tempfile.mkdtemp(prefix="cmpool-soak-", dir="/dev/shm")
    print(f"soak: {options.members} members, {options.etcd} etcd, {options.minutes:g} minutes, seed {options.seed}",
          flush=True)
    soak = Soak(options, folder, shm)
    try:
        soak.go_on(options.minutes * 60)
        soak.conclude()
    finally:
        soak.end_all()
        shutil.rmtree(shm, ignore_errors=True)
    if soak.broken:
        print(f"soak: {len(soak.broken)} things broke with seed {options.seed}; logs are in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    print("soak: everything held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
