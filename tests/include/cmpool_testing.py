"""What tests that look at cmpool's programs from outside have in common."""

import os
import subprocess
import threading
import time

COMMAND_S = 30
PATIENCE_S = 60
LOOK_S = 0.05


def eventually(what, seconds=PATIENCE_S):
    """Asks until the answer is true, and returns the last one: nothing tells of what happens in somebody else's
    process."""
    until = time.monotonic() + seconds
    while not (answer := what()) and time.monotonic() < until:
        threading.Event().wait(LOOK_S)
    return answer


class Network:
    """Hosts that are network namespaces, a switch, and a cable from it to each of them; nothing of the machine's own
    network. Needs root and iproute2; raises OSError or SubprocessError where it cannot have them."""

    def __init__(self, names, subnet="10.77.0"):
        prefix = f"cmpool-{os.getpid()}"
        self.space = {name: f"{prefix}-{at}" for at, name in enumerate(names)}
        self.address = {name: f"{subnet}.{at + 1}" for at, name in enumerate(names)}
        self.switch = f"{prefix}-switch"
        self.made = []
        try:
            self._make(self.switch)
            self._ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
            self._ip("-n", self.switch, "link", "set", "switch", "up")
            for name in names:
                self._plug_in(name)
        except (OSError, subprocess.SubprocessError):
            self.remove()
            raise

    def remove(self):
        for space in self.made:
            subprocess.run(["ip", "netns", "delete", space], check=False)

    def cable(self, name, plugged):
        """What is on its way through a cable that is pulled is lost, and nobody is told."""
        self._ip("-n", self.switch, "link", "set", self._port(name), "up" if plugged else "down")

    def apart(self, names, apart):
        """Whether these hosts are cut off from each other, silently; all others reach them, and they all others."""
        for name in names:
            self._ip("-n", self.switch, "link", "set", self._port(name), "type", "bridge_slave", "isolated",
                     "on" if apart else "off")

    def on(self, name, *command):
        """The command that runs this one on a host."""
        return ["ip", "netns", "exec", self.space[name], *command]

    @staticmethod
    def _ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=COMMAND_S)

    def _port(self, name):
        return f"port{list(self.space).index(name)}"

    def _make(self, space):
        self._ip("netns", "add", space)
        self.made.append(space)

    def _plug_in(self, name):
        space, port = self.space[name], self._port(name)
        self._make(space)
        self._ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", port, "netns", self.switch)
        self._ip("-n", space, "address", "add", f"{self.address[name]}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._ip("-n", space, "link", "set", device, "up")
        self._ip("-n", self.switch, "link", "set", port, "master", "switch", "up")
