#!/usr/bin/env python3
"""What a node at rest costs: share of a core and resident memory with many blobs, announced to a tracker.

The tracker asks for an announce every minute, ten times as often as by default, so that a minute's measurement sees
every blob announced once.

usage: idle.py [--binary target/release/longshore] [--fill target/release/examples/fill] [--blobs 10000] [--seconds 60]
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import tempfile
import time


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/longshore")
    parser.add_argument("--fill", default="target/release/examples/fill")
    parser.add_argument("--blobs", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="longshore-idle"))
    started = []
    try:
        subprocess.run([options.fill, str(folder / "data"), str(options.blobs)], check=True)
        tracker = subprocess.Popen([options.binary, "tracker", "--listen", "127.0.3.9:6969", "--interval", "60"], stdout=subprocess.DEVNULL)
        started.append(tracker)
        command = [options.binary, "node", "--tracker", "http://127.0.3.9:6969/announce", "--data", str(folder / "data")]
        command += ["--peer-listen", "127.0.3.10:6881", "--mirror-listen", "127.0.3.10:5555"]
        command += ["--socket", str(folder / "s")]
        before = time.monotonic()
        node = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(node)
        node.stdout.readline()
        ready = time.monotonic() - before
        time.sleep(20)  # everything is announced by then
        cpu, start = cpu_seconds(node.pid), time.monotonic()
        time.sleep(options.seconds)
        share = (cpu_seconds(node.pid) - cpu) / (time.monotonic() - start)
        print(f"| {options.blobs} blobs | ready in {ready:.2f} s | {share * 100:.2f}% of a core | {resident_mib(node.pid):.0f} MiB |")
    finally:
        for process in started:
            process.terminate()
            process.wait(timeout=30)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
