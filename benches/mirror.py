#!/usr/bin/env python3
"""The mirror beside the registry itself and beside docker-registry as a pull-through cache, all on this machine.

A 190 MB image of five layers is pulled with skopeo to a folder: straight from docker-registry, through a node, through
docker-registry as a cache; each cold (nothing kept) and warm. Then curl reads one warm layer, the first byte of cold
blobs is timed, and a blob of 1.5 KiB is asked for 500 times a second. Contenders take turns within each round; the
table shows medians, and ratios taken within a round. Last, ten nodes pull such an image at once, each behind a link of
100 Mbit/s, the registry behind one like it (`longshore lab`; for root).

usage: mirror.py [--longshore target/release/longshore] [--rounds 5] [--no-links]

Needs docker-registry, skopeo and curl. Ends what it started.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYERS, LAYER = 5, 38_000_000
SMALL = 1536
# Cold blobs whose first byte is timed.
FIRSTS, FIRST = 12, 1_000_000
NAME = "bench/app"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(command, port, environment=None):
    """A server that listens on a port of this machine, ended with the block."""
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not listen on port {port}")
            time.sleep(0.02)
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def registry(folder, upstream=None):
    """docker-registry, or a cache of another."""
    port = free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if upstream:
        config["proxy"] = {"remoteurl": f"http://127.0.0.1:{upstream}"}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "registry.json"
    # JSON is YAML.
    file.write_text(json.dumps(config))
    return port, process(["docker-registry", "serve", str(file)], port)


@contextlib.contextmanager
def mirror(options, folder, upstream):
    """A tracker with its directory, and a node."""
    folder.mkdir(parents=True, exist_ok=True)
    tracker, port = free_port(), free_port()
    node = [
        options.longshore, "node", "--tracker", f"http://127.0.0.1:{tracker}/announce", "--data", str(folder / "data"),
        "--peer-listen", "127.0.0.1:0", "--mirror-listen", f"127.0.0.1:{port}", "--socket", str(folder / "socket"),
        "--default-registry", "reg.test", "--upstream", f"reg.test=http://127.0.0.1:{upstream}",
    ]
    with process([options.longshore, "tracker", "--listen", f"127.0.0.1:{tracker}"], tracker):
        with process(node, port):
            yield port


class Registry:
    """What is put into a registry by its API."""

    def __init__(self, port):
        self.port = port

    def call(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise SystemExit(f"the registry answers {answer.status} to {method} {path}")
        return answer

    def blob(self, content):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        where = self.call("POST", f"/v2/{NAME}/blobs/uploads/").headers["Location"]
        path = "/" + where.split("/", 3)[3] if "://" in where else where
        path += ("&" if "?" in path else "?") + f"digest={digest}"
        self.call("PUT", path, content, {"Content-Type": "application/octet-stream"})
        return digest

    def image(self, tag, layers):
        """An image whose layers are noise: nothing can make them smaller."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
        layer_type = "application/vnd.oci.image.layer.v1.tar"
        descriptor = lambda kind, content: {"mediaType": kind, "digest": self.blob(content), "size": len(content)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor(layer_type, layer) for layer in layers],
        }
        self.call("PUT", f"/v2/{NAME}/manifests/{tag}", json.dumps(manifest).encode(), {"Content-Type": MANIFEST})
        return [layer["digest"] for layer in manifest["layers"]]


def pull(port, folder):
    """Seconds that skopeo takes to a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    command = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://127.0.0.1:{port}/{NAME}:1", f"dir:{folder}"]
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - begun
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size > LAYERS * LAYER, f"{size} bytes came"
    shutil.rmtree(folder)
    return took


def curl(port, digest, what):
    url = f"http://127.0.0.1:{port}/v2/{NAME}/blobs/{digest}"
    command = ["curl", "--silent", "--fail", "--output", "/dev/null", "--write-out", f"%{{{what}}}", url]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def paced(port, digest, rate, seconds):
    """Milliseconds of each answer to one blob, asked for at a rate by some connections, from when it should have gone."""
    took, workers = [], 4
    start = time.monotonic() + 0.1

    def work(worker):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for n in range(worker, int(rate * seconds), workers):
            due = start + n / rate
            time.sleep(max(0, due - time.monotonic()))
            connection.request("GET", f"/v2/{NAME}/blobs/{digest}")
            answer = connection.getresponse()
            body = answer.read()
            assert (answer.status, len(body)) == (200, SMALL)
            took.append((time.monotonic() - due) * 1000)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == int(rate * seconds), "some were not answered"
    took.sort()
    return {"p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100]}


def measure(options, folder, direct, images):
    """One round: everything once."""
    layer, firsts, small = images
    to, result = folder / "to", {}
    result["direct"] = {"cold": pull(direct, to), "warm": pull(direct, to)}
    result["direct"]["stream"] = LAYER / curl(direct, layer, "time_total")
    result["direct"]["first"] = statistics.median(curl(direct, digest, "time_starttransfer") for digest in firsts)
    result["direct"] |= {f"small {key}": value for key, value in paced(direct, small, 500, 4).items()}
    with mirror(options, folder / "node", direct) as port:
        result["longshore"] = {"cold": pull(port, to), "warm": pull(port, to)}
        result["longshore"]["stream"] = LAYER / curl(port, layer, "time_total")
        result["longshore"]["first"] = statistics.median(curl(port, digest, "time_starttransfer") for digest in firsts)
        curl(port, small, "time_total")
        result["longshore"] |= {f"small {key}": value for key, value in paced(port, small, 500, 4).items()}
    shutil.rmtree(folder / "node")
    port, cache = registry(folder / "cache", upstream=direct)
    with cache:
        result["docker-registry as a cache"] = {"cold": pull(port, to)}
        # It keeps a blob some time after it has passed it on.
        time.sleep(2)
        result["docker-registry as a cache"]["warm"] = pull(port, to)
        result["docker-registry as a cache"]["stream"] = LAYER / curl(port, layer, "time_total")
        first = statistics.median(curl(port, digest, "time_starttransfer") for digest in firsts)
        result["docker-registry as a cache"]["first"] = first
    shutil.rmtree(folder / "cache")
    return result


def links(options, folder):
    """Ten nodes behind links: copies that left the registry, and the last finisher's time over the ideal."""
    sources, size = folder / "sources", 0
    sources.mkdir()
    for n in range(LAYERS):
        (sources / f"layer-{n}").write_bytes(os.urandom(LAYER // 4))
    command = [
        options.longshore, "lab", "--netns", "--rate", "100mbit", "--origin-rate", "100mbit", "--seeders", "0",
        "--leechers", "10", "--sources", str(sources), "--json",
    ]
    runs = []
    for _ in range(3):
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout)
        assert report["ok"], "not every node got the image whole and right"
        size = report["image_bytes"]
        slowest = max(node["seconds"] for node in report["nodes"])
        runs.append({"copies": report["origin_copies"], "last ÷ ideal": slowest / (size * 8 / 100e6)})
    shutil.rmtree(sources)
    return size, runs


def median(results, who, what):
    return statistics.median(result[who][what] for result in results)


def ratio(results, who, what):
    return statistics.median(result[who][what] / result["direct"][what] for result in results)


def report(results, shaped):
    print("\n| 190 MB, five layers, skopeo to a folder | cold | ÷ direct | warm | ÷ direct | curl, one stream | first byte |")
    print("|---|---|---|---|---|---|---|")
    for who in results[0]:
        cold, warm, stream = (median(results, who, what) for what in ("cold", "warm", "stream"))
        first = median(results, who, "first") * 1000
        print(
            f"| {who} | {cold:.2f} s | {ratio(results, who, 'cold'):.2f} | {warm:.2f} s | {ratio(results, who, 'warm'):.2f} "
            f"| {stream / 1e9:.2f} GB/s | {first:.1f} ms |"
        )
    print("\n| 1.5 KiB at 500 a second | p50 | p99 |\n|---|---|---|")
    for who in ("direct", "longshore"):
        p50, p99 = (median(results, who, f"small {key}") for key in ("p50", "p99"))
        print(f"| {who} | {p50:.2f} ms | {p99:.2f} ms |")
    if shaped:
        size, runs = shaped
        copies, last = (statistics.median(run[key] for run in runs) for key in ("copies", "last ÷ ideal"))
        print(f"\nTen nodes at once, {size / 1e6:.0f} MB, links of 100 Mbit/s: {copies:.2f} copies left the registry, "
              f"the last was done in {last:.2f} times the ideal.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longshore", default="target/release/longshore")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-links", action="store_true", help="leave the ten nodes out")
    parser.add_argument("--results", default="benches/results")
    options = parser.parse_args()
    options.longshore = os.path.abspath(options.longshore)
    for program in ("docker-registry", "skopeo", "curl"):
        if not shutil.which(program):
            raise SystemExit(f"{program} is not installed: scripts/setup.sh peers")
    # In memory where there is room, so that no disk is measured.
    place = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 4 << 30 else None
    folder = pathlib.Path(tempfile.mkdtemp(prefix="longshore-mirror", dir=place))
    results, shaped = [], None
    try:
        direct, server = registry(folder / "origin")
        with server:
            put = Registry(direct)
            layers = put.image("1", [os.urandom(LAYER) for _ in range(LAYERS)])
            small = put.blob(os.urandom(SMALL))
            for n in range(options.rounds):
                # Cold for all: the kernel may know the registry's files, and does so for each.
                firsts = [put.blob(os.urandom(FIRST)) for _ in range(FIRSTS)]
                results.append(measure(options, folder, direct, (layers[0], firsts, small)))
                print(f"round {n + 1}: {json.dumps(results[-1])}", flush=True)
        if not options.no_links and os.geteuid() == 0:
            shaped = links(options, folder)
    finally:
        shutil.rmtree(folder)
    report(results, shaped)
    path = pathlib.Path(options.results) / time.strftime("mirror-%Y%m%d-%H%M%S.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rounds": results, "links": shaped}, indent=1) + "\n")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
