#!/bin/sh
# What the compiler lets pass. Each ban says why.
. "$(dirname "$0")/lib.sh"
bad=0
# What make build has compiled serves here, too.
export GOFLAGS="${GOFLAGS:-} -trimpath -buildvcs=false"

unformatted=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || {
	printf 'not formatted by gofmt:\n%s\n' "$unformatted"
	bad=1
}
"$GO" vet -tags "$TAGS" ./... || bad=1
"$GO" -C integration/app vet ./... || bad=1
CGO_ENABLED=0 "$GO" -C pod/upstream vet ./... || bad=1
[ -z "${STATICCHECK:-}" ] || "$GO" run "$STATICCHECK" -tags "$TAGS" ./... || bad=1

# ban PATTERN WHY [PATHSPEC...] fails on lines of Go, tests aside, that match.
ban() {
	pattern=$1 why=$2
	shift 2
	found=$(git grep -nE "$pattern" -- '*.go' ':!*_test.go' ':!integration' "$@" || true)
	[ -z "$found" ] || {
		printf '%s:\n%s\n' "$why" "$found"
		bad=1
	}
}
ban 'os\.Create\(' 'os.Create cuts a file that a crash then leaves half written: internal/atomicfile saves whole ones'
ban 'os\.Is(NotExist|Exist|Permission)\(' 'os.IsNotExist and its kin do not look into wrapped errors: errors.Is does'
ban 'http\.(Get|Post|Head|DefaultClient)\b' 'the default HTTP client waits for ever'
ban 'time\.Sleep\(' 'a sleep cannot be cancelled: select on a timer and ctx.Done()'
ban 'context\.TODO\(' 'context.TODO is not for what is merged'
ban 'github.com/containers/gvisor-tap-vsock/pkg/(virtualnetwork|tap)"|google/gopacket' 'its packages cost the init of every container 5 ms (docs/decisions)'
ban 'exec\.Command(Context)?\(' 'podrun executes nothing but itself, newuidmap, newgidmap, foreign CNI plugins, credential helpers, and what shows a diff' \
	':!node' ':!cni' ':!internal/need' ':!image/keychain.go' ':!cmd/podrun/diff.go'
ban 'filepath\.Glob\((filepath\.Join|[a-z])' 'a directory that a person has chosen may have a [ in its name: fs.Glob(os.DirFS(dir), ...)'
ban 'TODO|FIXME|XXX' 'unfinished'
git grep -nE 't\.Skip(f|Now)?\(' -- '*_test.go' ':!internal/need' && {
	echo 'a need that is not met fails the test: internal/need'
	bad=1
}
# Names that waive something, of tests that are no more, would waive the next of
# that name.
for name in $(sed -n 's/^\(Test[A-Za-z0-9_]*\).*/\1/p' scripts/not-raced scripts/skipped-tests); do
	git grep -q "^func $name(" -- '*_test.go' || {
		echo "there is no test $name: scripts/not-raced, scripts/skipped-tests"
		bad=1
	}
done
exit $bad
