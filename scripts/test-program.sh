#!/bin/sh
# test-program.sh user|root plain|race|fuzz|soak|load DIRECTORY [TARGET]
# Runs a program of test.sh's stage, as the user or as root, in directories of
# its own, and prints a line of counts and below it what failed. "race" is the
# program built with the race detector; for integration, podrun is.
. "$(dirname "$0")/lib.sh"
who=$1 kind=$2 directory=$3 target=${4:-}
name=$who-$kind-$(printf %s "$directory${target:+-$target}" | tr / -)
log=$logs/$name.log
own=$(mktemp -d "$stage/XXX")
if [ "$who" = user ]; then
	make_home "$own"
else
	# Open to all: what is made to be nobody goes there, too.
	chmod 755 "$own"
	as_root mkdir -m 755 "$own/home" "$own/run" "$own/tmp"
fi

podrun=$stage/bin/podrun
program=$stage/test/${directory##*/}.test
corpus=$stage/src/$directory/testdata/fuzz/$target
# -test.v names every test, which is what is counted.
set -- -test.v -test.timeout=30m ${PODRUN_TEST_RUN:+-test.run="$PODRUN_TEST_RUN"}
case $kind-$directory in
race-integration)
	podrun=$stage/test-race/podrun
	not=$(sed -n 's/^\(Test[^ ]*\) .*/\1/p' scripts/not-raced | paste -sd '|')
	set -- "$@" -test.parallel=4 -test.skip="^(${not:-none})\$"
	;;
race-*) program=$stage/test-race/${directory##*/}.test ;;
*-integration) set -- "$@" -test.parallel=4 ;; # they wait more than they compute
fuzz-*)
	mkdir -p "$corpus"
	is_root && chown "$TEST_USER" "$corpus"
	set -- -test.v -test.run='^$' -test.fuzz="^$target\$" -test.fuzztime="${FUZZTIME:-30s}" -test.parallel=1 -test.fuzzcachedir="$own/cache"
	;;
esac
[ "$kind" != soak ] || set -- "$@" -test.run='^(TestSoak|TestChaos)$' -test.timeout=2h
# One after the other: they are measured.
[ "$kind" != load ] || set -- "$@" -test.run='^(TestManyPods|TestLoad.*)$' -test.parallel=1 -test.timeout=1h

# A race is told by exit status 66, or in the node's log, which the tests read.
# What has raced sleeps for a second at its end, unless told not to.
set -- PODRUN_BIN="$podrun" PODRUN_REGISTRY="$stage/bin/registry" PODRUN_TEST_IMAGES="$stage/bin/image" \
	PODRUN_SOAK="${PODRUN_SOAK:-}" PODRUN_SOAK_SEED="${PODRUN_SOAK_SEED:-}" PODRUN_LOAD="${PODRUN_LOAD:-}" GORACE=atexit_sleep_ms=0 "$program" "$@"
from=$(date +%s)
ok=ok
cd "$stage/src/$directory"
if [ "$who" = user ]; then
	as_user "$@" >"$log" 2>&1 || ok=FAIL
else
	# What root mounts is not to be in the nodes of the other lane.
	as_root unshare --mount env HOME="$own/home" XDG_RUNTIME_DIR= TMPDIR="$own/tmp" CI="${CI:-}" \
		PODRUN_TEST_WITHOUT="${PODRUN_TEST_WITHOUT:-}" "$@" >"$log" 2>&1 || ok=FAIL
fi
passed=$(grep -ac '^ *--- PASS' "$log" || true)
failed=$(grep -ac '^ *--- FAIL' "$log" || true)
if [ $kind-$ok = fuzz-FAIL ] && ! grep -aq 'failure while\|Failing input' "$log" && grep -aq '^ *context deadline exceeded' "$log"; then
	ok=ok passed=1 failed=0 # no failure, https://go.dev/issue/75804; mended in Go 1.27
fi
# A panic or a hang leaves no FAIL line.
[ $ok = ok ] || [ "$failed" != 0 ] || failed=1
left=$(find "$own/tmp" "$own/run" -mindepth 1 -maxdepth 2 | head -20)
[ -z "$left" ] || ok=FAIL failed=$((failed + 1))
echo "$passed" >"$logs/$name.passed"
echo "$failed" >"$logs/$name.failed"

# show_failure prints what failed tests said, and not what all others did.
show_failure() {
	awk '
		NR == FNR { if ($1 == "---" && $2 == "FAIL:") bad[$3] = 1; next }
		/^=== (RUN|CONT|NAME|PAUSE)/ { show = bad[$3]; next }
		/^ *--- (PASS|SKIP)/ { show = 0 }
		/^ *--- FAIL|panic:|fatal error:|DATA RACE/ { show = 1 }
		show
	' "$log" "$log" | head -n 100
	[ -z "$left" ] || printf 'left files:\n%s\n' "$left"
	[ "$kind" != fuzz ] || {
		mkdir -p "$top/$directory/testdata/fuzz/$target"
		find "$corpus" -type f -newer "$own/home" -exec head -c 2000 {} \; -exec cp {} "$top/$directory/testdata/fuzz/$target/" \;
	}
	echo "(all of it: ${log#"$top"/})"
}
{
	printf '%-4s %-44s %4d passed %3d failed %4d s\n' "$ok" "$name" "$passed" "$failed" "$(($(date +%s) - from))"
	[ "$kind" != load ] || grep -a '_test.go:.*\(: .*, cpu \| at most$\)' "$log" || true
	[ $ok = ok ] || show_failure | sed 's/^/    /'
} >"$log.said"
flock "$stage/said" cat "$log.said"
rm "$log.said"
[ $ok = ok ]
