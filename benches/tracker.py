#!/usr/bin/env python3
"""Trackers under load: announces per second, CPU time per announce, memory per peer, latency.

The tracker has one core and the load another. Contenders run all the while and take turns within each round; the
table shows medians, and ratios to the answerer that keeps nothing, each taken within a round. Each is filled with
1,000,000 peers in 10,000 torrents first.

usage: tracker.py [--longshore target/release/longshore] [--load target/release/examples/load] [--rounds 5]
                  [--seconds 3] [--only NAME,NAME] [--aquatic-udp PATH] [--aquatic-http PATH]
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

TRACKER_CORE, LOAD_CORE = "0", "1"
PEERS = 1_000_000
# Bytes of an HTTP answer with 50 peers, as the null answerer gives.
HTTP_ANSWER = 560

UDP, CONNECT, KEEP_ALIVE, CLOSE, PACED = "udp", "udp-connect", "http", "http-close", "udp-paced"
TITLES = {UDP: "UDP", CONNECT: "UDP with connect", KEEP_ALIVE: "HTTP keep-alive", CLOSE: "HTTP close"}


class Contender:
    def __init__(self, name, command, port, kinds, cwd=None, wait=0.5):
        self.name, self.kinds, self.address = name, kinds, f"127.0.0.1:{port}"
        self.process = subprocess.Popen(["taskset", "-c", TRACKER_CORE, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd)
        time.sleep(wait)
        self.bytes_per_peer = None
        self.results = {}

    def alive(self):
        return self.process.poll() is None

    def cpu_ns(self):
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    def resident(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def parser_of(doc):
    """What all benchmarks of the tracker are told."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longshore", type=os.path.abspath, default=os.path.abspath("target/release/longshore"))
    parser.add_argument("--load", type=os.path.abspath, default=os.path.abspath("target/release/examples/load"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", default="benches/results")
    return parser


def keep(options, name, results):
    path = pathlib.Path(options.results) / time.strftime(f"{name}-%Y%m%d-%H%M%S.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{path}")


def load(options, *arguments):
    command = ["taskset", "-c", LOAD_CORE, options.load, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


def contenders(options, folder):
    """Those that are there, with what they speak."""
    yield "null UDP", [options.load, "null-udp", "127.0.0.1:17001"], 17001, [UDP, CONNECT, PACED]
    yield "null HTTP", [options.load, "null-http", "127.0.0.1:17002", str(HTTP_ANSWER)], 17002, [KEEP_ALIVE, CLOSE]
    longshore = [options.longshore, "tracker", "--listen", "127.0.0.1:17003", "--ip-from", "192.0.2.1"]
    yield "longshore", longshore, 17003, [UDP, CONNECT, PACED, KEEP_ALIVE, CLOSE]
    opentracker = shutil.which("opentracker")
    if opentracker:
        # Debian's serves only listed torrents, and closes after every HTTP request.
        listed = folder / "whitelist"
        listed.write_text(subprocess.run([options.load, "whitelist"], check=True, capture_output=True, text=True).stdout)
        command = [opentracker, "-i", "127.0.0.1", "-p", "17004", "-P", "17004", "-d", str(folder), "-w", "whitelist"]
        yield "opentracker", command, 17004, [UDP, CONNECT, PACED, CLOSE]
    if options.aquatic_udp:
        config = folder / "aquatic-udp.toml"
        config.write_text(AQUATIC_UDP)
        yield "aquatic_udp", [options.aquatic_udp, "-c", str(config)], 17005, [UDP, CONNECT, PACED]
    if options.aquatic_http:
        # It closes no connection because a client asks for it: all are kept, or none.
        for kind, port, keep in ((KEEP_ALIVE, 17006, "true"), (CLOSE, 17007, "false")):
            config = folder / f"aquatic-{kind}.toml"
            config.write_text(AQUATIC_HTTP.format(port=port, keep=keep))
            yield f"aquatic_{kind}", [options.aquatic_http, "-c", str(config)], port, [kind]


AQUATIC_UDP = """
socket_workers = 1
[network]
address = "127.0.0.1:17005"
only_ipv6 = false
socket_recv_buffer_size = 8000000
[protocol]
max_response_peers = 50
"""

AQUATIC_HTTP = """
socket_workers = 1
swarm_workers = 1
[network]
only_ipv6 = false
address = "127.0.0.1:{port}"
keep_alive = {keep}
[protocol]
max_peers = 50
"""


def null_of(kind):
    return "null HTTP" if kind in (KEEP_ALIVE, CLOSE) else "null UDP"


def measure(options, contender, kind):
    """What one run gives; `None` where the contender is gone or refuses."""
    if not contender.alive():
        return None
    arguments = [kind, contender.address, options.seconds] + ([options.rate] if kind == PACED else [])
    before = contender.cpu_ns()
    try:
        result = load(options, *arguments)
    except subprocess.CalledProcessError as error:
        print(f"{contender.name}: {kind}: {error.stderr.strip().splitlines()[:2]}")
        return None
    except subprocess.TimeoutExpired:
        print(f"{contender.name}: {kind}: no end")
        return None
    if kind != PACED:
        result["cpu_us"] = (contender.cpu_ns() - before) / 1000 / max(result["announces"], 1)
    return result


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=25_000, help="announces a second for the latency")
    parser.add_argument("--only", default="", help="names of contenders, with commas between")
    parser.add_argument("--aquatic-udp", default=shutil.which("aquatic_udp"))
    parser.add_argument("--aquatic-http", default=shutil.which("aquatic_http"))
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="longshore-tracker"))
    folder.chmod(0o755)  # opentracker gives up being root
    running = []
    try:
        for name, command, port, kinds in contenders(options, folder):
            if only and name not in only and not name.startswith("null"):
                continue
            contender = Contender(name, command, port, kinds, cwd=folder)
            running.append(contender)
            if not contender.alive():
                print(f"{name}: does not start", flush=True)
                continue
            empty = contender.resident()
            if not name.startswith("null") and UDP in kinds:
                filled = load(options, "fill", contender.address)
                contender.bytes_per_peer = (contender.resident() - empty) / PEERS
                print(f"{name}: {filled}, {contender.bytes_per_peer:.1f} bytes a peer", flush=True)
        for _ in range(options.rounds):
            for kind in (UDP, CONNECT, KEEP_ALIVE, CLOSE, PACED):
                for contender in running:
                    if kind in contender.kinds:
                        contender.results.setdefault(kind, []).append(measure(options, contender, kind))
        report(options, running)
    finally:
        for contender in running:
            contender.stop()
        shutil.rmtree(folder)


def report(options, running):
    by_name = {contender.name: contender for contender in running}
    for kind, title in TITLES.items():
        nulls = by_name[null_of(kind)].results[kind]
        print(f"\n| {title} | announces/s | of the null answerer's | CPU µs | CPU, null ÷ it |\n|---|---|---|---|---|")
        for contender in running:
            rounds = [(mine, null) for mine, null in zip(contender.results.get(kind, []), nulls) if mine and null]
            if not rounds:
                continue
            rate = statistics.median(mine["rate"] for mine, _ in rounds)
            share = statistics.median(mine["rate"] / null["rate"] for mine, null in rounds)
            cpu = statistics.median(mine["cpu_us"] for mine, _ in rounds)
            cpu_share = statistics.median(null["cpu_us"] / mine["cpu_us"] for mine, null in rounds)
            print(f"| {contender.name} | {rate:,.0f} | {share:.2f} | {cpu:.2f} | {cpu_share:.2f} |")
    print(f"\n| at {options.rate:,}/s | p50 µs | p99 µs | lost |\n|---|---|---|---|")
    for contender in running:
        rounds = [mine for mine in contender.results.get(PACED, []) if mine]
        if rounds:
            p50, p99, lost = (statistics.median(mine[key] for mine in rounds) for key in ("p50", "p99", "lost"))
            print(f"| {contender.name} | {p50:.0f} | {p99:.0f} | {lost:.0f} |")
    print("\n| memory | bytes a peer |\n|---|---|")
    for contender in running:
        if contender.bytes_per_peer is not None:
            print(f"| {contender.name} | {contender.bytes_per_peer:.1f} |")
    results = {contender.name: {"bytes_per_peer": contender.bytes_per_peer, **contender.results} for contender in running}
    keep(options, "tracker", results)


if __name__ == "__main__":
    main()
