#!/usr/bin/env python3
"""What forwarders cost whoever announces: the latency of announces without any, with one that answers, and with dead
ones beside it. retracker waits for all of them, 2 s for a dead one; here they are asked behind the answers.

    python3 benches/forwarders.py --longshore target/release/longshore
"""

import argparse
import json
import socket
import subprocess
import tempfile
import time

INFO_HASH = "%AA" * 20


def tracker(binary, *arguments):
    process = subprocess.Popen(
        [binary, "tracker", "--json", "--listen", "127.0.0.1:0", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    address = json.loads(process.stdout.readline())["addresses"][0]
    return process, ("127.0.0.1", int(address.rsplit(":", 1)[1]))


def announce(stream, peer):
    """One announce of a new peer, which forwarders are told of; the seconds that its answer took."""
    port = 1024 + peer % 60000
    query = f"info_hash={INFO_HASH}&peer_id=-XX0000-{peer:012}&port={port}&left=1&compact=1&event=started&numwant=50"
    request = f"GET /announce?{query} HTTP/1.1\r\nHost: t\r\n\r\n".encode()
    start = time.perf_counter()
    stream.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += stream.recv(65536)
    head, body = answer.split(b"\r\n\r\n", 1)
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    length = int(fields[b"content-length"])
    while len(body) < length:
        body += stream.recv(65536)
    took = time.perf_counter() - start
    assert b"interval" in body, body
    return took


def measure(binary, name, forwarders, count, rate):
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write("".join(f"- {{name: {n}, uri: '{uri}'}}\n" for n, uri in forwarders.items()))
        file.flush()
        process, address = tracker(binary, "--forwarders", file.name, "--forward-timeout", "2")
        try:
            with socket.create_connection(address) as stream:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for peer in range(50):
                    announce(stream, 10**6 + peer)
                took, start = [], time.perf_counter()
                for peer in range(count):
                    took.append(announce(stream, peer))
                    time.sleep(max(0.0, start + (peer + 1) / rate - time.perf_counter()))
        finally:
            process.terminate()
            process.wait()
    took.sort()
    at = lambda share: took[min(count - 1, int(count * share))] * 1e6
    print(f"| {name} | {at(0.5):.0f} | {at(0.99):.0f} | {took[-1] * 1e3:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longshore", required=True, help="the binary")
    parser.add_argument("--count", type=int, default=2000, help="announces of each run")
    parser.add_argument("--rate", type=int, default=400, help="announces a second")
    arguments = parser.parse_args()

    far, address = tracker(arguments.longshore)
    # A port that takes connections and never answers, one that takes packets, and one where nobody is.
    silent, deaf, gone = socket.socket(), socket.socket(type=socket.SOCK_DGRAM), socket.socket()
    for one in (silent, deaf, gone):
        one.bind(("127.0.0.1", 0))
    silent.listen(4096)
    closed = gone.getsockname()[1]
    gone.close()
    alive = {"http": f"http://127.0.0.1:{address[1]}/announce", "udp": f"udp://127.0.0.1:{address[1]}"}
    dead = {
        "silent": f"http://127.0.0.1:{silent.getsockname()[1]}/announce",
        "deaf": f"udp://127.0.0.1:{deaf.getsockname()[1]}",
        "closed": f"http://127.0.0.1:{closed}/announce",
    }
    print("| forwarders | median, µs | 99 %, µs | longest, ms |\n| --- | --- | --- | --- |")
    try:
        for name, forwarders in [
            ("none", {}),
            ("two that answer", alive),
            ("one that never answers", {"silent": dead["silent"]}),
            ("two that answer and three dead", {**alive, **dead}),
        ]:
            measure(arguments.longshore, name, forwarders, arguments.count, arguments.rate)
    finally:
        far.terminate()
        far.wait()


if __name__ == "__main__":
    main()
