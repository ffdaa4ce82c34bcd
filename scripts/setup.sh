#!/usr/bin/env bash
# Installs by apt what is missing for the named purposes, and says so:
#   build   a linker and C compiler, and git for the checks
#   page    Node.js and npm, which make the web page
#   browser Chromium, for the page's tests
#   demo    network namespaces for `longshore lab --netns`
#   peers   other BitTorrent and registry clients, that tests and benchmarks run against
#   clients what `make test-clients` runs besides: buildah, and Debian 13 in a folder
#   fuzz    a C++ compiler for libFuzzer
# Without root it asks sudo. Where neither can be had it prints the command instead, and goes on if there is a
# linker: what else is missing shows as skipped tests.
set -euo pipefail

as_root=
if [[ ${1:-} == --as-root ]]; then
    as_root=1
    shift
fi

packages=()
for purpose in "$@"; do
    case "$purpose" in
        build) packages+=(gcc libc6-dev git ca-certificates) ;;
        # A Node.js from elsewhere is as good as Debian's.
        page) command -v npm >/dev/null || packages+=(nodejs npm) ;;
        browser) packages+=(chromium) ;;
        demo) packages+=(iproute2) ;;
        peers) packages+=(python3 curl openssl haproxy nginx-light python3-libtorrent python3-grpcio mktorrent prometheus rtorrent transmission-daemon aria2 qbittorrent-nox
                          opentracker ostree skopeo docker-registry docker.io containerd etcd-server etcd-client
                          podman runc crun netavark aardvark-dns iptables iproute2 docker-compose podman-compose) ;;
        clients) packages+=(buildah debootstrap openssl) ;;
        fuzz) packages+=(g++) ;;
        *) echo "setup.sh: unknown purpose: $purpose" >&2; exit 2 ;;
    esac
done

# sudo has a path of its own, on which a user's cargo is not.
if [[ -z $as_root ]] && ! command -v cargo >/dev/null; then
    echo "setup.sh: there is no cargo; install Rust first: https://www.rust-lang.org/tools/install" >&2
    exit 1
fi

# Cargo cannot build anything without a linker.
finish() {
    if [[ " $* " == *" build "* ]] && ! command -v cc >/dev/null; then
        echo "setup.sh: there is no C compiler (cc), which Rust links with: install gcc" >&2
        exit 1
    fi
    exit 0
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "setup.sh: not a Debian system; if something is missing, install: ${packages[*]}" >&2
    finish "$@"
fi

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && finish "$@"

if [[ $(id -u) -ne 0 ]]; then
    # Its password can be asked for on a terminal only.
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
        echo "setup.sh: missing: ${missing[*]}; installing with sudo" >&2
        if sudo -- "$BASH" "$0" --as-root "$@"; then
            exit 0
        fi
    fi
    echo "setup.sh: missing: ${missing[*]}" >&2
    echo "setup.sh: install them as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    finish "$@"
fi

echo "setup.sh: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# Another apt may be at work, on a machine that has just started mostly.
apt=(apt-get --quiet --quiet -o DPkg::Lock::Timeout=300)
"${apt[@]}" update || echo "setup.sh: apt-get update failed; going on with the lists there are" >&2

# The packages are wanted for their programs: their services must not start.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

install=("${apt[@]}" install --yes --no-install-recommends)
if ! "${install[@]}" "${missing[@]}" >/dev/null; then
    # One by one, so that one that this release does not have costs only itself.
    for package in "${missing[@]}"; do
        "${install[@]}" "$package" >/dev/null ||
            echo "setup.sh: could not install $package; what needs it will be skipped" >&2
    done
fi
finish "$@"
