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

// networkFaultPoints are package cni's own: its TestEveryStepFails has each of
// them fail, and kill, a process.
var networkFaultPoints = []string{
	"network.address", "network.bridge", "network.joined", "network.leaving", "network.left", "network.record", "network.recorded",
	"network.reserve", "network.unplugged", "network.veth",
}

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
	want := slices.Concat(faultPoints, lifecycleFaultPoints, deletionFaultPoints, volumeFaultPoints, imageFaultPoints, usersFaultPoints, pullFaultPoints, hostPortFaultPoints, networkFaultPoints)
	slices.Sort(want)
	if !slices.Equal(found, want) {
		t.Errorf("got  %q\nwant %q", found, want)
	}
}
