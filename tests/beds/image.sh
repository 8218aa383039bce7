#!/usr/bin/env bash
# Images without a registry: image.sh SERVER ARCHIVE LIST
#
# Makes ARCHIVE, in the format of `docker save`, of the test server's binary and Debian's busybox: one layer, and a
# configuration for each line of LIST, `TAG ENV=VALUE…`.
set -euo pipefail
export LC_ALL=C
server=$1 archive=$2 list=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{root/bin,root/tmp,image}
cp "$server" "$work/root/server"
cp "$(command -v busybox)" "$work/root/bin/busybox"
for applet in sh cat echo env kill ls sleep wget; do ln -s busybox "$work/root/bin/$applet"; done
# The same bytes each time: a tag has one digest on every machine.
same() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$2" "${@:3}"; }
same "$work/root" "$work/image/layer.tar" bin server tmp
layer=$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)
manifest=
while read -r tag values; do
    [ -n "$tag" ] && [ "${tag#\#}" = "$tag" ] || continue
    command='["/server"]'
    [ "${tag%%:*}" != bed/pause ] || command='["/server","pause"]'
    environment="\"PATH=/bin\",\"VERSION=${tag##*:}\""
    for value in $values; do environment="$environment,\"$value\""; done
    config=$(echo "$tag" | tr '/:' '--').json
    echo "{\"architecture\":\"amd64\",\"os\":\"linux\",\"created\":\"1970-01-01T00:00:00Z\",\"config\":{\"Entrypoint\":$command,\"Env\":[$environment],\"ExposedPorts\":{\"8080/tcp\":{}},\"Labels\":{\"org.opencontainers.image.version\":\"${tag##*:}\"}},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$layer\"]},\"history\":[{\"created\":\"1970-01-01T00:00:00Z\"}]}" >"$work/image/$config"
    manifest="$manifest,{\"Config\":\"$config\",\"RepoTags\":[\"$tag\"],\"Layers\":[\"layer.tar\"]}"
done <"$list"
echo "[${manifest#,}]" >"$work/image/manifest.json"
same "$work/image" "$archive" .
