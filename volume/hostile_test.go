package volume

import (
	"os"
	"path/filepath"
	"testing"
)

// TestProjectionFollowsNoLink: whatever a container has made of the directory
// of a projection, nothing outside is written, given away or removed, and in
// the end the volume shows what it should (CVE-2025-9566 was podman's).
func TestProjectionFollowsNoLink(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("the user's"), 0o600); err != nil {
		t.Fatal(err)
	}
	content := files{"key": {[]byte("value"), 0o644}, "d/key": {[]byte("value"), 0o600}}
	for name, change := range map[string]func(dir string) error{
		"nothing":              func(string) error { return nil },
		"..data leads out":     func(dir string) error { return relink(outside, filepath.Join(dir, dataLink)) },
		"..data climbs out":    func(dir string) error { return relink("../../../../../../.."+outside, filepath.Join(dir, dataLink)) },
		"..data is a file":     func(dir string) error { return replace(filepath.Join(dir, dataLink)) },
		"..data_tmp leads out": func(dir string) error { return relink(outside, filepath.Join(dir, dataLinkTmp)) },
		"a key leads out":      func(dir string) error { return relink(secret, filepath.Join(dir, "key")) },
		"an old one leads out": func(dir string) error { return relink(outside, filepath.Join(dir, "..2020_01_02_15_04_05.000000001")) },
		"what is shown leads out": func(dir string) error {
			current, err := os.Readlink(filepath.Join(dir, dataLink))
			if err != nil {
				return err
			}
			if err := os.RemoveAll(filepath.Join(dir, current)); err != nil {
				return err
			}
			return os.Symlink(outside, filepath.Join(dir, current))
		},
		"a directory in it leads out": func(dir string) error {
			d := filepath.Join(dir, dataLink, "d")
			if err := os.RemoveAll(d); err != nil {
				return err
			}
			return os.Symlink(outside, d)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			own := ownership{group: os.Getgid()}
			if err := writeProjection(dir, content, own); err != nil {
				t.Fatal(err)
			}
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			for _, value := range []string{"value", "other"} {
				content := files{"key": {[]byte(value), 0o644}, "d/key": {[]byte(value), 0o600}, "new": {nil, 0o644}}
				if err := writeProjection(dir, content, own); err != nil {
					t.Errorf("write: %v", err)
				}
				for _, key := range []string{"key", "d/key"} {
					if b, err := os.ReadFile(filepath.Join(dir, dataLink, key)); err != nil || string(b) != value {
						t.Errorf("%s: got %q, %v; want %q", key, b, err, value)
					}
				}
			}
			entries, err := os.ReadDir(outside)
			if err != nil || len(entries) != 1 {
				t.Errorf("outside there is %v, %v", entries, err)
			}
			if b, err := os.ReadFile(secret); err != nil || string(b) != "the user's" {
				t.Errorf("the file outside: %q, %v", b, err)
			}
			if info, err := os.Stat(secret); err != nil || info.Mode() != 0o600 {
				t.Errorf("the file outside has mode %v, %v", info.Mode(), err)
			}
		})
	}
}

func relink(to, path string) error {
	_ = os.RemoveAll(path)
	return os.Symlink(to, path)
}

func replace(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o600)
}
