#!/bin/sh
# Replays the session of the README as an ordinary user: its own registry, home
# and runtime directory, and no trace left. "demo.sh session" is the part that
# runs as that user.
if [ "${1:-}" != session ]; then
	. "$(dirname "$0")/lib.sh"
	open_tun
	make_stage
	mkdir "$stage/examples" "$stage/scripts"
	cp bin/podrun build/registry build/serve "$stage/bin/"
	cp examples/pod.yml examples/pod-double.yml "$stage/examples/"
	cp scripts/demo.sh "$stage/scripts/"
	as_user PODRUN_REGISTRY="$stage/bin/registry" \
		"$stage/bin/serve" "$stage/tmp" "$stage/scripts/demo.sh" session
	exit
fi

set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
PATH=$here/bin:$PATH
cd "$here/examples"
node=

finish() {
	code=$?
	trap '' EXIT
	podrun delete pod --all --force >/dev/null 2>&1 || true
	node=${node:-$(node_pid)}
	[ -z "$node" ] || end_node || code=1
	exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

node_pid() { podrun version -o json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p'; }

# end_node ends the node, which would leave by itself a little later, and looks
# whether anything of it is left.
end_node() {
	reaper=$(awk '$1 == "PPid:" { print $2 }' "/proc/$node/status")
	kill "$node"
	for _ in $(seq 100); do
		# Where nobody reaps it, it stays a zombie.
		grep -q '^State:.[^Z]' "/proc/$reaper/status" 2>/dev/null || return 0
		sleep 0.1
	done
	echo "demo: the node or its reaper has not ended" >&2
	return 1
}

# run shows a command and what it prints.
run() {
	printf '\n$ %s\n' "$*"
	"$@"
}

# until_ready waits for a pod to have all its containers running.
until_ready() {
	for _ in $(seq 100); do
		podrun get pod "$1" --no-headers | awk -v want="$2" '$2 == want && $3 == "Running" { ok = 1 } END { exit !ok }' && return
		sleep 0.1
	done
	echo "demo: $1 has not come to run $2" >&2
	podrun describe pod "$1" >&2
	return 1
}

registry=$(sed -n 's/^location = "\([^/]*\)"$/\1/p' "$PODRUN_REGISTRIES_CONF")
echo "As $(id -un), uid $(id -u), busybox from a registry on $registry:"

run podrun apply -f pod.yml
run podrun apply -f pod-double.yml
node=$(node_pid)
until_ready pod 1/1
until_ready pod-double 2/2
run podrun get pods
run podrun ps
id=$(podrun ps | awk '$0 ~ /container-1/ { print $1 }')
run podrun stop "$id"
until_ready pod-double 2/2
sleep 2
run podrun get pods
run podrun ps
run podrun get pods -o wide
run podrun logs pod-double --all-containers --prefix
run podrun delete -f pod.yml --grace-period=1
run podrun delete pod pod-double --now
run podrun get pods
