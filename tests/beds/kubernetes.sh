#!/usr/bin/env bash
# A real Kubernetes cluster for the live tests, in namespaces of its own: etcd, the control plane, a kubelet on containerd
# and kube-proxy. Two run side by side; one that is killed leaves nothing.
#
#   kubernetes.sh packages                 installs the Debian packages that are missing; `build` and `up` do so too
#   kubernetes.sh build [PART…]            builds the binaries, once: core kwok flagger argo helm (default: core)
#   kubernetes.sh up NAME                  brings a bed up and waits until its node is ready
#   kubernetes.sh x NAME COMMAND…          runs a command inside its network, with KUBECONFIG set
#   kubernetes.sh down NAME                takes it down, also what is left of a killed one
#   kubernetes.sh left NAME                lists what is left of it, and fails if there is anything
#
#   kubernetes.sh with NAME WHAT…          adds flagger, argo-rollouts, kwok, prometheus, helm (the real ones) or crds
#   kubernetes.sh image NAME TAG ENV=VALUE…   imports another tag of the test server, with defaults of its own
#   kubernetes.sh restart|stop|start|kill|suspend|resume NAME COMPONENT
#   kubernetes.sh compact NAME             compacts etcd up to now: pages and watches from before are gone
#   kubernetes.sh token NAME NAMESPACE SERVICEACCOUNT SECONDS   a token that expires as soon as that
#
# Components: etcd apiserver controller-manager scheduler containerd kubelet proxy, and what `with` added.
# Needs root and Go.
set -euo pipefail
export LC_ALL=C

script=$(readlink -f "${BASH_SOURCE[0]}")
beds=${script%/*}
home=${XDG_CACHE_HOME:-$HOME/.cache}/rollback-beds
node_ip=10.10.0.1

die() {
    echo "$*" >&2
    exit 1
}

usage() {
    sed -n '5,20s/^# \{0,3\}//p' "$script" >&2
    exit 2
}

# Binaries -------------------------------------------------------------------------------------------------------------

# What a part is built from: its Go modules.
modules() {
    case $1 in
    core) echo etcd k8s server ;;
    kwok | flagger | argo | helm) echo "$1" ;;
    *) die "there is no part $1: core kwok flagger argo helm" ;;
    esac
}

# Where a part is, once it is built: a change of what it is made from makes another folder.
built() {
    local module key
    key=$({
        for module in $(modules "$1"); do cat "$beds/mods/$module"/*; done
        [ "$1" != core ] || cat "$beds/image.sh" "$beds/images"
    } | sha256sum | cut -c1-16)
    echo "$home/built/$1-$key"
}

packages() {
    local package missing=()
    for package in containerd containernetworking-plugins iptables conntrack socat ebtables ethtool busybox-static curl openssl \
        iproute2 procps util-linux; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}"
}

# compile MODULE FOLDER
compile() {
    local flags="-s -w" name=k8s.io/component-base/version.
    if [ "$1" = k8s ]; then
        local version
        version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' "$beds/mods/k8s/go.mod")
        flags="$flags -X ${name}gitVersion=$version -X ${name}gitMajor=1 -X ${name}gitMinor=$(echo "$version" | cut -d. -f2)"
    fi
    cd "$beds/mods/$1"
    case $1 in
    server) CGO_ENABLED=0 go build -ldflags "$flags" -o "$2/server" . ;;
    etcd)
        # Its main package is called server.
        mkdir "$2/etcd.d"
        go build -p 2 -ldflags "$flags" -o "$2/etcd.d/" tool
        mv "$2/etcd.d/server" "$2/etcd"
        rmdir "$2/etcd.d"
        ;;
    *) go build -p 2 -ldflags "$flags" -o "$2/" tool ;;
    esac
    # What comes with a controller: its own definitions.
    case $1 in
    kwok)
        local stages file
        stages=$(go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
        for file in "$stages"/node/{fast,heartbeat-with-lease}/node-*.yaml "$stages"/pod/fast/pod-*.yaml; do
            echo ---
            cat "$file"
        done >"$2/stages.yaml"
        ;;
    flagger) cat "$(go list -m -f '{{.Dir}}' github.com/fluxcd/flagger)/artifacts/flagger/crd.yaml" >"$2/crds.yaml" ;;
    argo) find "$(go list -m -f '{{.Dir}}' github.com/argoproj/argo-rollouts)/manifests/crds" -name '*-crd.yaml' | sort |
        while read -r file; do
            echo ---
            cat "$file"
        done >"$2/crds.yaml" ;;
    esac
}

# Builds the parts that are not there yet, one caller at a time: whoever comes second finds them.
build() {
    local part folder module work start
    packages
    command -v go >/dev/null || die "the bed's binaries are built with Go, which is not here: https://go.dev/dl"
    mkdir -p "$home/built"
    for part in "$@"; do
        folder=$(built "$part")
        [ -d "$folder" ] && continue
        start=$SECONDS
        exec 8>"$home/built/$part.lock"
        flock 8
        if [ ! -d "$folder" ]; then
            work=$(mktemp -d "$home/built/.$part.XXXXXX")
            for module in $(modules "$part"); do (compile "$module" "$work"); done
            [ "$part" != core ] || "$beds/image.sh" "$work/server" "$work/images.tar" "$beds/images"
            chmod 755 "$work"
            mv -T "$work" "$folder"
            # An older one of the same part is of no use any more.
            find "$home/built" -mindepth 1 -maxdepth 1 -name "$part-*" ! -path "$folder" -mtime +7 -exec rm -rf {} +
        fi
        exec 8>&-
        echo "$part: $((SECONDS - start)) s"
    done
}

# Cgroups --------------------------------------------------------------------------------------------------------------

# The hierarchies of cgroup v1; of v2, the only one.
hierarchies() {
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        echo /sys/fs/cgroup
    else
        find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d
    fi
}

make_cgroups() {
    local hierarchy file
    for hierarchy in $(hierarchies); do
        mkdir -p "$hierarchy/bed-$name"
        for file in cpuset.cpus cpuset.mems; do
            # Version 1 starts a child with no processor at all.
            [ ! -e "$hierarchy/cgroup.clone_children" ] || [ ! -e "$hierarchy/$file" ] ||
                cat "$hierarchy/$file" >"$hierarchy/bed-$name/$file"
        done
    done
}

remove_cgroups() {
    local hierarchy tries
    for hierarchy in $(hierarchies); do
        [ -d "$hierarchy/bed-$name" ] || continue
        for tries in $(seq 100); do
            find "$hierarchy/bed-$name" -depth -type d -exec rmdir {} + 2>/dev/null && break
            [ -d "$hierarchy/bed-$name" ] || break
            sleep .05 # a killed process is in its group until it is reaped
        done
    done
}

# Certificates ---------------------------------------------------------------------------------------------------------

make_pki() {
    mkdir -p "$pki"
    cd "$pki"
    key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
    certificate() { # name subject extensions
        key "$1"
        openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
        openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile <(echo -e "$3") -out "$1.crt"
    }
    key ca
    openssl req -x509 -new -key ca.key -subj /CN=bed-ca -days 3650 -out ca.crt
    certificate apiserver /CN=kube-apiserver \
        "subjectAltName=DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:$node_ip\nextendedKeyUsage=serverAuth"
    local client=extendedKeyUsage=clientAuth user
    certificate admin /O=system:masters/CN=admin $client
    certificate controller-manager /CN=system:kube-controller-manager $client
    certificate scheduler /CN=system:kube-scheduler $client
    certificate node /O=system:nodes/CN=system:node:n1 $client
    certificate proxy /CN=system:kube-proxy $client
    # The controllers that `with` adds: told apart from a test by their names.
    certificate bed /O=system:masters/CN=system:bed $client
    openssl genrsa -out service-account.key 2048 # RSA: `token` signs with it
    for user in admin controller-manager scheduler node proxy bed; do
        cat >"$user.conf" <<K
{"apiVersion":"v1","kind":"Config","current-context":"bed","clusters":[{"name":"bed","cluster":{"server":"https://127.0.0.1:6443","certificate-authority":"$pki/ca.crt"}}],"users":[{"name":"$user","user":{"client-certificate":"$pki/$user.crt","client-key":"$pki/$user.key"}}],"contexts":[{"name":"bed","context":{"cluster":"bed","user":"$user"}}]}
K
    done
}

# token NAMESPACE SERVICEACCOUNT SECONDS: TokenRequest gives none that lives for less than ten minutes. The API server
# forgives a minute, which is taken off here, and remembers for ten seconds that a token was good.
token() {
    local uid now
    uid=$(kubectl -n "$1" get serviceaccount "$2" -o 'jsonpath={.metadata.uid}')
    now=$(date +%s)
    url() { base64 -w0 | tr '+/' '-_' | tr -d '='; }
    local head body
    head=$(printf '{"alg":"RS256","typ":"JWT"}' | url)
    body=$(printf '{"iss":"https://kubernetes.default.svc","aud":["https://kubernetes.default.svc"],"sub":"system:serviceaccount:%s:%s","iat":%d,"nbf":%d,"exp":%d,"kubernetes.io":{"namespace":"%s","serviceaccount":{"name":"%s","uid":"%s"}}}' \
        "$1" "$2" $((now - 3600)) $((now - 3600)) $((now + $3 - 60)) "$1" "$2" "$uid" | url)
    printf '%s.%s.%s\n' "$head" "$body" \
        "$(printf '%s.%s' "$head" "$body" | openssl dgst -sha256 -sign "$pki/service-account.key" | url)"
}

# Inside ---------------------------------------------------------------------------------------------------------------

# begin COMPONENT: starts it, as a child of the namespace's first process.
begin() {
    local command
    case $1 in
    etcd) command=("$core/etcd" --data-dir "$bed/etcd" --unsafe-no-fsync
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380
        --initial-cluster default=http://127.0.0.1:2380) ;;
    apiserver) command=("$core/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0
        --advertise-address=$node_ip --secure-port=6443 --service-cluster-ip-range=10.96.0.0/16
        --authorization-mode=Node,RBAC --allow-privileged --endpoint-reconciler-type=none
        --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key"
        --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key"
        --kubelet-preferred-address-types=InternalIP --service-account-key-file="$pki/service-account.key"
        --service-account-signing-key-file="$pki/service-account.key"
        --service-account-issuer=https://kubernetes.default.svc --cert-dir="$pki"
        --audit-policy-file="$bed/audit-policy.yaml" --audit-log-path="$bed/audit.log"
        --max-requests-inflight=2000 --max-mutating-requests-inflight=1000) ;;
    controller-manager) command=("$core/kube-controller-manager" --kubeconfig="$pki/controller-manager.conf"
        --leader-elect=false --use-service-account-credentials
        --service-account-private-key-file="$pki/service-account.key" --root-ca-file="$pki/ca.crt"
        --concurrent-deployment-syncs=20 --concurrent-replicaset-syncs=20 --kube-api-qps=500 --kube-api-burst=1000
        --cert-dir="$pki") ;;
    scheduler) command=("$core/kube-scheduler" --kubeconfig="$pki/scheduler.conf" --leader-elect=false
        --kube-api-qps=500 --kube-api-burst=1000 --cert-dir="$pki") ;;
    containerd) command=(containerd -c "$bed/containerd.toml") ;;
    kubelet) command=("$core/kubelet" --config="$bed/kubelet.yaml" --kubeconfig="$pki/node.conf" --hostname-override=n1
        --node-ip=$node_ip --root-dir="$bed/kubelet" --cert-dir="$pki/kubelet") ;;
    proxy) command=("$core/kube-proxy" --config="$bed/proxy.yaml") ;;
    kwok) command=("$(built kwok)/kwok" --kubeconfig "$pki/bed.conf" --manage-all-nodes=false
        --manage-nodes-with-annotation-selector kwok.x-k8s.io/node=fake --node-lease-duration-seconds 40
        --config "$(built kwok)/stages.yaml") ;;
    flagger) command=("$(built flagger)/flagger" -kubeconfig "$pki/bed.conf" -mesh-provider kubernetes
        -metrics-server http://127.0.0.1:9090 -port 10180) ;;
    argo-rollouts) command=("$(built argo)/rollouts-controller" --kubeconfig "$pki/bed.conf" --leader-elect=false
        --metricsport 10190 --healthzPort 10191) ;;
    prometheus) command=(prometheus --config.file "$bed/prometheus.yaml" --storage.tsdb.path "$bed/prometheus"
        --web.listen-address 127.0.0.1:9090) ;;
    targets) command=("$script" targets "$name") ;;
    *) return 1 ;;
    esac
    "${command[@]}" >>"$bed/log/$1.log" 2>&1 9>&- </dev/null &
    echo $! >"$bed/run/$1.pid"
}

# running COMPONENT: its process is there, and no zombie.
running() {
    [ -f "$bed/run/$1.pid" ] && grep -qs '^State:.[^Z]' "/proc/$(cat "$bed/run/$1.pid")/status"
}

# obey VERB COMPONENT
obey() {
    local tries
    case $1 in
    start) running "$2" || begin "$2" ;;
    stop)
        ! running "$2" || kill -TERM "$(cat "$bed/run/$2.pid")"
        for tries in $(seq 100); do
            running "$2" || return 0
            sleep .05
        done
        obey kill "$2"
        ;;
    kill)
        ! running "$2" || kill -KILL "$(cat "$bed/run/$2.pid")"
        while running "$2"; do sleep .02; done
        ;;
    suspend) kill -STOP "$(cat "$bed/run/$2.pid")" ;;
    resume) kill -CONT "$(cat "$bed/run/$2.pid")" ;;
    esac
}

# Debian's Prometheus knows no Kubernetes: the pods with the annotation prometheus.io/scrape=true, port 8080, in a file.
# Their labels are namespace, pod, and of the pod's own: app, version, pod_template_hash.
targets() {
    local template
    template='{{$first := true}}[{{range .items}}{{if and .status.podIP .metadata.annotations}}{{if eq (index .metadata.annotations "prometheus.io/scrape" | print) "true"}}{{if not $first}},{{end}}{{$first = false}}'
    template+='{"targets":["{{.status.podIP}}:8080"],"labels":{"namespace":"{{.metadata.namespace}}","pod":"{{.metadata.name}}"'
    template+='{{with .metadata.labels}}{{with .app}},"app":"{{.}}"{{end}}{{with .version}},"version":"{{.}}"{{end}}'
    template+='{{with index . "pod-template-hash"}},"pod_template_hash":"{{.}}"{{end}}{{end}}}}{{end}}{{end}}{{end}}]'
    while :; do
        kubectl get pods -A --watch --no-headers 2>/dev/null | while read -r _; do
            while read -r -t .1 _; do :; done # one look for all that happens at once
            kubectl get pods -A -o go-template="$template" >"$bed/targets.part" && mv "$bed/targets.part" "$bed/targets.json"
        done || true
        sleep .5 # the watch ended: the API server is restarted
    done
}

# The first process of the pid namespace, in the bed's network and mounts.
inner() {
    local folder file verb component answer
    set +e
    mount --make-rprivate /
    # A /sys of this network, with the host's cgroups under it: the kubelet needs both.
    mkdir -p "$bed/cgroups"
    mount --rbind /sys/fs/cgroup "$bed/cgroups"
    mount -t sysfs sysfs /sys
    mount --rbind "$bed/cgroups" /sys/fs/cgroup
    umount -R -l "$bed/cgroups"
    # What is written outside the bed's folder stays in memory and in this namespace.
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /var/log
    mkdir -p /run/over/upper /run/over/work /run/containerd/s /run/netns
    mount -t overlay overlay -o lowerdir=/var/lib,upperdir=/run/over/upper,workdir=/run/over/work /var/lib
    mkdir -p /var/lib/cni /var/lib/kubelet
    # A registry is refused at once instead of after a time-out.
    echo nameserver 127.0.0.1 >/run/resolv.conf
    mount --bind /run/resolv.conf /etc/resolv.conf
    # The kubelet sets these for the whole machine, where they are not as it wants them.
    mkdir /run/sysctl
    while read -r file value; do
        echo "$value" >"/run/sysctl/${file##*/}"
        mount --bind "/run/sysctl/${file##*/}" "/proc/sys/$file"
    done <<'K'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
K
    mount --make-rshared /

    # No dummy device in every kernel: a pair with both ends inside. Cluster IPs need a route.
    ip link set lo up
    ip link add up0 type veth peer name up1
    ip addr add $node_ip/24 dev up0
    ip link set up0 up
    ip link set up1 up
    ip route add default via 10.10.0.254 dev up0
    # Loads have thousands of source addresses, so that connections to pods of the run before do not stand in their way.
    ip route add local 10.10.64.0/18 dev lo

    mkdir -p "$bed"/{log,run,answers,containerd,kubelet,cni}
    cd "$bed/log" || exit 1
    # Requests of the cluster's own parts are not counted.
    cat >"$bed/audit-policy.yaml" <<'K'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:kube-controller-manager", "system:kube-scheduler", "system:apiserver", "system:kube-proxy", "system:bed"]}
- {level: None, userGroups: ["system:nodes", "system:serviceaccounts:kube-system"]}
- {level: Metadata}
K
    cat >"$bed/containerd.toml" <<K
version = 2
root = "$bed/containerd/root"
state = "$bed/containerd/state"
oom_score = 0
[grpc]
  address = "$bed/containerd/sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true # without CAP_SYS_RESOURCE every sandbox fails otherwise
  sandbox_image = "bed/pause:1"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$bed/cni"
K
    cat >"$bed/cni/10-bed.conflist" <<'K'
{"cniVersion":"0.4.0","name":"bed","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}
K
    cat >"$bed/kubelet.yaml" <<K
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /bed-$name
failSwapOn: false
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
evictionHard: {memory.available: "1Mi", nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://$bed/containerd/sock
clusterDNS: []
maxPods: 200
serializeImagePulls: false
oomScoreAdj: 0
K
    cat >"$bed/proxy.yaml" <<K
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $pki/proxy.conf}
mode: iptables
hostnameOverride: n1
clusterCIDR: 10.244.0.0/16
conntrack: {maxPerCore: 0, min: 0}
oomScoreAdj: 0
K
    mkfifo "$bed/control"
    exec 7<>"$bed/control"
    for component in etcd apiserver controller-manager scheduler containerd; do begin $component; done
    until ctr -a "$bed/containerd/sock" -n k8s.io images import "$core/images.tar" >>ctr.log 2>&1; do sleep .1; done
    until kubectl get --raw /readyz >/dev/null 2>&1; do sleep .1; done
    begin kubelet
    begin proxy
    until kubectl get node n1 2>/dev/null | grep -q ' Ready'; do sleep .1; done
    until kubectl -n default get serviceaccount default >/dev/null 2>&1; do sleep .1; done
    touch "$bed/READY"
    # Orders from outside. Bash reaps whoever ends meanwhile.
    while :; do
        read -r -t 1 -u 7 verb component answer || continue
        obey "$verb" "$component"
        echo $? >"$bed/answers/$answer.part"
        mv "$bed/answers/$answer.part" "$bed/answers/$answer"
    done
}

# Outside --------------------------------------------------------------------------------------------------------------

kubectl() {
    "$core/kubectl" --kubeconfig "${kubeconfig:-$pki/bed.conf}" "$@"
}

# Waits until everything of the bed has ended, then cleans up, unless somebody else did meanwhile.
clean() {
    exec 9>>"$lock"
    flock ${1:+-w "$1"} 9 || die "$name does not end"
    [ "$lock" -ef /proc/self/fd/9 ] || return 0
    remove_cgroups
    rm -rf "$bed"
    rm -f "$lock"
    exec 9>&-
}

up() {
    [ "$(id -u)" -eq 0 ] || die "the bed needs root"
    packages
    build core
    mkdir -p "$home/beds"
    while :; do
        exec 9>>"$lock"
        flock -n 9 || die "$name is up already"
        [ "$lock" -ef /proc/self/fd/9 ] && break
    done
    remove_cgroups
    rm -rf "$bed"
    mkdir -p "$bed"
    (make_pki) >"$bed/pki.log" 2>&1 || die "no certificates: $(tail -n 3 "$bed/pki.log")"
    make_cgroups
    # Whatever ends the first process ends all of it: its namespaces go with it.
    ROLLBACK_BED=$name setsid unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc \
        "$script" inner "$name" >"$bed/inner.log" 2>&1 </dev/null &
    local outer=$!
    # The lock is held for as long as anything of the bed lives; who waits for it cleans up.
    setsid "$script" clean "$name" >/dev/null 2>&1 </dev/null 9>&- &
    echo $! >"$bed/cleaner.pid"
    local tries first
    for tries in $(seq 600); do
        if [ -f "$bed/READY" ]; then
            return 0
        fi
        first=$(pgrep -P "$outer" || true)
        [ -z "$first" ] || echo "$first" >"$bed/first.pid"
        kill -0 "$outer" 2>/dev/null || break
        sleep .1
    done
    tail -n 5 "$bed"/inner.log "$bed"/log/*.log >&2 || true
    kill -9 "$outer" 2>/dev/null || true
    die "$name is not ready after $((tries / 10)) s"
}

down() {
    [ -e "$lock" ] || return 0
    [ ! -f "$bed/first.pid" ] || kill -9 "$(cat "$bed/first.pid")" 2>/dev/null || true
    clean 30
}

there() {
    [ -f "$bed/READY" ] || die "there is no bed $name: $script up $name"
}

# order VERB COMPONENT: has it done inside, and waits for it.
order() {
    local answer=$$.$RANDOM tries
    there
    echo "$1 $2 $answer" >"$bed/control"
    for tries in $(seq 300); do
        if [ -f "$bed/answers/$answer" ]; then
            return "$(cat "$bed/answers/$answer")"
        fi
        sleep .05
    done
    die "$name does not answer: $1 $2"
}

inside() {
    there
    nsenter --net="/proc/$(cat "$bed/first.pid")/ns/net" "$@"
}

# await WHAT COMMAND…: until the command succeeds.
await() {
    local what=$1 tries
    shift
    for tries in $(seq 300); do
        "$@" >/dev/null 2>&1 && return 0
        sleep .1
    done
    die "$name: $what is not ready: see $bed/log"
}

# ready COMPONENT: waits until it answers.
ready() {
    case $1 in
    apiserver) await "$1" inside "$core/kubectl" --kubeconfig "$pki/bed.conf" get --raw /readyz ;;
    etcd) await "$1" inside curl -sf http://127.0.0.1:2379/health ;;
    controller-manager) await "$1" inside curl -sfk https://127.0.0.1:10257/healthz ;;
    scheduler) await "$1" inside curl -sfk https://127.0.0.1:10259/healthz ;;
    kubelet) await "$1" inside curl -sf http://127.0.0.1:10248/healthz ;;
    proxy) await "$1" inside curl -sf http://127.0.0.1:10256/healthz ;;
    containerd) await "$1" ctr -a "$bed/containerd/sock" version ;;
    flagger) await "$1" inside curl -sf http://127.0.0.1:10180/healthz ;;
    argo-rollouts) await "$1" inside curl -sf http://127.0.0.1:10191/healthz ;;
    prometheus) await "$1" inside curl -sf http://127.0.0.1:9090/-/ready ;;
    esac
}

# apply FILE…: definitions, and waits until they are served.
apply() {
    local file
    for file in "$@"; do
        inside "$core/kubectl" --kubeconfig "$pki/bed.conf" apply --server-side -f "$file" >>"$bed/log/apply.log" 2>&1 ||
            die "$(tail -n 5 "$bed/log/apply.log")"
        inside "$core/kubectl" --kubeconfig "$pki/bed.conf" wait --for condition=Established --timeout 30s -f "$file" \
            >>"$bed/log/apply.log" 2>&1 || die "$(tail -n 5 "$bed/log/apply.log")"
    done
}

with() {
    there
    case $1 in
    crds) apply "$beds/crds.yaml" ;;
    helm) build helm ;; # `x` finds it
    kwok)
        build kwok
        order start kwok
        ;;
    flagger)
        build flagger
        apply "$(built flagger)/crds.yaml"
        order start flagger
        ready flagger
        ;;
    argo-rollouts)
        build argo
        apply "$(built argo)/crds.yaml"
        order start argo-rollouts
        ready argo-rollouts
        ;;
    prometheus)
        command -v prometheus >/dev/null || apt-get -qq install --no-install-recommends prometheus
        cat >"$bed/prometheus.yaml" <<K
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- {job_name: pods, file_sd_configs: [{files: [$bed/targets.json]}]}
K
        order start targets
        order start prometheus
        ready prometheus
        ;;
    *) die "with what? flagger, argo-rollouts, kwok, prometheus, helm, crds" ;;
    esac
}

image() {
    local tag=$1 tar
    shift
    there
    tar=$(mktemp -d)
    {
        printf '%s' "$tag"
        printf ' %s' "$@"
        echo
    } >"$tar/images"
    "$beds/image.sh" "$core/server" "$tar/images.tar" "$tar/images"
    ctr -a "$bed/containerd/sock" -n k8s.io images import "$tar/images.tar"
    rm -rf "$tar"
}

compact() {
    local revision
    # Of the last revision that somebody has seen, too, what comes after it is gone.
    for revision in 1 2; do
        inside curl -sf http://127.0.0.1:2379/v3/kv/put -d '{"key":"YmVk","value":"YmVk"}' >/dev/null
    done
    revision=$(inside curl -sf http://127.0.0.1:2379/v3/kv/range -d '{"key":"AA=="}' | grep -o '"revision":"[0-9]*"' | grep -o '[0-9]*')
    inside curl -sf http://127.0.0.1:2379/v3/kv/compaction -d "{\"revision\":\"$revision\",\"physical\":true}" >/dev/null
    echo "$revision"
}

# Everything that could be left of it, a line each.
left() {
    local process
    for process in /proc/[0-9]*; do
        # Its children are marked by their environment, its pods by their cgroup.
        if { tr '\0' '\n' <"$process/environ"; } 2>/dev/null | grep -qsx "ROLLBACK_BED=$name" ||
            grep -qs "/bed-$name\(/\|\$\)" "$process/cgroup"; then
            echo "process ${process#/proc/} $({ tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null | cut -c1-120)"
        fi
    done
    awk -v at="$bed" 'index($5, at "/") == 1 { print "mount", $5 }' /proc/self/mountinfo
    find $(hierarchies) -mindepth 1 -maxdepth 1 -name "bed-$name" -printf 'cgroup %p\n'
    # On the machine itself, also where this is called from inside another bed: that one's cleaner stands outside.
    local network=/proc/self/ns/net
    [ -z "${ROLLBACK_BED_NAME:-}" ] || network=/proc/$(cat "$home/beds/$ROLLBACK_BED_NAME/cleaner.pid")/ns/net
    nsenter --net="$network" ip -o link | awk '$2 ~ /^(up[01]|cni0)[@:]/ { print "interface", $2 }'
    nsenter --net="$network" iptables-save 2>/dev/null | grep -E '^:(KUBE|CNI)-' | sed 's/^/iptables /' || true
    [ ! -e "$bed" ] || echo "files $bed"
    [ ! -e "$lock" ] || echo "lock $lock"
}

# ----------------------------------------------------------------------------------------------------------------------

[ $# -ge 1 ] || usage
verb=$1
shift
if [ "$verb" = build ]; then
    build "${@:-core}"
    exit
fi
if [ "$verb" = packages ]; then
    packages
    exit
fi
[ $# -ge 1 ] || usage
name=$1
shift
[[ $name =~ ^[a-z0-9-]{1,32}$ ]] || die "a bed's name has up to 32 of a-z, 0-9 and -: not $name"
bed=$home/beds/$name
pki=$bed/pki
lock=$home/beds/$name.lock
core=$(built core)

case $verb in
inner)
    inner
    ;;
targets) targets ;;
clean) clean ;;
up) up ;;
down) down ;;
x)
    there
    KUBECONFIG=$pki/admin.conf ROLLBACK_BED_NAME=$name ROLLBACK_BED_DIR=$bed PATH=$core:$(built helm):$PATH \
        exec nsenter --net="/proc/$(cat "$bed/first.pid")/ns/net" "$@"
    ;;
left)
    remains=$(left)
    [ -z "$remains" ] || die "$remains"
    ;;
with) for what in "$@"; do with "$what"; done ;;
image) image "$@" ;;
stop | start | kill | suspend | resume) order "$verb" "$1" ;;
restart)
    order stop "$1"
    order start "$1"
    ready "$1"
    ;;
compact) compact ;;
token) inside "$script" token-inside "$name" "$@" ;;
token-inside) token "$@" ;;
*) usage ;;
esac
