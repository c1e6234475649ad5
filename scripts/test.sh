#!/bin/sh
# test.sh unit|integration|race|test|soak|load
# Builds the tests as whoever calls, then runs what was built twice: as an
# ordinary user, and as root. It ends with a line of counts.
#
# Two programs run at a time, in directories of their own: most wait more than
# they compute. Fuzzing computes only, so it gets what they leave of the
# processors.
#
# PODRUN_TEST_WITHOUT=overlay,cgroup waives needs by name, see internal/need.
# PODRUN_TEST_AS=user (or root) runs one of the two only.
# PODRUN_TEST_ONLY=REGEXP runs the programs whose names match, PODRUN_TEST_RUN=
# REGEXP their tests of such names only.
# FUZZTIME is how long each fuzz target runs, 30s.
. "$(dirname "$0")/lib.sh"

wanted=${1:-test}
logs=$top/build/logs

# Packages with tests: DIRECTORY's NAME.test runs in DIRECTORY. Tests of the
# package integration/vm need a machine, which vm.sh makes.
units=$("$GO" list -tags "$TAGS" -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./... | sed "s|^$top/||" | grep -v '^integration')

# programs lists all there is to run: arguments of test-program.sh. What takes
# longest comes first.
programs() {
	for who in user root; do
		case $wanted in
		integration | test) echo $who plain integration ;;
		soak | load) echo $who $wanted integration ;;
		esac
	done
	case $wanted in
	# As root podrun is the same, without the user namespace.
	race | test) echo user race integration ;;
	esac
	for kind in race plain; do
		case $kind-$wanted in
		race-race | race-test | plain-unit | plain-test)
			for directory in $units; do
				echo user $kind "$directory"
				case $kind-$directory in
				# The others do the same as root.
				plain-* | race-node | race-sandbox) echo root $kind "$directory" ;;
				esac
			done
			;;
		esac
	done
	case $wanted in
	# It asks nothing of the system: once is enough.
	unit | test) echo user plain pod/upstream ;;
	esac
	case $wanted in
	test)
		for directory in $units pod/upstream; do
			sed -n "s|^func \(Fuzz[A-Za-z0-9_]*\)(.*|user fuzz $directory \1|p" "$directory"/*_test.go
		done
		;;
	esac
}
rm -rf build/test build/test-race "$logs"/user-* "$logs"/root-*
mkdir -p build/test build/test-race "$logs"
programs | while read -r who kind directory target; do
	case ${PODRUN_TEST_AS:-$who} in "$who") ;; *) continue ;; esac
	printf '%s\n' "$who-$kind-$directory${target:+-$target}" | tr / - | grep -Eq -e "${PODRUN_TEST_ONLY:-.}" || continue
	echo "$who $kind $directory${target:+ $target}"
done >build/test/programs
[ -s build/test/programs ] || die "no program is named like ${PODRUN_TEST_ONLY:-that}"

# packages PATTERN lists those of the programs like it.
packages() {
	sed -nE "s,^[a-z]+ ($1) ([^ ]*).*,./\2,p" build/test/programs | grep -v '^./pod/upstream$' | sort -u
}
# -trimpath, as the program has it: what both link is compiled once.
static='-linkmode external -extldflags=-static'
build="-trimpath -buildvcs=false -tags"
say "building the tests"
list=$(packages 'plain|fuzz|soak|load')
[ -z "$list" ] || "$GO" test -c $build "$TAGS" -ldflags "$static" -o build/test/ $list
# What compares podrun with Kubernetes is a module of its own.
! grep -q pod/upstream build/test/programs || CGO_ENABLED=0 "$GO" -C pod/upstream test -c -o "$top/build/test/" -buildvcs=false .
list=$(packages race | grep -v integration || true)
[ -z "$list" ] || "$GO" test -c -race $build "$TAGS" -ldflags "$static" -o build/test-race/ $list
# To race is podrun, not its test.
! grep -q 'race integration' build/test/programs || {
	"$GO" build -race $build "$TAGS" -ldflags "$static" -o build/test-race/podrun ./cmd/podrun
	"$GO" test -c $build "$TAGS" -ldflags "$static" -o build/test/ ./integration
}

# The stage has the sources too: tests read testdata, docs and their neighbours.
make_stage
mkdir "$stage/src"
tar --exclude=./.git --exclude=./build --exclude=./bin --exclude=./.vagrant -cf - . | tar -xf - -C "$stage/src"
cp -r build/test build/test-race "$stage/"
cp -r bin/podrun build/registry build/cni build/image "$stage/bin/"
chmod -R a+rX "$stage/src" "$stage/bin" "$stage"/test*
is_root || chmod 755 "$stage/src"
open_tun

export stage logs
# lane COUNT [COMMAND...] runs the programs of its input, COUNT at a time.
lane() {
	count=$1
	shift
	# A program that fails has said so, and the others are to run.
	xargs -r -P "$count" -L 1 "$@" scripts/test-program.sh || true
}
grep ' fuzz ' build/test/programs | lane "${FUZZ_LANES:-1}" nice -n 10 &
fuzzing=$!
grep -v ' fuzz ' build/test/programs | lane 2 &
wait $!
wait $fuzzing

passed=$(cat "$logs"/*-*-*.passed | awk '{ n += $1 } END { print n + 0 }')
failed=$(cat "$logs"/*-*-*.failed | awk '{ n += $1 } END { print n + 0 }')
fail() {
	echo "FAIL $1"
	failed=$((failed + 1))
}
ended=$(cat "$logs"/*-*-*.failed | wc -l)
started=$(wc -l <build/test/programs)
[ "$ended" = "$started" ] || fail "$((started - ended)) of $started programs did not come to their end"
# A test that is skipped without being on the list is a test turned off.
for name in $(sed -n 's/^ *--- SKIP: \([^ ]*\).*/\1/p' "$logs"/*-*-*.log | sort -u); do
	grep -qx "$name" scripts/skipped-tests || fail "$name was skipped, and is not in scripts/skipped-tests"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
