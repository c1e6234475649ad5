#!/bin/sh
# setup.sh [bench|vm|vagrant]
# Puts in place what building and testing need on Debian 12 with Go, or what the
# benchmark, the virtual machine or Vagrant need besides. What is there already
# is left alone, and then nothing is printed.
. "$(dirname "$0")/lib.sh"

command -v "${GO:-go}" >/dev/null || die "Go is missing; see https://go.dev/doc/install"

packages='gcc libc6-dev pkg-config libseccomp-dev uidmap busybox-static iproute2 util-linux skopeo'
machine='mmdebstrap qemu-system-x86 qemu-utils e2fsprogs fdisk openssh-client'
case ${1:-} in
bench) packages="$packages podman runc slirp4netns passt catatonit containernetworking-plugins iptables containerd curl zstd e2fsprogs" ;;
vm) packages="$packages $machine" ;;
vagrant) packages="$packages $machine vagrant vagrant-libvirt libvirt-daemon-system libvirt-clients dnsmasq-base rsync" ;;
esac

missing=
for p in $packages; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
done
if [ -n "$missing" ]; then
	say "installing$missing"
	log=$(mktemp)
	at_exit "rm -f $log"
	{
		as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
			as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install $missing
	} >"$log" 2>&1 || {
		cat "$log" >&2
		die "cannot install$missing"
	}
fi

# Root tests as an ordinary user of its own, who has no password and no session.
user=$(id -un)
if is_root; then
	user=$TEST_USER
	getent passwd "$user" >/dev/null || {
		say "making the user $user"
		useradd --create-home --shell /bin/sh "$user"
	}
fi
for kind in uid gid; do
	grep -q "^$user:" "/etc/sub$kind" 2>/dev/null || {
		# Above all ranges that are given away.
		from=$(awk -F: 'BEGIN { n = 100000 } $2 + $3 > n { n = $2 + $3 } END { print n }' "/etc/sub$kind" 2>/dev/null || echo 100000)
		say "giving $user the subordinate ${kind}s from $from on"
		as_root usermod "--add-sub${kind}s" "$from-$((from + 65535))" "$user"
	}
done
