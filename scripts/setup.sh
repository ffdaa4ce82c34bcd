#!/usr/bin/env bash
# Installs by apt what is missing for the named purposes, and says so:
#   build   a linker and C compiler, and git for the checks
#   peers   other BitTorrent and registry clients, that tests and benchmarks run against
#   fuzz    a C++ compiler for libFuzzer
# Without root it prints the command instead, and goes on: what is missing then shows as skipped tests.
set -euo pipefail

packages=()
for purpose in "$@"; do
    case "$purpose" in
        build) packages+=(gcc libc6-dev git ca-certificates) ;;
        peers) packages+=(python3 python3-libtorrent mktorrent rtorrent transmission-daemon aria2 qbittorrent-nox
                          opentracker skopeo docker-registry docker.io containerd
                          podman runc crun netavark aardvark-dns iptables iproute2) ;;
        fuzz) packages+=(g++) ;;
        *) echo "setup.sh: unknown purpose: $purpose" >&2; exit 2 ;;
    esac
done

if ! command -v cargo >/dev/null; then
    echo "setup.sh: there is no cargo; install Rust first: https://www.rust-lang.org/tools/install" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "setup.sh: not a Debian system; if something is missing, install: ${packages[*]}" >&2
    exit 0
fi

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

if [[ $(id -u) -ne 0 ]]; then
    echo "setup.sh: missing: ${missing[*]}" >&2
    echo "setup.sh: install them with: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 0
fi

echo "setup.sh: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet || echo "setup.sh: apt-get update failed; going on with the lists there are" >&2

# The packages are wanted for their programs: their services must not start.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

# One by one, so that one that this release does not have costs only itself.
for package in "${missing[@]}"; do
    apt-get install --quiet --quiet --yes --no-install-recommends "$package" >/dev/null ||
        echo "setup.sh: could not install $package; what needs it will be skipped" >&2
done
