#!/bin/sh
# bench.sh [--write] [--pulls|--pods|--networks] [ARGUMENT OF bench...]
# Measures podrun beside Debian's podman, as the same ordinary user, in one run:
# pods, pulls of a large image, there beside containerd and curl, too, and
# networks, there beside slirp4netns and pasta. --pods, --pulls and --networks
# do one of the three; --write puts the tables into docs/performance.md.
#
# podman wants things of the machine that podrun does not: shared mounts, and
# /run/systemd/resolve. It gets them in a mount namespace of its own, so that
# the machine stays as it is. A cgroup counts the processor time of everything
# that either of them starts, however it detaches.
if [ "${1:-}" = inside ]; then
	# Root, in the mount namespace. The rest is the user's business.
	shift
	stage=$1 user=$2 group=$3 cgroup=$4
	shift 4
	set -eu
	mount --make-rshared /
	if [ ! -d /run/systemd/resolve ]; then
		mount -t tmpfs tmpfs /run
		mkdir -p /run/systemd/resolve /run/lock
	fi
	if [ -n "${PULLS:-}" ]; then
		# containerd wants root; bench lets the others be the user.
		exec env PATH="$stage/bin:$PATH" PODRUN_REGISTRY="$stage/bin/registry" SERVE_LARGE=1 BENCH_CGROUP="$cgroup" \
			"$stage/bin/serve" "$stage/tmp" sh -c 'echo $$ >"$BENCH_CGROUP/cgroup.procs" && exec bench "$@"' sh \
			-pulls "$PULLS" -user "$user" -stage "$stage" "$@"
	fi
	exec setpriv --reuid="$user" --regid="$group" --init-groups -- env -i \
		PATH="$stage/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" LANG=C.UTF-8 \
		HOME="$stage/home" XDG_RUNTIME_DIR="$stage/run" TMPDIR="$stage/tmp" PODRUN_REGISTRY="$stage/bin/registry" \
		BENCH_CGROUP="$cgroup" \
		"$stage/bin/serve" "$stage/tmp" sh -c 'echo $$ >"$BENCH_CGROUP/cgroup.procs" && exec bench "$@"' sh "$@"
fi

. "$(dirname "$0")/lib.sh"
write= what='pods pulls networks'
while :; do
	case ${1:-} in
	--write) write=1 ;;
	--pods) what=pods ;;
	--pulls) what=pulls ;;
	--networks) what=networks ;;
	*) break ;;
	esac
	shift
done
scripts/setup.sh bench
open_tun
make_stage
cp bin/podrun build/registry build/serve build/bench "$stage/bin/"
mkdir -p "$stage/home/.config/containers"
cat >"$stage/home/.config/containers/containers.conf" <<CONF
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "cni"
CONF
cat >"$stage/home/.config/containers/storage.conf" <<CONF
[storage]
driver = "overlay"
CONF
user=$(id -un)
if is_root; then
	user=$TEST_USER
	chown -R "$user:" "$stage/home"
fi

# cgroup v1 has a hierarchy for processor time, v2 has one for all.
if [ -d /sys/fs/cgroup/cpuacct ]; then
	cgroup=/sys/fs/cgroup/cpuacct/podrun-bench-$$
else
	cgroup=/sys/fs/cgroup/podrun-bench-$$
fi
as_root mkdir "$cgroup"
at_exit 'end_bench'
as_root chown "$user" "$cgroup/cgroup.procs"
end_bench() {
	# What podman leaves running: its network helper and its pause process.
	for pid in $(cat "$cgroup/cgroup.procs"); do
		as_root kill -9 "$pid" 2>/dev/null
	done
	for _ in $(seq 50); do
		as_root rmdir "$cgroup" 2>/dev/null && return
		sleep 0.1
	done
	say "$cgroup is left behind"
}

for table in $what; do
	pulls= networks=
	case $table in
	pulls) pulls=${BENCH_PULLS:-5} ;;
	networks) networks="-networks ${BENCH_NETWORKS:-3}" ;;
	esac
	# shellcheck disable=SC2086
	as_root env PULLS="$pulls" unshare --mount sh "$top/scripts/bench.sh" inside "$stage" "$user" "$(id -gn "$user")" "$cgroup" $networks "$@" | tee "$stage/$table"
	[ -s "$stage/$table" ] || die "no table"
	[ -n "$write" ] || continue
	awk -v table="$stage/$table" -v begin="<!-- table of $table -->" '
		$0 == begin { print; while ((getline line <table) > 0) print line; skip = 1; next }
		/^<!-- end of table -->$/ { skip = 0 }
		!skip { print }
	' docs/performance.md >build/performance.md
	mv build/performance.md docs/performance.md
done
