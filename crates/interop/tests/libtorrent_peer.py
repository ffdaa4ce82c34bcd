"""A libtorrent client: libtorrent_peer.py seed|get TORRENT FOLDER ADDRESS:PORT; runs until it is ended."""

import sys
import time

import libtorrent as lt

role, torrent, folder, listen = sys.argv[1:5]
session = lt.session(
    {
        "listen_interfaces": listen,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        "allow_multiple_connections_per_ip": True,
        "min_announce_interval": 1,
    }
)
handle = session.add_torrent({"ti": lt.torrent_info(torrent), "save_path": folder})
while True:
    status = handle.status()
    print(role, status.state, status.progress, status.num_peers, flush=True)
    time.sleep(0.5)
