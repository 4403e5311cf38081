"""cmpool-serve as its users meet it: over HTTP, in several processes, some of which are killed.

usage: serve.py BIN_FOLDER [unittest arguments]

CMPOOL_SERVE_SECONDS is how long the crowd of clients goes on; default 3.
"""

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import xml.dom.minidom

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../include"))
from cmpool_testing import eventually  # noqa: E402  pylint: disable=wrong-import-position

BIN = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else "."
MODEL = "synthetic:300K"
BLOCK_TOKENS = 16
PATIENCE_S = 60
CROWD_S = float(os.environ.get("CMPOOL_SERVE_SECONDS", "3"))


def has_ended(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Program:
    """A program of ours that says `ready ADDRESS`."""

    def __init__(self, *arguments):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen([os.path.join(BIN, arguments[0]), *arguments[1:]], stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("ready "):
            self.process.kill()
            self.process.wait()
            self.errors.seek(0)
            raise AssertionError(f"{arguments[:2]} said {line!r} and {self.errors.read().decode()!r}")
        self.address = line.split()[1].removeprefix("http://")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.kill()
            self.process.stdout.close()
            self.errors.close()


class Pool(Program):
    def __init__(self, address="127.0.0.1:0", folder=None):
        self.folder = folder or tempfile.mkdtemp(dir="/dev/shm", prefix="cmpool-test-")
        os.chmod(self.folder, 0o711)
        super().__init__("cmpoold", "--listen", address, "--capacity", "64M", "--log-level", "warn", "--data-dir",
                         self.folder + "/data", "--runtime-dir", self.folder + "/run")
        self.address = self.address.removeprefix("cmpool://")

    def uri(self, transport):
        return f"cmpool://{self.address}?transport={transport}&deadline_ms=1000"

    def statistics(self):
        out = subprocess.run([BIN + "/cmpool-cli", "stats", "--json", "--pool", "cmpool://" + self.address],
                             check=True, capture_output=True, text=True).stdout
        return json.loads(out)

    def stop(self):
        try:
            return super().stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


class Front(Program):
    """Whoever speaks HTTP."""

    def connect(self):
        return http.client.HTTPConnection(self.address, timeout=PATIENCE_S)

    def ask(self, method, path, body=None):
        connection = self.connect()
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def complete(self, prompt, tokens=12, **fields):
        body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, **fields}
        status, answer = self.ask("POST", "/v1/completions", json.dumps(body))
        return status, json.loads(answer)

    def text(self, prompt, tokens=12):
        status, answer = self.complete(prompt, tokens)
        assert status == 200, answer
        return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    def metrics(self):
        """By name, or by (name, role)."""
        out = {}
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.startswith("#"):
                continue
            name, value = line.rsplit(" ", 1)
            role = re.search(r'role="(\w+)"', name)
            plain = name.split("{")[0].removeprefix("cmpool_serve_")
            out[(plain.removeprefix("worker_"), role[1]) if role else plain] = float(value)
        return out


class Server(Front):
    """All roles, as children of one process."""

    def __init__(self, pool="none", *flags):
        super().__init__("cmpool-serve", "all", "--model", MODEL, "--pool", pool, "--block-tokens", str(BLOCK_TOKENS),
                         "--kv-memory", "32M", "--listen", "127.0.0.1:0", *flags)

    def child(self, role):
        """The process number of the worker in that role."""
        listed = subprocess.run(["ps", "--ppid", str(self.process.pid), "-o", "pid=,args="], capture_output=True,
                                text=True, check=True).stdout
        for line in listed.splitlines():
            pid, arguments = line.split(None, 1)
            if arguments.startswith("cmpool-serve " + role + " "):
                return int(pid)
        return None

    def kill_child(self, role):
        pid = self.child(role)
        os.kill(pid, signal.SIGKILL)
        return pid

    def at_rest(self):
        """Every page of both workers is free, and nothing runs."""
        now = self.metrics()
        return all(now.get(("pages", role)) == now.get(("pages_free", role), -1) and
                   now[("sequences_running", role)] == 0 and now[("sequences_waiting", role)] == 0
                   for role in ("prefill", "decode")) and now["requests_running"] == 0


class SlowWire:
    """A connection to somebody that lets so many bytes a second through."""

    def __init__(self, address, bytes_per_s):
        self.target = (address.split(":")[0], int(address.split(":")[1]))
        self.bytes_per_s = bytes_per_s
        self.ended = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near = self.listener.accept()[0]
                far = socket.create_connection(self.target)
                for one, other, slow in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self.pump, args=(one, other, slow), daemon=True).start()

    def pump(self, one, other, slow):
        with contextlib.suppress(OSError), one, other:
            while data := one.recv(4096):
                other.sendall(data)
                if slow and self.ended.wait(len(data) / self.bytes_per_s):
                    return
            other.shutdown(socket.SHUT_WR)

    def close(self):
        self.ended.set()
        self.listener.close()


def prompt_of(number, length=200):
    chance = random.Random(number)
    return "".join(chance.choice("abcdefghij klmnop qrstuv wxyz.") for _ in range(length))


def generate(prompt, tokens=12):
    out = subprocess.run([BIN + "/cmpool-serve", "generate", "--model", MODEL, "--prompt", prompt, "--max-tokens",
                          str(tokens), "--block-tokens", str(BLOCK_TOKENS), "--json"], check=True,
                         capture_output=True, text=True).stdout
    return json.loads(out)["text"].removeprefix(prompt)


class SameText(unittest.TestCase):
    """One process without a pool is the reference."""

    def test_cold_warm_and_full_over_both_transports(self):
        prompts = [prompt_of(n) for n in range(3)]
        expected = [generate(prompt) for prompt in prompts]
        pool = Pool()
        self.addCleanup(pool.stop)
        for transport in ("shm", "tcp"):
            server = Server(pool.uri(transport), "--handoff", transport)
            try:
                for _ in range(3):
                    self.assertEqual([server.text(prompt)[0] for prompt in prompts], expected)
                # What one asks for the third time has been stored.
                reused = eventually(lambda: server.text(prompts[0])[1] > 0)
                self.assertTrue(reused, transport)
                # More than the pool can hold: some blocks are gone, no text is other than it was.
                for n in range(100, 110):
                    server.text(prompt_of(n, 2000), 1)
                self.assertEqual([server.text(prompt)[0] for prompt in prompts], expected)
                self.assertTrue(eventually(server.at_rest), server.metrics())
            finally:
                self.assertEqual(server.stop(), 0)

    def test_another_instance_reuses_what_one_stored(self):
        pool = Pool()
        self.addCleanup(pool.stop)
        prompt = prompt_of(7, 1500)
        first = Server(pool.uri("shm"))
        self.addCleanup(first.stop)
        expected = first.text(prompt)[0]
        stored = eventually(lambda: pool.statistics()["put_stored"] >= len(prompt) // BLOCK_TOKENS)
        self.assertTrue(stored, pool.statistics())
        second = Server(pool.uri("shm"))
        self.addCleanup(second.stop)
        reused = eventually(lambda: second.metrics().get(("reused_tokens_total", "prefill"), 0) > 0
                            if second.text(prompt)[0] == expected else self.fail("another text"))
        self.assertTrue(reused)

    def test_a_stop_text_ends_it_and_is_not_shown(self):
        server = Server()
        self.addCleanup(server.stop)
        whole = server.text(prompt_of(1), 40)[0]
        stop = re.search(r"(?<=\W)[a-zA-Z0-9%_]", whole[3:])[0]  # bytes that are no text are shown as such
        status, answer = server.complete(prompt_of(1), 40, stop=[stop])
        self.assertEqual(status, 200)
        self.assertEqual(answer["choices"][0]["text"], whole[:whole.index(stop)])
        self.assertEqual(answer["choices"][0]["finish_reason"], "stop")
        self.assertTrue(eventually(server.at_rest), server.metrics())


class Deaths(unittest.TestCase):
    def setUp(self):
        self.pool = Pool()
        self.addCleanup(lambda: self.pool.stop())
        self.server = Server(self.pool.uri("shm"))
        self.addCleanup(self.server.stop)

    def ask_beside(self, prompts, tokens):
        """Asks all at once; the answers come by position."""
        answers = [None] * len(prompts)

        def ask(at):
            answers[at] = self.server.complete(prompts[at], tokens)

        threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(prompts))]
        for thread in threads:
            thread.start()
        return threads, answers

    def check(self, kill):
        prompts = [prompt_of(n, 1500) for n in range(6)]
        expected = [self.server.text(prompt, 60)[0] for prompt in prompts]
        threads, answers = self.ask_beside(prompts, 60)
        self.assertTrue(eventually(lambda: self.server.metrics()["requests_running"] > 0 or
                                   not any(t.is_alive() for t in threads)))
        kill()
        for thread in threads:
            thread.join(PATIENCE_S)
        for answer, text in zip(answers, expected):
            self.assertIsNotNone(answer)
            # Greedy decoding goes on elsewhere; whoever gets an error was told so, and never another text.
            self.assertIn(answer[0], (200, 503))
            if answer[0] == 200 and "choices" in answer[1]:
                self.assertEqual(answer[1]["choices"][0]["text"], text)
        self.assertTrue(eventually(lambda: self.server.complete(prompts[0], 60)[0] == 200))
        self.assertEqual(self.server.text(prompts[0], 60)[0], expected[0])
        self.assertTrue(eventually(self.server.at_rest), self.server.metrics())
        return answers

    def test_prefill_is_killed(self):
        answers = self.check(lambda: self.server.kill_child("prefill"))
        self.assertEqual([answer[0] for answer in answers], [200] * len(answers))

    def test_decode_is_killed(self):
        answers = self.check(lambda: self.server.kill_child("decode"))
        self.assertEqual([answer[0] for answer in answers], [200] * len(answers))

    def test_the_pool_is_killed(self):
        answers = self.check(self.pool.kill)
        self.assertEqual([answer[0] for answer in answers], [200] * len(answers))

    # Its writes may still come: the pages wait for them, and others are used meanwhile.
    def test_pages_of_a_frozen_prefill_worker_are_parked_until_it_has_ended(self):
        pid = self.server.child("prefill")
        os.kill(pid, signal.SIGSTOP)
        connection = self.server.connect()
        connection.request("POST", "/v1/completions", json.dumps({"prompt": prompt_of(1), "stream": True}))
        held = eventually(lambda: (lambda now: now[("pages", "decode")] - now[("pages_free", "decode")])(
            self.server.metrics()))
        self.assertGreater(held, 0)
        connection.close()
        os.kill(pid, signal.SIGKILL)
        self.assertTrue(eventually(lambda: self.server.child("prefill") not in (None, pid)))
        self.assertTrue(eventually(self.server.at_rest), self.server.metrics())
        self.assertEqual(self.server.complete(prompt_of(1))[0], 200)

    def test_nobody_outlives_a_server_that_is_killed(self):
        children = [self.server.child(role) for role in ("router", "prefill", "decode")]
        with open(f"/proc/{self.server.child('prefill')}/cmdline", encoding="utf-8") as file:
            folder = re.search(r"/dev/shm/cmpool-serve\.\w+", file.read())[0]
        self.server.kill()
        for pid in children:
            self.assertTrue(eventually(lambda: has_ended(pid)))
        # Nor does its folder, once the next one comes.
        self.assertTrue(os.path.isdir(folder))
        self.assertEqual(Server().stop(), 0)
        self.assertFalse(os.path.exists(folder))


class SeveralWorkers(unittest.TestCase):
    """Any request may go to any instance, and no instance is needed."""

    def start(self, role, *flags):
        worker = Program("cmpool-serve", role, "--model", MODEL, "--block-tokens", str(BLOCK_TOKENS), "--kv-memory",
                         "32M", *flags)
        self.addCleanup(worker.stop)
        return worker

    def test_requests_spread_and_go_on_when_workers_die(self):
        prefills = [self.start("prefill") for _ in range(2)]
        to_prefills = [flag for worker in prefills for flag in ("--prefill", worker.address)]
        decodes = [self.start("decode", "--handoff", how, *to_prefills) for how in ("shm", "tcp")]
        front = Front("cmpool-serve", "router", "--model", MODEL, *to_prefills,
                      *[flag for worker in decodes for flag in ("--decode", worker.address)])
        self.addCleanup(front.stop)
        prompts = [prompt_of(n, 600) for n in range(12)]
        expected = [generate(prompt, 20) for prompt in prompts]

        def ask_all():
            answers = [None] * len(prompts)

            def ask(at):
                answers[at] = front.complete(prompts[at], 20)

            threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(prompts))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual([status for status, _ in answers], [200] * len(prompts), answers)
            self.assertEqual([answer["choices"][0]["text"] for _, answer in answers], expected)

        def steps():
            lines = front.ask("GET", "/metrics")[1].decode().splitlines()
            found = (re.match(r'cmpool_serve_worker_steps_total\{.*address="(.*)"\} (\d+)', line) for line in lines)
            return {match[1]: int(match[2]) for match in found if match}

        self.assertTrue(eventually(lambda: len(steps()) == 4), steps())
        # Until both decode workers have both prefill workers.
        both = re.compile(rb"worker_prefill_workers\{.*\} 2\n")
        self.assertTrue(eventually(lambda: len(both.findall(front.ask("GET", "/metrics")[1])) == 2))
        for _ in range(2):
            ask_all()
        self.assertTrue(all(count > 0 for count in steps().values()), steps())
        prefills[0].kill()
        decodes[0].kill()
        for _ in range(2):
            ask_all()


class SlowPool(unittest.TestCase):
    """A pool that is slower than computing costs no more than having none."""

    def test_a_hit_that_would_take_seconds_to_load_is_computed_instead(self):
        pool = Pool()
        self.addCleanup(pool.stop)
        prompts = [prompt_of(n, 4000) for n in range(6)]
        filler = Server(pool.uri("shm"))
        expected = [filler.text(prompt, 1)[0] for prompt in prompts]
        blocks = sum((len(prompt) + 1) // BLOCK_TOKENS for prompt in prompts)
        self.assertTrue(eventually(lambda: pool.statistics()["blocks"] >= blocks), pool.statistics())
        filler.stop()
        wire = SlowWire(pool.address, 1 << 20)  # these hits are some 6 MB each
        self.addCleanup(wire.close)
        took = {}
        for uri in ("none", f"cmpool://{wire.address}?transport=tcp"):
            server = Server(uri)
            self.addCleanup(server.stop)
            server.text("begin", 1)
            took[uri[:4]] = []
            for prompt, text in zip(prompts, expected):
                begun = time.monotonic()
                self.assertEqual(server.text(prompt, 1)[0], text)
                took[uri[:4]].append(time.monotonic() - begun)
        alone, slow = statistics.median(took["none"]), statistics.median(took["cmpo"])
        print(f"slow pool: {slow * 1e3:.0f} ms, none: {alone * 1e3:.0f} ms", file=sys.stderr)
        self.assertLess(slow, 1.5 * alone + 0.1, took)


class Crowd(unittest.TestCase):
    CLIENTS = 16

    def test_clients_that_leave_at_any_moment_leave_nothing_behind(self):
        pool = Pool()
        self.addCleanup(pool.stop)
        server = Server(pool.uri("shm"))
        self.addCleanup(server.stop)
        prompts = [prompt_of(n % 3, 100) + prompt_of(n, 50 * n) for n in range(1, 9)]
        expected = [server.text(prompt, 40)[0] for prompt in prompts]
        until = time.monotonic() + CROWD_S
        wrong, whole, cancelled = [], [0], [0]

        def client(seed):
            chance = random.Random(seed)
            listen = self.listen_by_curl if seed % 2 == 1 and shutil.which("curl") else self.listen
            while time.monotonic() < until and not wrong:
                at = chance.randrange(len(prompts))
                leave_after = chance.choice([None, 0, 1, 5, 20])
                try:
                    text, ended = listen(server, prompts[at], leave_after)
                except (OSError, http.client.HTTPException) as error:
                    wrong.append(repr(error))
                    return
                if ended and text != expected[at]:
                    wrong.append((prompts[at], text, expected[at]))
                (whole if ended else cancelled)[0] += 1

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(self.CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertGreater(whole[0], 0)
        self.assertGreater(cancelled[0], 0)
        self.assertTrue(eventually(server.at_rest), server.metrics())
        self.assertTrue(eventually(lambda: pool.statistics()["leases"] == 0), pool.statistics())
        print(f"crowd: {whole[0]} whole answers, {cancelled[0]} cancelled", file=sys.stderr)

    @staticmethod
    def listen(server, prompt, leave_after):
        connection = server.connect()
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions",
                               json.dumps({"prompt": prompt, "max_tokens": 40, "stream": True}))
            if leave_after == 0:
                return "", False
            answer = connection.getresponse()
            if answer.status != 200:
                raise http.client.HTTPException(answer.read())
            return Crowd.read(iter(answer.readline, b""), leave_after)

    @staticmethod
    def listen_by_curl(server, prompt, leave_after):
        body = json.dumps({"prompt": prompt, "max_tokens": 40, "stream": True})
        curl = subprocess.Popen(["curl", "--silent", "--show-error", "--fail-with-body", "--no-buffer", "--max-time",
                                 str(PATIENCE_S), "--data", "@-", f"http://{server.address}/v1/completions"],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with curl:
            try:
                curl.stdin.write(body.encode())
                curl.stdin.close()
                return ("", False) if leave_after == 0 else Crowd.read(curl.stdout, leave_after)
            finally:
                curl.kill()

    @staticmethod
    def read(lines, leave_after):
        """What was said, and whether it was all; after so many events nobody listens any more."""
        text, events = "", 0
        for line in lines:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                return text, True
            text += json.loads(line[6:])["choices"][0]["text"]
            events += 1
            if events == leave_after:
                return text, False
        raise http.client.HTTPException("the stream ended early")


class Experiment(unittest.TestCase):
    def rows(self, verb, *flags, draws=True):
        with tempfile.TemporaryDirectory() as folder:
            picture = ["--svg", folder + "/picture.svg"] if draws else []
            out = subprocess.run([BIN + "/cmpool-serve", "experiment", verb, "--model", MODEL, "--prompt-tokens",
                                  "512", "--rounds", "1", "--json", *flags, *picture],
                                 check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout
            if draws:
                self.assertEqual(xml.dom.minidom.parse(picture[1]).documentElement.tagName, "svg")
            return [json.loads(line) for line in out.splitlines()]

    def test_each_rate_and_path_has_its_row_and_its_place_in_the_picture(self):
        rows = {(row["reuse"], row["path"]): row for row in self.rows("reuse", "--prompts", "1")}
        self.assertEqual(set(rows), {(rate, path) for rate in (0, 0.125, 0.25, 0.5, 0.75, 0.9)
                                     for path in ("none", "shm", "tcp", "oracle")})
        # How much faster is the machine's business; that the oracle is, by far, is not.
        self.assertGreater(rows[0.9, "oracle"]["prefill_tokens_per_s"],
                           2 * rows[0.9, "none"]["prefill_tokens_per_s"])

    def test_a_slow_way_to_the_pool_makes_loading_slow_and_meeting_little_slower_than_computing(self):
        rows = self.rows("bandwidth")
        rates = [row["bytes_per_s"] for row in rows]
        self.assertEqual((len(rows), rates[0], rates[-1]), (8, 0, None))
        self.assertEqual(sorted(rates[:-1]), rates[:-1])
        slow, fast = rows[2], rows[-1]
        self.assertGreater(slow["load_ms"], 2 * fast["load_ms"])
        self.assertLess(slow["meeting_ms"], slow["load_ms"])

    def test_cold_prompts_and_hand_offs_are_measured_by_path(self):
        self.assertEqual([row["path"] for row in self.rows("cold", draws=False)], ["none", "shm", "tcp"])
        rows = self.rows("handoff", draws=False)
        self.assertEqual([row["path"] for row in rows], ["shm", "tcp"])
        for row in rows:
            self.assertEqual(row["tokens"], 512)
            self.assertGreater(row["bytes"], 0)
            self.assertGreater(row["handoff_ms"], 0)


class BadInput(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def check(self, status, body, says):
        got, answer = self.server.ask("POST", "/v1/completions", body if isinstance(body, bytes) else json.dumps(body))
        self.assertEqual(got, status, answer)
        error = json.loads(answer)["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertRegex(error["message"], says)
        self.assertEqual(self.server.complete("Still here?")[0], 200)

    def test_what_cannot_be_is_refused_and_the_server_lives(self):
        self.check(400, b"{", "JSON")
        self.check(400, b"[1]", "JSON")
        self.check(400, b"[" * 100_000, "JSON")
        self.check(400, {}, "prompt")
        self.check(400, {"prompt": 5}, "prompt")
        self.check(400, {"prompt": ["a", "b"]}, "prompt")
        self.check(400, {"prompt": [1, 99999]}, "99999")
        self.check(400, {"prompt": "a", "max_tokens": 0}, "max_tokens")
        self.check(400, {"prompt": "a", "max_tokens": -1}, "max_tokens")
        self.check(400, {"prompt": "a", "temperature": 0.7}, "greedily")
        self.check(400, {"prompt": "a", "n": 2}, "greedily")
        self.check(400, {"prompt": "a", "stop": 5}, "stop|texts")
        self.check(400, {"prompt": "a" * 9000}, "8192 tokens")
        self.check(404, {"prompt": "a", "model": "gpt-9"}, "gpt-9")
        self.check(413, b"a" * (9 << 20), "bytes")

    def test_other_paths(self):
        self.assertEqual(self.server.ask("GET", "/nothing")[0], 404)
        self.assertEqual(self.server.ask("GET", "/v1/completions")[0], 404)
        status, models = self.server.ask("GET", "/v1/models")
        self.assertEqual((status, json.loads(models)["data"][0]["id"]), (200, MODEL))
        self.assertEqual(self.server.ask("GET", "/health")[0], 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
