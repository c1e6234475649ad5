package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatModelNamesItsTests: each line of docs/security.md that promises
// something names tests, and these are there.
func TestThreatModelNamesItsTests(t *testing.T) {
	there := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, found := range declared.FindAllSubmatch(text, -1) {
			there[string(found[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, promises, ok := strings.Cut(string(text), "## What they cannot reach\n")
	promises, _, end := strings.Cut(promises, "## What a manifest gives away\n")
	if !ok || !end {
		t.Fatal("docs/security.md has other sections")
	}
	named := regexp.MustCompile(`\bTest\w+`)
	lines := 0
	for line := range strings.Lines(promises) {
		if !strings.HasPrefix(line, "| ") || strings.Contains(line, "| test") {
			continue
		}
		lines++
		tests := named.FindAllString(line, -1)
		if len(tests) == 0 {
			t.Errorf("no test in: %s", line)
		}
		for _, name := range tests {
			if !there[name] {
				t.Errorf("there is no %s", name)
			}
		}
	}
	if lines < 30 {
		t.Errorf("found %d promises", lines)
	}
}
