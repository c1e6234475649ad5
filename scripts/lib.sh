# What the scripts share; to be sourced.
#
# Several commands want an ordinary user. Whoever is one already is it; root
# makes podrun-test and becomes it. As such a user cannot look into root's home,
# what it is to run is copied to a stage: a directory of its own below /tmp with
# home, runtime directory and temporary files, which is removed at the end.

set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"

TEST_USER=podrun-test

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

is_root() { [ "$(id -u)" = 0 ]; }

# as_root CMD... runs CMD with root's rights.
as_root() {
	if is_root; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "\"$*\" needs root, and there is no sudo; run it as root"
	fi
}

# to_user is the prefix of a command that runs as the ordinary user.
if is_root; then
	to_user="setpriv --reuid=$TEST_USER --regid=$TEST_USER --init-groups --"
else
	to_user=
fi

cleanups=
# at_exit CMD has CMD run when the script ends, the last one first.
at_exit() {
	cleanups="$1
$cleanups"
}
run_cleanups() {
	code=$?
	trap '' EXIT INT TERM HUP
	set +e
	eval "$cleanups"
	exit "$code"
}
trap run_cleanups EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# make_stage sets $stage.
make_stage() {
	stage=$(mktemp -d /tmp/podrun-XXXXXX)
	at_exit 'remove_stage'
	mkdir "$stage/bin"
	make_home "$stage"
}
# make_home DIR gives the user a home, a runtime directory and one for temporary
# files in DIR, for as_user.
make_home() {
	own=$1
	chmod 755 "$own"
	mkdir "$own/home" "$own/run" "$own/tmp"
	chmod 700 "$own/home" "$own/run" "$own/tmp"
	if is_root; then
		chown "$TEST_USER:" "$own/home" "$own/run" "$own/tmp"
	fi
}
remove_stage() {
	# A run that was interrupted leaves nodes, and they their pods: whatever has
	# the stage in its environment, arguments or mounts.
	for file in $(grep -slF "$stage" /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo); do
		pid=${file#/proc/}
		pid=${pid%/*}
		# grep has found itself, too, and has gone. Without sudo what is root's stays.
		[ "$pid" = $$ ] || kill -9 "$pid" 2>/dev/null || ! [ -e "/proc/$pid" ] || (as_root kill -9 "$pid") 2>/dev/null
	done
	# Layers of images belong to the user's subordinate IDs.
	rm -rf "$stage" 2>/dev/null || unshare --map-auto --map-root-user rm -rf "$stage" || rm -rf "$stage"
}

# as_user CMD... runs CMD as the ordinary user in an environment that has
# nothing but what is named here, as a login without a session would have.
as_user() {
	$to_user env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
		HOME="$own/home" USER="${to_user:+$TEST_USER}" XDG_RUNTIME_DIR="$own/run" TMPDIR="$own/tmp" \
		PODRUN_TEST_WITHOUT="${PODRUN_TEST_WITHOUT:-}" CI="${CI:-}" "$@"
}

# The way out of the pod network is a TAP device. Debian's udev lets every user
# open /dev/net/tun; where there is no udev, we do, until the script ends.
open_tun() {
	[ -c /dev/net/tun ] || {
		say "/dev/net/tun is missing: pods would have no way out; making it"
		as_root mkdir -p /dev/net
		as_root mknod /dev/net/tun c 10 200
		at_exit 'as_root rm -f /dev/net/tun'
	}
	tun_mode=$(stat -c %a /dev/net/tun)
	case $tun_mode in
	*6 | *7) return ;;
	esac
	say "/dev/net/tun has mode $tun_mode, users cannot open it and pods would have no way out; 666 until this ends"
	as_root chmod 666 /dev/net/tun
	at_exit "as_root chmod $tun_mode /dev/net/tun"
}
