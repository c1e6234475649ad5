#!/bin/sh
# vm-image.sh
# Prints the directory of an image of Debian 12 with systemd, cgroup v2 alone and
# a user, vagrant, whose session is delegated; what a virtual machine is started
# from, see scripts/vm.sh. It is made of Debian's packages when it is not there:
#
#   disk.raw          one partition, bootable, sparse
#   vmlinuz, initrd   its kernel, to be started without a boot loader
#   key, key.pub      who may log in as vagrant and as root
#
# It is kept below ${XDG_CACHE_HOME:-~/.cache}/podrun-vm, named for a hash of what
# it is made from, which is this script; the ones before it are removed. Packages
# come from where apt on this machine has them from. Two that make it at a time
# make it once.
if [ "${1:-}" = make ]; then
	# Root's part: in the current directory.
	set -eu
	umask 022
	owner=$2 main=$3 security=$4
	root=$PWD/root
	trap 'rm -rf "$root"' EXIT

	packages=systemd,systemd-sysv,libpam-systemd,dbus,dbus-user-session,udev,kmod,linux-image-cloud-amd64,initramfs-tools
	packages=$packages,busybox-static,uidmap,iproute2,procps,netbase,openssh-server,sudo,passwd,login,rsync,make,zstd,e2fsprogs,grub-pc-bin,grub-common,systemd-resolved,dnsmasq-base
	cat >modules.hook <<-'HOOK'
		set -eu
		mkdir -p "$1/etc/initramfs-tools/conf.d"
		printf 'MODULES=list\nCOMPRESS=zstd\nRESUME=none\n' >"$1/etc/initramfs-tools/conf.d/podrun"
		printf '%s\n' virtio_pci virtio_blk ext4 virtio_net >"$1/etc/initramfs-tools/modules"
	HOOK
	chmod 755 modules.hook
	# No documents, and no care for a power cut: this is made anew.
	mmdebstrap --variant=minbase --include="$packages" \
		--aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='force-unsafe-io' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
		--essential-hook="$PWD/modules.hook" bookworm "$root" \
		"deb $main bookworm main" "deb $main bookworm-updates main" "deb $security bookworm-security main"

	echo podrun-vm >"$root/etc/hostname"
	printf '127.0.0.1 localhost podrun-vm\n::1 localhost\n' >"$root/etc/hosts"
	echo 'LABEL=podrun-root / ext4 rw,noatime 0 1' >"$root/etc/fstab"
	echo uninitialized >"$root/etc/machine-id"
	cat >"$root/etc/systemd/network/50-dhcp.network" <<-'NETWORK'
		[Match]
		Type=ether
		Kind=!*
		[Network]
		DHCP=ipv4
		LinkLocalAddressing=no
		[DHCPv4]
		ClientIdentifier=mac
	NETWORK
	rm -f "$root/etc/resolv.conf"
	echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf" # qemu's
	printf '%s\n' overlay br_netfilter veth tun nf_tables >"$root/etc/modules-load.d/podrun.conf"
	# As the README has it: systemd gives a session memory and pids, limits on cpu want the rest.
	mkdir -p "$root/etc/systemd/system/user@.service.d"
	printf '[Service]\nDelegate=cpu cpuset io memory pids\n' >"$root/etc/systemd/system/user@.service.d/delegate.conf"
	chroot "$root" systemctl -q disable systemd-resolved # until a test wants it
	# Nothing of a machine that stays.
	chroot "$root" systemctl -q enable systemd-networkd serial-getty@ttyS0.service
	chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
		fstrim.timer systemd-networkd-wait-online.service getty@tty1.service
	rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*

	chroot "$root" useradd -m -s /bin/bash vagrant
	for kind in uid gid; do
		grep -q ^vagrant: "$root/etc/sub$kind" || echo vagrant:100000:65536 >>"$root/etc/sub$kind"
	done
	echo 'vagrant ALL=(ALL) NOPASSWD:ALL' >"$root/etc/sudoers.d/vagrant"
	chmod 440 "$root/etc/sudoers.d/vagrant"
	rm -f key key.pub
	ssh-keygen -q -t ed25519 -N '' -C podrun-vm -f key
	for home in root home/vagrant; do
		mkdir -p -m 700 "$root/$home/.ssh"
		cp key.pub "$root/$home/.ssh/authorized_keys"
	done
	chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
	printf 'UseDNS no\nGSSAPIAuthentication no\nPasswordAuthentication no\n' >"$root/etc/ssh/sshd_config.d/podrun.conf"

	version=$(ls "$root/boot" | sed -n 's/^vmlinuz-//p' | sort -V | tail -n 1)
	cp "$root/boot/vmlinuz-$version" vmlinuz
	cp "$root/boot/initrd.img-$version" initrd
	mkdir -p "$root/boot/grub"
	cat >"$root/boot/grub/grub.cfg" <<-GRUB
		set timeout=0
		linux /boot/vmlinuz-$version root=LABEL=podrun-root ro console=tty0 console=ttyS0 mitigations=off net.ifnames=0 quiet
		initrd /boot/initrd.img-$version
		boot
	GRUB
	chroot "$root" grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/grub/core.img \
		biosdisk part_msdos ext2 normal linux configfile
	# GRUB wants the first sectors: its own before the partition, which begins at 1 MiB.
	megabytes=4096
	truncate -s "${megabytes}M" disk.raw
	printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk -q disk.raw
	mke2fs -q -t ext4 -L podrun-root -m 0 -O ^metadata_csum_seed,^orphan_file -E offset=1048576,lazy_itable_init=1 \
		-d "$root" disk.raw $(((megabytes - 1) * 1024))k
	dd if="$root/usr/lib/grub/i386-pc/boot.img" of=disk.raw bs=440 count=1 conv=notrunc status=none
	dd if="$root/boot/grub/core.img" of=disk.raw bs=512 seek=1 conv=notrunc status=none
	rm modules.hook
	chown "$owner" disk.raw vmlinuz initrd key key.pub
	chmod 600 key
	chmod 644 vmlinuz initrd
	exit
fi

. "$(dirname "$0")/lib.sh"
hash=$(sha256sum scripts/vm-image.sh | cut -c 1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/podrun-vm
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ ! -e "$cache/$hash" ]; then
	scripts/setup.sh vm
	# mirror CODENAME is where apt on this machine has a suite from.
	mirror() {
		apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
			awk -v suite="$1" '$2 == suite { print $1; exit }'
	}
	main=$(mirror bookworm)
	security=$(mirror bookworm-security)
	[ -n "$main" ] && [ -n "$security" ] || die "apt on this machine has no bookworm and bookworm-security: the image is made of Debian 12"
	say "making an image of Debian 12 in $cache"
	from=$(date +%s)
	new=$cache/new-$$
	mkdir "$new"
	at_exit "as_root rm -rf '$new'"
	(cd "$new" && as_root sh "$top/scripts/vm-image.sh" make "$(id -u):$(id -g)" "$main" "$security") >"$cache/log" 2>&1 9>&- || {
		tail -n 30 "$cache/log" >&2
		die "cannot make the image; all of it: $cache/log"
	}
	find "$cache" -mindepth 1 -maxdepth 1 ! -path "$new" -type d -exec rm -rf {} +
	mv "$new" "$cache/$hash"
	say "made it in $(($(date +%s) - from)) s, $(du -sh "$cache/$hash" | cut -f 1)"
fi
echo "$cache/$hash"
