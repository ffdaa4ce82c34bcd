#!/usr/bin/env bash
# test-clients.sh TARGET [TABLE]: every fault with every client that is here, and then with those of Debian 13 in a
# folder of their own (TRIXIE, /tmp/longshore-trixie unless set; it is removed afterwards unless it was there before).
# The table goes to standard output and into the file TABLE.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1
table=${2:-}
repository=$PWD
export LONGSHORE_BIN=$target/debug/longshore LONGSHORE_CLIENTS=all

test_binary() {
    CARGO_TARGET_DIR=$target ${CARGO:-cargo} test --locked --package longshore-interop --test "$1" --no-run 2>&1 |
        sed -n "s/.*Executable.*(\(.*\))$/\1/p"
}
faults=$(realpath "$(test_binary faults)")
runtimes=$(realpath "$(test_binary runtimes)")

rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
outcome=0
note() {
    echo "$1"
    [[ -z $table ]] || echo "$1" >>"$table"
}
versions() {
    note ""
    note "$1: $("${@:2}" bash -c 'for p in skopeo podman buildah docker.io containerd ostree; do
        dpkg-query --show --showformat="\${Package} \${Version}, " "$p" 2>/dev/null || true; done')"
    note ""
}

[[ -z $table ]] || : >"$table"
versions "This machine" env
LONGSHORE_TABLE=${table:+$(realpath "$table")} "$faults" --nocapture --test-threads 1 || outcome=1

skipped() {
    note "Debian 13: skipped: $1"
    exit $outcome
}
[[ $(id -u) -eq 0 ]] || skipped "a chroot wants root"
command -v debootstrap >/dev/null || skipped "debootstrap is not installed"
root=${TRIXIE:-/tmp/longshore-trixie}
mirror=${DEBIAN_MIRROR:-$(sed -n 's/^\(URIs: *\|deb *\(\[[^]]*\] *\)\?\)\(http[^ ]*\).*/\3/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v security | head -1 || true)}
mounted=()
clean() {
    for ((at = ${#mounted[@]} - 1; at >= 0; at--)); do
        umount --recursive --lazy "${mounted[$at]}" || true
    done
    # Never through a mount that is still there.
    [[ -n ${keep:-} ]] || rm -rf --one-file-system "$root"
    rm -f "$rows"
}
if [[ -x $root/usr/bin/skopeo ]]; then
    keep=1
else
    free=$(df --output=avail -k "$(dirname "$root")" | tail -1)
    ((free > 3000000)) || skipped "less than 3 GB are free in $(dirname "$root")"
fi
trap clean EXIT
if [[ -z ${keep:-} ]]; then
    [[ -n $mirror ]] || skipped "no mirror of Debian in the sources of apt: set DEBIAN_MIRROR"
    debootstrap --variant=minbase --include=ca-certificates trixie "$root" "$mirror" \
        >/dev/null 2>"$rows" || skipped "debootstrap: $(tail -1 "$rows")"
    cp /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends \
        skopeo podman buildah docker.io docker-cli containerd runc crun iptables docker-registry haproxy openssl curl \
        ostree python3-grpcio util-linux >/dev/null 2>"$rows" || skipped "apt-get: $(tail -1 "$rows")"
    rm -rf "$root"/var/cache/apt/archives/*.deb
fi
# A root of its own and no chroot: `nsenter` leaves those. For that it has to be a mount.
mount --bind "$root" "$root"
mounted+=("$root")
# A tmpfs, as overlays of /etc lie there, and an overlay cannot lie on some of the others.
mount -t tmpfs -o size=4g none "$root/tmp"
mounted+=("$root/tmp")
for folder in /proc /sys /dev "$repository" "$target"; do
    mkdir -p "$root$folder"
    mount --rbind --make-rslave "$folder" "$root$folder"
    mounted+=("$root$folder")
done
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/old"
inside=(unshare --mount bash -c 'mount --make-rprivate / && cd "$0" && pivot_root . old && umount --lazy /old && cd / &&
    exec "$@"' "$root" env LONGSHORE_BIN="$LONGSHORE_BIN" LONGSHORE_CLIENTS=all LONGSHORE_TABLE=/tmp/table)
versions "Debian 13" "${inside[@]}"
"${inside[@]}" "$faults" --nocapture --test-threads 1 || outcome=1
"${inside[@]}" "$runtimes" --test-threads 1 token_service containerd podman || outcome=1
[[ -z $table ]] || cat "$root/tmp/table" >>"$table"
exit $outcome
