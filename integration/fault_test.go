package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestFaultPointsAreAll compares faultPoints with the sources.
func TestFaultPointsAreAll(t *testing.T) {
	call := regexp.MustCompile(`\bfault(?:\.Point)?\("([^"]+)"\)`)
	var found []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			found = append(found, m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	want := slices.Concat(faultPoints, lifecycleFaultPoints, deletionFaultPoints, volumeFaultPoints, usersFaultPoints, pullFaultPoints, hostPortFaultPoints)
	slices.Sort(want)
	if !slices.Equal(found, want) {
		t.Errorf("got  %q\nwant %q", found, want)
	}
}
