package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Until a file is whole there is nothing of it, and what was there stays.
func TestSaveFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	read := func() string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			return err.(*os.PathError).Err.Error()
		}
		return string(b)
	}
	const none = "no such file or directory"
	refused := errors.New("refused")
	for _, tt := range []struct {
		name, text   string
		err          error
		before, want string
	}{
		{"fails", "half", refused, none, none},
		{"whole", "one", nil, none, "one"},
		{"another that fails", "half", refused, "one", "one"},
		{"another", "two", nil, "one", "two"},
	} {
		err := saveFile(path, func(w io.Writer) error {
			if _, err := io.WriteString(w, tt.text); err != nil {
				return err
			}
			// What a kill would leave now.
			if got := read(); got != tt.before {
				t.Errorf("%s: meanwhile the file holds %q, want %q", tt.name, got, tt.before)
			}
			entries, err := os.ReadDir(dir)
			for _, e := range entries {
				if e.Name() != "f" {
					t.Errorf("%s: meanwhile there is %s", tt.name, e.Name())
				}
			}
			return errors.Join(err, tt.err)
		})
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.err)
		}
		if got := read(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if entries, _ := os.ReadDir(dir); len(entries) > 1 {
			t.Errorf("%s: left behind: %v", tt.name, entries)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info, err)
	}
}

// A file that could not be written to its end takes nobody's place.
func TestBrokenFileIsNotCommitted(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("whole"), 0o600); err != nil {
		t.Fatal(err)
	}
	half, err := os.CreateTemp(dir, ".f.*")
	if err != nil {
		t.Fatal(err)
	}
	_ = half.Close() // so that commit cannot
	if err := (&unnamedFile{half, path, true}).commit(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "whole" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}
