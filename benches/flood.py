#!/usr/bin/env python3
"""A flood from one address, and what another client notices of it.

The tracker has one core, client and flood share the other. A client announces at a steady rate from 127.0.0.1, over
UDP and then over HTTP, while 127.0.0.2 floods over both: announces, connects and garbage in packets, and on
connections pipelined announces and garbage. The table has the client's median, 99th percentile and losses, without a
flood, with it and no limit, and with it and `rate_limit`.

usage: flood.py [--longshore target/release/longshore] [--load target/release/examples/load] [--rounds 5]
"""

import json
import statistics
import subprocess
import time

from tracker import LOAD_CORE, TRACKER_CORE, keep, parser_of

ADDRESS = "127.0.0.1:17010"
BAD = "127.0.0.2"


def start(core, *command):
    return subprocess.Popen(["taskset", "-c", core, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def measure(options, limit, flood):
    """What the client sees in one run, by protocol, and how much the flood sent."""
    # By default this host has no limit; here it is the one that floods.
    rate = ["--rate-limit", limit, "--rate-burst", limit, "--rate-exempt", "192.0.2.1"] if limit else []
    tracker = start(TRACKER_CORE, options.longshore, "tracker", "--listen", ADDRESS, *rate)
    time.sleep(0.5)
    results, floods = {}, []
    try:
        for kind, pace in (("udp-paced", options.udp_rate), ("http-paced", options.http_rate)):
            if flood:
                seconds = options.seconds + 2
                floods = [
                    start(LOAD_CORE, options.load, "flood-udp", ADDRESS, seconds, options.flood_rate, BAD),
                    start(LOAD_CORE, options.load, "flood-http", ADDRESS, seconds, BAD),
                ]
                time.sleep(1)
            client = start(LOAD_CORE, options.load, kind, ADDRESS, options.seconds, pace)
            results[kind] = json.loads(client.communicate(timeout=60 + options.seconds)[0])
            for process, name in zip(floods, ("flood_udp", "flood_http")):
                results[f"{kind} {name}"] = json.loads(process.communicate(timeout=60)[0])
            floods = []
    finally:
        for process in [tracker, *floods]:
            process.terminate()
            process.wait()
    return results


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--limit", type=int, default=5000, help="announces a second that a source may make")
    parser.add_argument("--udp-rate", type=int, default=2000)
    parser.add_argument("--http-rate", type=int, default=1000)
    parser.add_argument("--flood-rate", type=int, default=100_000, help="packets a second")
    options = parser.parse_args()
    cases = {"no flood": (0, False), "no flood, limit": (options.limit, False), "flood": (0, True), "flood, limit": (options.limit, True)}
    all_results = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, case in cases.items():
            all_results[name].append(measure(options, *case))
    print("| | UDP p50 µs | p99 µs | lost | HTTP p50 µs | p99 µs | lost |\n|---|---|---|---|---|---|---|")
    for name, rounds in all_results.items():
        cells = [statistics.median(one[kind][key] for one in rounds) for kind in ("udp-paced", "http-paced") for key in ("p50", "p99", "lost")]
        print(f"| {name} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |")
    keep(options, "flood", all_results)


if __name__ == "__main__":
    main()
