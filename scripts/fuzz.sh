#!/bin/sh
# Runs every fuzz target for FUZZTIME (5m). What crashes is left in testdata.
. "$(dirname "$0")/lib.sh"
git grep -hoE '^func Fuzz[A-Za-z0-9_]+' --full-name -- '*_test.go' >/dev/null || {
	echo "no fuzz targets"
	exit
}
git grep -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | while IFS=: read -r file target; do
	target=${target#func }
	dir=${file%/*}
	say "$target in $dir"
	if [ -e "$dir/go.mod" ]; then
		# Of Kubernetes' packages, which instrumented take a quarter of an hour
		# to compile. The target makes its pods of random numbers, which no
		# coverage can guide.
		cache=$("$GO" env GOCACHE)/fuzz/podrun
		mkdir -p build "$cache"
		"$GO" -C "$dir" test -c -o "$PWD/build/fuzz.test" .
		(cd "$dir" && "$OLDPWD/build/fuzz.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "${FUZZTIME:-5m}" -test.fuzzcachedir "$cache" </dev/null)
		continue
	fi
	"$GO" -C "$dir" test -tags "$TAGS" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-5m}" . </dev/null
done
