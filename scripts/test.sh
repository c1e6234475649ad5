#!/bin/sh
# test.sh unit|integration|race|test|soak
# Builds the tests as whoever calls, then runs what was built twice: as an
# ordinary user, and as root. It ends with a line of counts.
#
# PODRUN_TEST_WITHOUT=overlay,cgroup waives needs by name, see internal/need.
# PODRUN_TEST_AS=user (or root) runs one of the two only.
. "$(dirname "$0")/lib.sh"

wanted=${1:-test}
static='-linkmode external -extldflags=-static'
logs=$top/build/logs
mkdir -p "$logs"

# build_tests DIR [-race] PACKAGE... builds a test program for each package into
# DIR; -trimpath, as the program has it: what both link is compiled once.
build_tests() {
	dir=$1 race=
	shift
	[ "$1" != -race ] || {
		race=-race
		shift
	}
	"$GO" test -c -trimpath -o "$dir/" $race -tags "$TAGS" -buildvcs=false -ldflags "$static" $(printf './%s ' "$@")
}

# All packages with tests, as "DIRECTORY NAME": NAME.test runs in DIRECTORY.
tested=$("$GO" list -tags "$TAGS" -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./... | sed "s|^$top/||")
units=$(printf '%s\n' "$tested" | grep -v '^integration')

say "building the tests"
rm -rf build/test build/test-race
mkdir -p build/test build/test-race
case $wanted in
unit | test)
	build_tests build/test $units
	# What compares podrun with Kubernetes is a module of its own.
	CGO_ENABLED=0 "$GO" -C pod/upstream test -c -o "$top/build/test/" -buildvcs=false .
	;;
esac
case $wanted in
race | test)
	build_tests build/test-race -race $units
	"$GO" build -trimpath -o build/test-race/podrun -race -tags "$TAGS" -buildvcs=false -ldflags "$static" ./cmd/podrun
	;;
esac
case $wanted in
integration | race | test | soak) build_tests build/test integration ;;
esac

# The stage has the sources too: tests read testdata, docs and their neighbours.
make_stage
mkdir "$stage/src"
tar --exclude=./.git --exclude=./build --exclude=./bin --exclude=./.vagrant -cf - . | tar -xf - -C "$stage/src"
cp -r build/test build/test-race "$stage/"
cp -r bin/podrun build/registry build/cni build/image "$stage/bin/"
chmod -R a+rX "$stage/src" "$stage/bin" "$stage"/test*
is_root || chmod 755 "$stage/src"
open_tun

passed=0
failed=0
skipped=
# run_test WHO PROGRAMS DIRECTORY FLAG... runs one test program and counts.
run_test() {
	who=$1 programs=$2 directory=$3
	shift 3
	name=$who-${programs#test}-$(printf %s "$directory" | tr / -)
	name=$(printf %s "$name" | sed 's/--*/-/g')
	log=$logs/$name.log
	podrun=$stage/bin/podrun
	if [ "$programs $directory" = "test-race integration" ]; then
		# What is to race is podrun.
		podrun=$stage/test-race/podrun programs=test
	fi
	from=$(date +%s)
	ok=0
	# -test.v names every test, which is what is counted.
	set -- PODRUN_BIN="$podrun" PODRUN_REGISTRY="$stage/bin/registry" PODRUN_TEST_IMAGES="$stage/bin/image" \
		PODRUN_SOAK="${PODRUN_SOAK:-}" \
		"$stage/$programs/${directory##*/}.test" -test.v -test.timeout=15m "$@"
	if [ "$who" = user ]; then
		(cd "$stage/src/$directory" && as_user "$@") >"$log" 2>&1 || ok=1
	else
		mkdir -p "$stage/root"
		(cd "$stage/src/$directory" && as_root env HOME="$stage/root" XDG_RUNTIME_DIR= TMPDIR="$stage/root" CI="${CI:-}" \
			PODRUN_TEST_WITHOUT="${PODRUN_TEST_WITHOUT:-}" "$@") >"$log" 2>&1 || ok=1
	fi
	p=$(grep -ac '^ *--- PASS' "$log" || true)
	f=$(grep -ac '^ *--- FAIL' "$log" || true)
	skipped="$skipped$(sed -n 's/^ *--- SKIP: \([^ ]*\).*/\1 /p' "$log")"
	# A panic or a hang leaves no FAIL line.
	[ "$ok" = 0 ] || [ "$f" != 0 ] || f=1
	passed=$((passed + p))
	failed=$((failed + f))
	printf '%-4s %-32s %4d passed %3d failed %4d s\n' \
		"$([ "$ok" = 0 ] && echo ok || echo FAIL)" "$name" "$p" "$f" "$(($(date +%s) - from))"
	[ "$ok" = 0 ] || show_failure "$log"
}

# show_failure prints what a failed test said, and not what all others did.
show_failure() {
	awk '
		NR == FNR { if ($1 == "---" && $2 == "FAIL:") bad[$3] = 1; next }
		/^=== (RUN|CONT|NAME|PAUSE)/ { show = bad[$3]; next }
		/^ *--- (PASS|SKIP)/ { show = 0 }
		/^ *--- FAIL|panic:|fatal error:|DATA RACE/ { show = 1 }
		show
	' "$1" "$1" | head -n 100 | sed 's/^/    /'
	echo "    (all of it: ${1#"$top"/})"
}

# left_over counts it as a failure when the tests left files.
left_over() {
	found=$(find "$stage/tmp" "$stage/run" "$stage/root" -mindepth 1 -maxdepth 2 2>/dev/null | head -20)
	[ -z "$found" ] || {
		printf 'FAIL %s left files:\n%s\n' "$1" "$found" | sed '2,$s/^/    /'
		failed=$((failed + 1))
	}
}

for who in user root; do
	case ${PODRUN_TEST_AS:-$who} in
	"$who") ;;
	*) continue ;;
	esac
	case $wanted in
	unit | test)
		for directory in $units; do run_test $who test "$directory"; done
		# It asks nothing of the system: once is enough.
		[ "$who" = root ] || run_test $who test pod/upstream
		;;
	esac
	case $wanted in
	# They wait more than they compute.
	integration | test) run_test $who test integration -test.parallel=4 ;;
	esac
	case $wanted in
	race | test)
		for directory in $units; do run_test $who test-race "$directory"; done
		# The detector makes every command and every init of a container
		# slower by a factor of ten: the paths with most in parallel only.
		run_test $who test-race integration -test.short -test.parallel=2 \
			-test.run='^(TestSession|TestGroupRestart|TestKillNode|TestExec|TestWatch|TestManyPods|TestRegistryDown)$'
		;;
	esac
	case $wanted in
	soak) run_test $who test integration -test.run='^TestSoak$' -test.timeout=2h ;;
	esac
	left_over $who
done

# A test that is skipped without being on the list is a test turned off.
for name in $(printf '%s\n' $skipped | sort -u); do
	grep -qx "$name" scripts/skipped-tests || {
		echo "FAIL $name was skipped, and is not in scripts/skipped-tests"
		failed=$((failed + 1))
	}
done

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
