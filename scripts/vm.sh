#!/bin/sh
# vm.sh
# Boots a virtual machine with systemd and cgroup v2, made from Debian's packages
# alone, and has an ordinary user who logs in there test podrun: see
# integration/vm. It ends with a line of counts.
#
# PODRUN_TEST_WITHOUT waives needs by name, see internal/need: Debian 12's kernel
# has no restriction of user namespaces by AppArmor.
. "$(dirname "$0")/lib.sh"

export PODRUN_TEST_WITHOUT="${PODRUN_TEST_WITHOUT-kernel.apparmor_restrict_unprivileged_userns}"
log=$top/build/logs/vm.log
mkdir -p build/logs build/vm
begin=$(date +%s)
image=$(scripts/vm-image.sh)
say "the image is there after $(($(date +%s) - begin)) s"

# Compiled here: in there it would take hours. What the tests read comes along.
static='-linkmode external -extldflags=-static'
for package in integration integration/vm; do
	"$GO" test -c -trimpath -o build/vm/ -tags "$TAGS" -buildvcs=false -ldflags "$static" "./$package"
done
stage=$(mktemp -d /tmp/podrun-XXXXXX)
at_exit 'rm -rf "$stage"'
mkdir "$stage/bin" "$stage/src"
cp -r bin/podrun build/registry build/image "$stage/bin/"
cp build/vm/integration.test "$stage/"
tar --exclude=./.git --exclude=./build --exclude=./bin --exclude=./.vagrant -cf - . | tar -xf - -C "$stage/src"
chmod -R a+rX "$stage"
# The machine sees the archive as a disk.
tar --owner=0 --group=0 -C "$stage" -cf "$stage/payload.tar" bin src integration.test

ok=0
TMPDIR=$stage PODRUN_VM_IMAGE=$image PODRUN_VM_PAYLOAD=$stage/payload.tar \
	build/vm/vm.test -test.v -test.timeout="$([ -n "${PODRUN_VM_TESTS:-}" ] && echo 4h || echo 45m)" ${PODRUN_VM_RUN:+-test.run="$PODRUN_VM_RUN"} >"$log" 2>&1 || ok=1
passed=$(grep -c '^ *--- PASS' "$log" || true)
failed=$(grep -c '^ *--- FAIL' "$log" || true)
# A machine that does not boot leaves no FAIL line.
[ "$ok" = 0 ] || [ "$failed" != 0 ] || failed=1
for name in $(sed -n 's/^ *--- SKIP: \([^ ]*\).*/\1/p' "$log"); do
	grep -qx "$name" scripts/skipped-tests || {
		echo "FAIL $name was skipped, and is not in scripts/skipped-tests"
		failed=$((failed + 1))
	}
done
[ "$failed" = 0 ] || {
	grep -vE '^=== (RUN|PAUSE|CONT|NAME)' "$log" | tail -n 150
	echo "(all of it: ${log#"$top"/})"
}
sed -n 's/^--- PASS: \([^ ]*\) (\(.*\)s)/ok   vm-\1 \2 s/p; s/^--- FAIL: \([^ ]*\) (\(.*\)s)/FAIL vm-\1 \2 s/p' "$log"
say "the virtual machine $(grep '^booted' "$log" || echo 'has not booted'), all took $(($(date +%s) - begin)) s"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
