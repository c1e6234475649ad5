#!/bin/sh
# vagrant.sh
# Does what a person with the Vagrantfile does, "vagrant up" and "vagrant ssh",
# on a local box made from the image of vm-image.sh and without virtualisation by
# the processor, and runs a part of the tests there. "vagrant.sh inside" is the
# part with a libvirtd of its own: in namespaces, so that neither its networks nor
# its processes nor its files are this machine's.
if [ "${1:-}" = inside ]; then
	set -eu
	stage=$2
	ip link set lo up
	for dir in /run/libvirt /var/lib/libvirt /var/log/libvirt /etc/libvirt/qemu; do
		mkdir -p "$dir" "$stage/libvirt$dir"
		mount --bind "$stage/libvirt$dir" "$dir"
	done
	# Nor does it reach systemd, which would put the machine where we are not, or
	# leave cgroups.
	for dir in /etc/libvirt/storage /run/lock /run/dbus /run/systemd; do
		mkdir -p "$dir"
		mount -t tmpfs tmpfs "$dir"
	done
	umount -l -R /sys/fs/cgroup
	virtlogd -d
	libvirtd -d
	cd "$stage/src"
	# Vagrant waits for a terminal where it finds one.
	exec </dev/null
	set -x
	vagrant box add --name podrun-vm "$stage/podrun-vm.box"
	vagrant up --provider=libvirt
	vagrant ssh -c 'systemctl --user is-system-running --wait; cat /proc/self/cgroup; podrun=/vagrant/programs/podrun; $podrun doctor'
	vagrant ssh -c 'cd /vagrant/integration && PODRUN_BIN=/vagrant/programs/podrun PODRUN_REGISTRY=/vagrant/programs/registry \
		PODRUN_TEST_IMAGES=/vagrant/programs/image PODRUN_TEST_KNOWN=no PODRUN_TEST_PATIENCE=10m PODRUN_TEST_DELEGATED=yes \
		/vagrant/programs/integration.test -test.v -test.timeout=30m -test.run="^(TestSession|TestLimits)\$"'
	vagrant destroy -f
	exit
fi

. "$(dirname "$0")/lib.sh"
scripts/setup.sh vagrant
log=$top/build/logs/vagrant.log
mkdir -p build/logs build/vm
begin=$(date +%s)
image=$(scripts/vm-image.sh)
"$GO" test -c -trimpath -o build/vm/ -tags "$TAGS" -buildvcs=false -ldflags '-linkmode external -extldflags=-static' ./integration

stage=$(mktemp -d /tmp/podrun-XXXXXX)
at_exit 'as_root rm -rf "$stage"'
chmod 755 "$stage"
mkdir "$stage/box" "$stage/src" "$stage/home"
tar --exclude=./.git --exclude=./build --exclude=./bin --exclude=./.vagrant -cf - . | tar -xf - -C "$stage/src"
mkdir "$stage/src/programs"
cp -r bin/podrun build/registry build/image build/vm/integration.test "$stage/src/programs/"
cat >"$stage/box/metadata.json" <<'METADATA'
{"provider": "libvirt", "format": "qcow2", "virtual_size": 4}
METADATA
cat >"$stage/box/Vagrantfile" <<'VAGRANTFILE'
Vagrant.configure("2") do |config|
  config.ssh.private_key_path = File.expand_path("../key", __FILE__)
end
VAGRANTFILE
cp "$image/key" "$stage/box/"
qemu-img convert -O qcow2 "$image/disk.raw" "$stage/box/box.img"
tar -C "$stage/box" -cf "$stage/podrun-vm.box" metadata.json Vagrantfile key box.img
rm -rf "$stage/box"

ok=0
as_root unshare --net --mount --pid --fork --kill-child --mount-proc env HOME="$stage/home" VAGRANT_HOME="$stage/home/vagrant.d" \
	VAGRANT_CHECKPOINT_DISABLE=1 PODRUN_VAGRANT_BOX=podrun-vm PODRUN_VAGRANT_TCG=1 \
	sh "$top/scripts/vagrant.sh" inside "$stage" >"$log" 2>&1 || ok=1
passed=$(grep -c '^ *--- PASS' "$log" || true)
failed=$(grep -c '^ *--- FAIL' "$log" || true)
[ "$ok" = 0 ] || [ "$failed" != 0 ] || failed=1
[ "$failed" = 0 ] || {
	tail -n 100 "$log"
	echo "(all of it: ${log#"$top"/})"
}
say "vagrant took $(($(date +%s) - begin)) s"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
