#!/bin/sh
# Runs every fuzz target for FUZZTIME (30s). What crashes is left in testdata.
. "$(dirname "$0")/lib.sh"
git grep -hoE '^func Fuzz[A-Za-z0-9_]+' --full-name -- '*_test.go' >/dev/null || {
	echo "no fuzz targets"
	exit
}
git grep -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | while IFS=: read -r file target; do
	target=${target#func }
	say "$target in ${file%/*}"
	"$GO" -C "${file%/*}" test -tags "$TAGS" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-30s}" . </dev/null
done
