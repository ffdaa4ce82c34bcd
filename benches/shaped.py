#!/usr/bin/env python3
"""One seeder and N leechers on shaped links: who finishes when, and how many copies the seeder sends.

Every peer has a network namespace of its own on a bridge without a way out; each link is shaped both ways by `tc tbf`.
Prints, for each run, the last finisher's time over the fluid limit (size ÷ link) and the seeder's bytes over the size,
from the interface's own counters, headers included. Root; needs iproute2. Ends what it started.

usage: shaped.py [--binary target/release/longshore] [--leechers 4] [--mbit 100] [--mib 64] [--piece 256KiB] [--runs 3]
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

PREFIX = f"lsb{os.getpid() % 10000}"


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Network:
    """Namespaces on a bridge, gone at the end."""

    def __init__(self, hosts, mbit):
        self.bridge, self.hosts, self.mbit = f"{PREFIX}br", hosts, mbit

    def __enter__(self):
        # Bridged traffic must not pass the machine's own filters.
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "link", "set", self.bridge, "up")
        for host in range(self.hosts):
            name, outer, inner = self.name(host), f"{PREFIX}o{host}", f"{PREFIX}i{host}"
            run("ip", "netns", "add", name)
            run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
            run("ip", "link", "set", outer, "master", self.bridge, "up")
            run("ip", "-n", name, "addr", "add", f"{self.address(host)}/24", "dev", inner)
            run("ip", "-n", name, "link", "set", inner, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            shape = ("root", "tbf", "rate", f"{self.mbit}mbit", "burst", "64kb", "latency", "50ms")
            run("tc", "qdisc", "add", "dev", outer, *shape)
            run("tc", "-n", name, "qdisc", "add", "dev", inner, *shape)
        return self

    def __exit__(self, *_):
        for host in range(self.hosts):
            subprocess.run(["ip", "netns", "del", self.name(host)], check=False)
        subprocess.run(["ip", "link", "del", self.bridge], check=False)

    def name(self, host):
        return f"{PREFIX}n{host}"

    def address(self, host):
        return f"10.98.7.{host + 1}"

    def sent(self, host):
        """Bytes that a host has put on its link."""
        command = ["ip", "-n", self.name(host), "-j", "-s", "link", "show", "dev", f"{PREFIX}i{host}"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return json.loads(out)[0]["stats64"]["tx"]["bytes"]

    def start(self, host, *command):
        # The leecher's last line of JSON is its result.
        full = ["ip", "netns", "exec", self.name(host), *command]
        return subprocess.Popen(full, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def once(options, folder, torrent):
    hosts = options.leechers + 1
    with Network(hosts, options.mbit) as net:
        peers = [f"{net.address(host)}:6881" for host in range(hosts)]
        seeder = net.start(0, options.binary, "seed", torrent, str(folder / "seed"), "--listen", peers[0], "--json")
        started = []
        try:
            time.sleep(1.0)
            before = net.sent(0)
            start = time.monotonic()
            for host in range(1, hosts):
                others = [arg for other in peers[:host] for arg in ("--peer", other)]
                target = str(folder / f"leech{host}")
                command = [options.binary, "get", torrent, target, "--listen", peers[host], *others, "--json", "--seed"]
                started.append(net.start(host, *command))
            finished = [until_complete(process, start, 300) for process in started]
            return max(finished), net.sent(0) - before
        finally:
            for process in [seeder, *started]:
                process.terminate()
            for process in [seeder, *started]:
                process.wait(timeout=20)


def until_complete(process, start, patience):
    """Reads JSON lines until the result; gives the time it came."""
    while time.monotonic() - start < patience:
        line = process.stdout.readline()
        if not line:
            raise SystemExit("a leecher ended early")
        event = json.loads(line)
        if event.get("event") in ("complete", "done", "summary"):
            return time.monotonic() - start
    raise SystemExit("a leecher took too long")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/longshore")
    parser.add_argument("--leechers", type=int, default=4)
    parser.add_argument("--mbit", type=int, default=100)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--piece", default="256KiB")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("namespaces and traffic shaping need root")
    options.binary = str(pathlib.Path(options.binary).resolve())
    size = options.mib * 1024 * 1024
    fluid = size * 8 / (options.mbit * 1e6)
    results = []
    for _ in range(options.runs):
        folder = pathlib.Path(tempfile.mkdtemp(dir="/dev/shm"))
        try:
            (folder / "seed").mkdir()
            (folder / "seed" / "data").write_bytes(os.urandom(size))
            torrent = str(folder / "t.torrent")
            run(options.binary, "create", str(folder / "seed" / "data"), "-o", torrent, "--piece-length", options.piece)
            last, sent = once(options, folder, torrent)
            results.append((last / fluid, sent / size))
            print(f"last ÷ fluid {last / fluid:.3f}   seed sent ÷ size {sent / size:.3f}", flush=True)
        finally:
            shutil.rmtree(folder)
    last, sent = (statistics.median(column) for column in zip(*results))
    print(f"| {options.leechers} × {options.mbit} Mbit/s, {options.mib} MiB | {last:.2f} | {sent:.2f} |")


if __name__ == "__main__":
    main()
