"""A libtorrent client for the benchmark: one torrent, tuned for a local network.

    libtorrent_peer.py seed TORRENT FOLDER PORT        prints `ready`, and seeds until killed
    libtorrent_peer.py get TORRENT FOLDER PORT PEER    prints `ready`, waits for a line on standard input, connects to
                                                       PEER (host:port), and prints `done` when all is written
"""

import sys

import libtorrent as lt


def session(port):
    settings = lt.high_performance_seed()
    settings.update(
        {
            "listen_interfaces": f"127.0.0.1:{port}",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_incoming_utp": False,
            "enable_outgoing_utp": False,
            "in_enc_policy": int(lt.enc_policy.disabled),
            "out_enc_policy": int(lt.enc_policy.disabled),
            "allow_multiple_connections_per_ip": True,
            "aio_threads": 4,
            "alert_mask": lt.alert.category_t.status_notification
            | lt.alert.category_t.storage_notification
            | lt.alert.category_t.error_notification,
        }
    )
    if "hashing_threads" in lt.default_settings():
        settings["hashing_threads"] = 2
    return lt.session(settings)


def wait_for(running, *kinds):
    while True:
        running.wait_for_alert(200)
        for alert in running.pop_alerts():
            if isinstance(alert, kinds):
                return alert
            if isinstance(alert, (lt.file_error_alert, lt.torrent_error_alert)):
                sys.exit(alert.message())


def main():
    role, torrent, folder, port = sys.argv[1:5]
    running = session(port)
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = folder
    params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    if role == "seed":
        params.flags |= lt.torrent_flags.seed_mode
        running.add_torrent(params)
        wait_for(running, lt.add_torrent_alert)
        print("ready", flush=True)
        sys.stdin.readline()
        return
    print("ready", flush=True)
    sys.stdin.readline()
    handle = running.add_torrent(params)
    host, peer_port = sys.argv[5].rsplit(":", 1)
    handle.connect_peer((host, int(peer_port)))
    wait_for(running, lt.torrent_finished_alert)
    # "Finished" is said when the last piece is hashed; what waits to be written is part of the work.
    handle.flush_cache()
    wait_for(running, lt.cache_flushed_alert)
    print("done", flush=True)
    sys.stdin.readline()


main()
