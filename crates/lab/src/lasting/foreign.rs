//! Other BitTorrent clients in the lab, with settings of their own: they listen at the host's address, find peers by the
//! lab's tracker alone, and load the torrents that are put into a folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    LabError,
    claim::file,
    lasting::{
        host::{Program, Ready, Work},
        state::{Entry, Lab},
        topology::{Foreign, Seat},
    },
    links, plan,
};

/// The client of a host, with its configuration; and what it is called.
pub(crate) fn work(lab: &Lab, seat: &Seat) -> Result<(Work, &'static str), LabError> {
    let all = &lab.topology().foreign;
    let client = all.iter().find(|client| client.host() == seat.name).copied();
    let client = client.ok_or_else(|| LabError::Topology(format!("there is no client for {}", seat.name)))?;
    let home = home(lab, &seat.name);
    for folder in [&home, &home.join("load"), &home.join("files"), &home.join("session")] {
        fs::create_dir_all(folder).map_err(file(folder))?;
    }
    let arguments = match client {
        Foreign::Transmission => transmission(lab, seat, &home)?,
        Foreign::Rtorrent => rtorrent(lab, seat, &home)?,
    };
    let folders = links::PATH.split(':').map(|folder| Path::new(folder).join(client.program()));
    let program = folders.into_iter().find(|path| path.is_file());
    Ok((
        Work::Program(Program {
            program: program.ok_or(LabError::NoClient { program: client.program() })?,
            arguments,
            environment: vec![("HOME", home.into_os_string()), ("TERM", "dumb".into())],
            ready: Ready::Listens(lab.at(seat, plan::PEER_PORT)),
        }),
        client.host(),
    ))
}

/// Puts a torrent where a client finds it.
pub(crate) async fn give(lab: &Lab, entry: &Entry, torrent: &Path) -> Result<(), String> {
    let folder = home(lab, &entry.info.name);
    let name = torrent.file_name().unwrap_or_default();
    // Whole at once, and not read before.
    let draft = folder.join(name);
    let put = async {
        tokio::fs::copy(torrent, &draft).await?;
        tokio::fs::rename(&draft, folder.join("load").join(name)).await
    };
    put.await.map_err(|error| error.to_string())
}

fn home(lab: &Lab, host: &str) -> PathBuf {
    lab.work.join("foreign").join(host)
}

fn transmission(lab: &Lab, seat: &Seat, home: &Path) -> Result<Vec<String>, LabError> {
    let settings = json!({
        "peer-port": lab.at(seat, plan::PEER_PORT).port(),
        "bind-address-ipv4": lab.ip(seat).to_string(),
        "dht-enabled": false,
        "lpd-enabled": false,
        "pex-enabled": false,
        "utp-enabled": false,
        "port-forwarding-enabled": false,
        "rpc-enabled": false,
        "download-dir": home.join("files"),
        "incomplete-dir-enabled": false,
        "watch-dir": home.join("load"),
        "watch-dir-enabled": true,
    });
    let path = home.join("settings.json");
    fs::write(&path, settings.to_string()).map_err(file(&path))?;
    Ok(["--foreground", "--config-dir", &home.to_string_lossy()].map(str::to_owned).to_vec())
}

fn rtorrent(lab: &Lab, seat: &Seat, home: &Path) -> Result<Vec<String>, LabError> {
    let (shown, ip) = (home.display(), lab.ip(seat));
    let port = lab.at(seat, plan::PEER_PORT).port();
    let lines = [
        "system.daemon.set = true".to_owned(),
        format!("directory.default.set = {shown}/files"),
        format!("session.path.set = {shown}/session"),
        format!("network.port_range.set = {port}-{port}"),
        "network.port_random.set = no".to_owned(),
        format!("network.bind_address.set = {ip}"),
        format!("network.local_address.set = {ip}"),
        "dht.mode.set = disable".to_owned(),
        "protocol.pex.set = no".to_owned(),
        "trackers.use_udp.set = yes".to_owned(),
        // Left to itself it asks a tracker again after ten minutes, whatever that has said.
        "schedule2 = announce, 3, 3, \"d.multicall2=main,d.tracker_announce=\"".to_owned(),
        format!("schedule2 = load, 1, 2, ((load.start, \"{shown}/load/*.torrent\"))"),
    ];
    let path = home.join("rc");
    fs::write(&path, lines.join("\n") + "\n").map_err(file(&path))?;
    Ok(vec!["-n".to_owned(), "-o".to_owned(), format!("import={}", path.display())])
}
