#!/usr/bin/env python3
"""One seeder, one leecher, loopback: Longshore beside other clients, and beside what the machine allows.

    transfer.py [--size-mib 1024] [--rounds 5] [--only NAME,NAME] [--longshore BIN] [--ceiling BIN]

All contenders take turns, round by round, on the same data in memory (/dev/shm where it has room). Measured are the
seconds from the moment when the leecher is told to fetch until all is there and written, and the processor time of
both processes meanwhile. Whatever is not installed is left out, with a line that says so. Prints a Markdown table;
raw results go to benches/results/. Needs nothing but Python's standard library.
"""

import argparse
import json
import os
import platform
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote_from_bytes
from urllib.request import Request, urlopen

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TICK = os.sysconf("SC_CLK_TCK")
DEADLINE = 120


# Addresses of their own: on one address some clients take the other side for themselves.
SEEDER, LEECHER = "127.0.0.2", "127.0.0.3"


class Failed(Exception):
    """A contender did not do it."""


def cpu_of(pid):
    """User and system seconds of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A child with its output; killed in the end."""

    def __init__(self, command, **options):
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stdin", subprocess.PIPE)
        self.child = subprocess.Popen(
            [str(part) for part in command], stderr=subprocess.DEVNULL, start_new_session=True, **options
        )
        self.pid = self.child.pid
        self.buffer = b""
        self.rusage = None

    def line(self, wanted, deadline=DEADLINE):
        """Reads lines until one holds `wanted`."""
        end = time.monotonic() + deadline
        out = self.child.stdout.fileno()
        while True:
            while b"\n" in self.buffer:
                line, self.buffer = self.buffer.split(b"\n", 1)
                if wanted in line.decode(errors="replace"):
                    return line.decode(errors="replace")
            left = end - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise Failed(f"no `{wanted}` in {deadline} s")
            data = os.read(out, 65536)
            if not data:
                raise Failed(f"ended before it said `{wanted}`")
            self.buffer += data

    def tell(self):
        self.child.stdin.write(b"go\n")
        self.child.stdin.flush()

    def wait(self, deadline=DEADLINE):
        """Waits for its end, and keeps what it used."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.child.returncode = os.waitstatus_to_exitcode(status)
                self.rusage = usage
                return self.child.returncode
            time.sleep(0.001)
        raise Failed(f"still running after {deadline} s")

    def stop(self):
        if self.child.returncode is None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(self.pid, number)
                except ProcessLookupError:
                    pass
                try:
                    self.child.wait(3)
                    break
                except subprocess.TimeoutExpired:
                    continue
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe:
                pipe.close()


class Bench:
    """What contenders share."""

    def __init__(self, options, work):
        self.options = options
        self.longshore = options.longshore
        self.work = work
        self.seed = work / "seed"
        self.seed.mkdir()
        self.data = self.seed / "data.bin"
        self.started = []
        self.fill()
        self.torrent = self.create("data.torrent", "--piece-length", "1MiB")
        self.tracker = None

    def fill(self):
        left = self.options.size_mib
        with open(self.data, "wb") as out:
            while left:
                take = min(left, 16)
                out.write(os.urandom(take << 20))
                left -= take

    def warm_up(self):
        """Touches as much memory as a run needs: a virtual machine may have to fetch it from its host first."""
        spare = self.work / "spare"
        for _ in range(2):
            subprocess.run(["cp", self.data, spare], check=True)
            spare.unlink()

    def create(self, name, *arguments):
        path = self.work / name
        command = [self.longshore, "create", self.data, "-o", path, "--no-date", "--force", "--json", *arguments]
        made = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        self.info_hash = bytes.fromhex(made["info_hash"])
        return path

    def with_tracker(self):
        """The torrent with a tracker in it, for those who find peers by no other way."""
        if not self.tracker:
            self.tracker = Process([self.longshore, "tracker", "--listen", "127.0.0.1:0", "--json", "--min-interval", "1"])
            address = json.loads(self.tracker.line("listening"))["addresses"][0]
            self.tracker_url = f"http://{address}/announce"
            self.tracked = self.create("tracked.torrent", "--piece-length", "1MiB", "--tracker", self.tracker_url)
            self.started.append(self.tracker)
        return self.tracked

    def wait_for_seed(self):
        """Waits until the tracker knows a seeder: who asks it before that may not ask again soon."""
        url = self.tracker_url.replace("/announce", "/scrape") + "?info_hash=" + quote_from_bytes(self.info_hash)
        end = time.monotonic() + DEADLINE
        while b"8:completei0e" in (answer := urlopen(url, timeout=10).read()) or b"8:complete" not in answer:
            if time.monotonic() > end:
                raise Failed("its seeder does not announce itself")
            time.sleep(0.1)

    def start(self, command, **options):
        process = Process(command, **options)
        self.started.append(process)
        return process

    def stop_all(self):
        for process in reversed(self.started):
            process.stop()
        self.started.clear()
        # The next run's tracker knows nobody of this one.
        self.tracker = None


def measure(seeder, act):
    """Runs `act`, which returns the leecher's own seconds of processor time."""
    before, start = cpu_of(seeder.pid), time.monotonic()
    end, leecher_cpu = act()
    return {"seconds": end - start, "seeder_cpu": cpu_of(seeder.pid) - before, "leecher_cpu": leecher_cpu}


class Contender:
    name = ""

    def __init__(self, bench):
        self.bench = bench

    def missing(self):
        return None

    def run(self, folder):
        raise NotImplementedError


class Longshore(Contender):
    name = "longshore"

    def torrent(self):
        return self.bench.torrent

    def seed_folder(self):
        return self.bench.seed

    def run(self, folder):
        seed = [self.bench.longshore, "seed", self.torrent(), self.seed_folder(), "--no-check", "--json"]
        seeder = self.bench.start([*seed, "--listen", "127.0.0.1:0"])
        peer = json.loads(seeder.line("seeding"))["listen"]

        def act():
            get = [self.bench.longshore, "get", self.torrent(), folder, "--peer", peer, "--json"]
            leecher = self.bench.start([*get, "--listen", "127.0.0.1:0"])
            leecher.line('"complete"')
            end = time.monotonic()
            if leecher.wait() != 0:
                raise Failed("get failed")
            return end, leecher.rusage.ru_utime + leecher.rusage.ru_stime

        return measure(seeder, act)


class LongshoreBlob(Longshore):
    """The same with a blob's torrent: SHA-256 proves pieces and digest."""

    name = "longshore (blob, SHA-256)"

    def torrent(self):
        path = self.bench.work / "blob.torrent"
        return path if path.exists() else self.bench.create("blob.torrent", "--blob")

    def seed_folder(self):
        folder = self.bench.work / "blob"
        if not folder.exists():
            folder.mkdir()
            digest = subprocess.run(["sha256sum", self.bench.data], check=True, capture_output=True).stdout[:64]
            (folder / digest.decode()).hardlink_to(self.bench.data)
        return folder


class Libtorrent(Contender):
    python = None

    def missing(self):
        if not self.python or not Path(self.python).exists():
            return "no Python for it"
        probe = [self.python, "-c", "import libtorrent; print(libtorrent.__version__)"]
        found = subprocess.run(probe, capture_output=True, text=True)
        if found.returncode != 0:
            return "not installed"
        self.version = found.stdout.strip()
        return None

    def run(self, folder):
        script = HERE / "clients" / "libtorrent_peer.py"
        port = free_port()
        seeder = self.bench.start([self.python, script, "seed", self.bench.torrent, self.bench.seed, port])
        seeder.line("ready")
        peer = f"127.0.0.1:{port}"
        leecher = self.bench.start([self.python, script, "get", self.bench.torrent, folder, free_port(), peer])
        leecher.line("ready")

        def act():
            before = cpu_of(leecher.pid)
            leecher.tell()
            leecher.line("done")
            return time.monotonic(), cpu_of(leecher.pid) - before

        return measure(seeder, act)


class Libtorrent20(Libtorrent):
    """Debian's python3-libtorrent."""

    name = "libtorrent (python3-libtorrent)"
    python = "/usr/bin/python3"


class Libtorrent21(Libtorrent):
    """The package of that name from PyPI, in a folder of its own."""

    name = "libtorrent (PyPI)"

    def missing(self):
        self.python = self.bench.options.libtorrent_python
        if not self.python:
            self.python = ROOT / "target" / "bench-libtorrent" / "bin" / "python"
            if not Path(self.python).exists():
                venv = Path(self.python).parent.parent
                steps = [
                    [sys.executable, "-m", "venv", venv],
                    [venv / "bin" / "pip", "install", "-q", "--only-binary", ":all:", "libtorrent>=2.1"],
                ]
                for step in steps:
                    if subprocess.run(step, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
                        return "cannot be had here"
        return super().missing()


class Scgi(xmlrpc.client.Transport):
    """XML-RPC over SCGI on a unix socket, as rtorrent speaks it."""

    def __init__(self, path):
        super().__init__()
        self.path = str(path)

    def request(self, host, handler, body, verbose=False):
        headers = f"CONTENT_LENGTH\0{len(body)}\0SCGI\x001\0".encode()
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(10)
            stream.connect(self.path)
            stream.sendall(str(len(headers)).encode() + b":" + headers + b"," + body)
            answer = b""
            while part := stream.recv(65536):
                answer += part
        parser, unmarshaller = self.getparser()
        parser.feed(answer.split(b"\r\n\r\n", 1)[1])
        parser.close()
        return unmarshaller.close()


class Rtorrent(Contender):
    name = "rtorrent"

    def missing(self):
        return None if shutil.which("rtorrent") else "not installed"

    def client(self, name, folder, address):
        home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.bench.work))
        (home / "session").mkdir()
        settings = f"""
            system.daemon.set = true
            directory.default.set = {folder}
            session.path.set = {home}/session
            network.port_range.set = {{port}}-{{port}}
            network.port_random.set = no
            network.bind_address.set = {address}
            network.local_address.set = {address}
            network.scgi.open_local = {home}/rpc
            dht.mode.set = disable
            protocol.pex.set = no
            trackers.use_udp.set = no
            protocol.encryption.set = none
            pieces.hash.on_completion.set = no
            pieces.memory.max.set = 4096M
            throttle.max_uploads.global.set = 0
            network.send_buffer.size.set = 4M
            network.receive_buffer.size.set = 4M
            system.umask.set = 0022
        """.replace("{port}", str(free_port()))
        rc = home / "rc"
        rc.write_text("\n".join(line.strip() for line in settings.splitlines()))
        environment = {**os.environ, "TERM": "dumb", "HOME": str(home)}
        command = ["rtorrent", "-n", "-o", f"import={rc}"]
        process = self.bench.start(command, env=environment, stdout=subprocess.DEVNULL)
        server = xmlrpc.client.ServerProxy("http://x", transport=Scgi(home / "rpc"))
        end = time.monotonic() + 20
        while True:
            try:
                server.system.pid()
                return process, server
            except (OSError, IndexError):
                if time.monotonic() > end:
                    raise Failed("it does not answer") from None
                time.sleep(0.05)

    def run(self, folder):
        torrent = str(self.bench.with_tracker())
        seeder, seed = self.client("rt-seed", self.bench.seed, SEEDER)
        leecher, leech = self.client("rt-get", folder, LEECHER)
        seed_pid, leech_pid = seeder.pid, leecher.pid
        seed.load.start_verbose("", torrent)
        end = time.monotonic() + DEADLINE
        info_hash = None
        while not info_hash or seed.d.complete(info_hash) != 1 or seed.d.is_active(info_hash) != 1:
            known = seed.download_list("")
            info_hash = known[0] if known else None
            if time.monotonic() > end:
                raise Failed("it does not seed")
            time.sleep(0.1)
        self.bench.wait_for_seed()
        before, seed_before, start = cpu_of(leech_pid), cpu_of(seed_pid), time.monotonic()
        leech.load.start_verbose("", torrent)
        while True:
            try:
                if leech.d.complete(info_hash) == 1:
                    break
            except (xmlrpc.client.Fault, OSError):
                pass
            if time.monotonic() > start + DEADLINE:
                raise Failed(f"not complete after {DEADLINE} s")
            time.sleep(0.01)
        seconds = time.monotonic() - start
        result = {"seconds": seconds, "seeder_cpu": cpu_of(seed_pid) - seed_before}
        return {**result, "leecher_cpu": cpu_of(leech_pid) - before}


class Aria2(Contender):
    name = "aria2"

    def missing(self):
        return None if shutil.which("aria2c") else "not installed"

    def command(self, folder, address, *more):
        return [
            "aria2c", "-d", folder, "--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
            "--enable-peer-exchange=false", "--bt-max-peers=0", "--file-allocation=none", "--disk-cache=64M",
            "--bt-tracker-interval=1", f"--listen-port={free_port()}",
            f"--interface={address}", *more, self.bench.with_tracker(),
        ]  # fmt: skip

    def run(self, folder):
        self.bench.with_tracker()
        checked = ["--check-integrity=true", "--bt-hash-check-seed=true", "--seed-ratio=0.0"]
        seeder = self.bench.start(self.command(self.bench.seed, SEEDER, *checked), stdout=subprocess.DEVNULL)
        self.bench.wait_for_seed()

        def act():
            leecher = self.bench.start(self.command(folder, LEECHER, "--seed-time=0"), stdout=subprocess.DEVNULL)
            data, size = folder / "data.bin", self.bench.options.size_mib << 20
            if leecher.wait() != 0:
                raise Failed("it failed")
            if data.stat().st_size != size:
                raise Failed("it is not complete")
            return time.monotonic(), leecher.rusage.ru_utime + leecher.rusage.ru_stime

        return measure(seeder, act)


class Transmission(Contender):
    name = "transmission"

    def missing(self):
        return None if shutil.which("transmission-daemon") else "not installed"

    def client(self, name, folder, address):
        home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.bench.work))
        rpc = free_port()
        settings = {
            "download-dir": str(folder), "rpc-port": rpc, "rpc-bind-address": "127.0.0.1", "peer-port": free_port(),
            "bind-address-ipv4": address, "dht-enabled": False, "lpd-enabled": False, "pex-enabled": False,
            "utp-enabled": False, "encryption": 0, "port-forwarding-enabled": False, "rename-partial-files": False,
            "cache-size-mb": 64, "preallocation": 0, "rpc-authentication-required": False, "watch-dir-enabled": False,
            "ratio-limit-enabled": False, "peer-limit-per-torrent": 50,
        }  # fmt: skip
        (home / "settings.json").write_text(json.dumps(settings))
        process = self.bench.start(["transmission-daemon", "-f", "-g", home], stdout=subprocess.DEVNULL)
        session = []

        def call(method, **arguments):
            body = json.dumps({"method": method, "arguments": arguments}).encode()
            for _ in range(100):
                headers = {"X-Transmission-Session-Id": session[0]} if session else {}
                request = Request(f"http://127.0.0.1:{rpc}/transmission/rpc", body, headers)
                try:
                    with urlopen(request, timeout=10) as answer:
                        return json.load(answer)["arguments"]
                except HTTPError as error:
                    session[:] = [error.headers["X-Transmission-Session-Id"]]
                except OSError:
                    time.sleep(0.1)
            raise Failed("it does not answer")

        call("session-get")
        return process, call

    def run(self, folder):
        torrent = str(self.bench.with_tracker())
        seeder, seed = self.client("tr-seed", self.bench.seed, SEEDER)
        leecher, leech = self.client("tr-get", folder, LEECHER)
        seed("torrent-add", filename=torrent)
        end = time.monotonic() + DEADLINE

        def done(call):
            torrents = call("torrent-get", fields=["percentDone", "leftUntilDone", "status"])["torrents"]
            return bool(torrents) and torrents[0]["leftUntilDone"] == 0 and torrents[0]["status"] == 6

        while not done(seed):
            if time.monotonic() > end:
                raise Failed("it does not seed")
            time.sleep(0.2)
        self.bench.wait_for_seed()

        def act():
            # Where it works it takes about half a minute.
            before, end = cpu_of(leecher.pid), time.monotonic() + 60
            leech("torrent-add", filename=torrent)
            while not done(leech):
                if time.monotonic() > end:
                    raise Failed("not complete after 60 s")
                time.sleep(0.02)
            return time.monotonic(), cpu_of(leecher.pid) - before

        return measure(seeder, act)


class Ceiling(Contender):
    threads = 1
    name = "ceiling: one thread receives, hashes, writes"

    def missing(self):
        return None if Path(self.bench.options.ceiling).exists() else "not built"

    def run(self, folder):
        binary = self.bench.options.ceiling
        sender = self.bench.start([binary, "send", self.bench.data, "127.0.0.1:0"])
        address = sender.line("listening").split()[1]

        def act():
            receiver = self.bench.start([binary, "receive", address, folder / "data.bin", self.threads])
            if receiver.wait() != 0:
                raise Failed("it failed")
            return time.monotonic(), receiver.rusage.ru_utime + receiver.rusage.ru_stime

        return measure(sender, act)


class Ceiling2(Ceiling):
    threads = 2
    name = "ceiling: two threads"


CONTENDERS = [Longshore, LongshoreBlob, Libtorrent21, Libtorrent20, Rtorrent, Aria2, Transmission, Ceiling, Ceiling2]


def same(one, other):
    return subprocess.run(["cmp", "-s", one, other]).returncode == 0


def once(bench, contender):
    folder = bench.work / "get"
    folder.mkdir()
    try:
        result = contender.run(folder)
        files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size == bench.data.stat().st_size]
        if not files or not same(files[0], bench.data):
            raise Failed("what arrived is not what was sent")
        return result
    finally:
        bench.stop_all()
        shutil.rmtree(folder)


def row(name, results, gib):
    def median(key):
        return statistics.median(result[key] for result in results)

    wall, seeder, leecher = median("seconds"), median("seeder_cpu"), median("leecher_cpu")
    least, most = min(r["seconds"] for r in results), max(r["seconds"] for r in results)
    cpu = f"{seeder / gib:.2f} + {leecher / gib:.2f} | {(seeder + leecher) / gib:.2f}"
    return f"| {name} | {wall:.2f} | {least:.2f}–{most:.2f} | {gib / wall * 1.073741824:.2f} | {cpu} |"


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 2**20),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
    }


def build(*what):
    subprocess.run(["cargo", "build", "--release", "--quiet", *what], cwd=ROOT, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="names, or parts of names, with commas")
    parser.add_argument("--longshore", type=Path, help="the binary [default: built from these sources]")
    parser.add_argument("--ceiling", type=Path, help="the example of crates/engine [default: built likewise]")
    parser.add_argument("--libtorrent-python", help="a Python that has PyPI's libtorrent")
    options = parser.parse_args()
    if not options.longshore:
        build("--package", "longshore", "--bin", "longshore")
        options.longshore = target / "longshore"
    if not options.ceiling:
        build("--package", "longshore-engine", "--example", "ceiling")
        options.ceiling = target / "examples" / "ceiling"
    needed = (options.size_mib << 20) * 3
    base = next(path for path in ("/dev/shm", "/tmp") if shutil.disk_usage(path).free > needed)
    with tempfile.TemporaryDirectory(prefix="longshore-bench-", dir=base) as work:
        compare(Bench(options, Path(work)), options)


def compare(bench, options):
    wanted = [part for part in options.only.split(",") if part]
    contenders = []
    for contender in (kind(bench) for kind in CONTENDERS):
        if wanted and not any(part in contender.name for part in wanted):
            continue
        why = contender.missing()
        if why:
            print(f"{contender.name}: left out, {why}", file=sys.stderr)
        else:
            contenders.append(contender)
    results = {contender.name: [] for contender in contenders}
    failures = {}
    bench.warm_up()
    for number in range(options.rounds):
        for contender in contenders:
            if contender.name in failures:
                continue
            try:
                result = once(bench, contender)
            except (Failed, OSError, subprocess.SubprocessError, xmlrpc.client.Error) as error:
                failures[contender.name] = str(error)
                print(f"{contender.name}: left out, {error}", file=sys.stderr)
                continue
            results[contender.name].append(result)
            shown = ", ".join(f"{key} {value:.2f}" for key, value in result.items())
            print(f"{number + 1}/{options.rounds} {contender.name}: {shown}", file=sys.stderr, flush=True)
    gib = options.size_mib / 1024
    print(f"\n| {options.size_mib} MiB, 1 → 1, loopback | s | least–most | GB/s | CPU s/GiB seeder + leecher | both |")
    print("|---|---|---|---|---|---|")
    for contender in contenders:
        if results[contender.name]:
            version = getattr(contender, "version", "")
            print(row(f"{contender.name} {version}".strip(), results[contender.name], gib))
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    record = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine()}
    record |= {"size_mib": options.size_mib, "results": results, "left_out": failures}
    path = folder / f"transfer-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(f"\nraw results: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
