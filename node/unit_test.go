package node

import (
	"embed"
	"os"
	"path/filepath"
	"testing"
)

// wantUnits is embedded: the tests also run where the sources are not.
//
//go:embed testdata/podrun.*.service
var wantUnits embed.FS

func TestUnitText(t *testing.T) {
	environ := []string{
		"HOME=/home/me", "PATH=/usr/bin:/bin", "LANG=C", "SHELL=/bin/sh", "XDG_RUNTIME_DIR=/run/user/1000", "XDG_SESSION_ID=3",
		"XDG_DATA_HOME=/big disk/50%", "PODRUN_DATA=/data", "https_proxy=http://proxy:3128", "HTTP_PROXY=http://me:secret@proxy:3128",
		`SSL_CERT_DIR=/a"b\c`, "NOTIFY_SOCKET=/x", "AWS_SECRET_ACCESS_KEY=secret", "PODRUN_NODE=first",
	}
	for _, test := range []struct {
		name string
		root bool
	}{{"user", false}, {"root", true}} {
		t.Run(test.name, func(t *testing.T) {
			got := unitText("/opt/my tools/podrun", environ, test.root)
			want, err := wantUnits.ReadFile("testdata/podrun." + test.name + ".service")
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestUnitQuote is of what systemd.syntax(7) and systemd.unit(5) would read
// otherwise.
func TestUnitQuote(t *testing.T) {
	for word, want := range map[string]string{
		"plain": `"plain"`, "two words": `"two words"`, `q"u\o`: `"q\"u\\o"`, "50%": `"50%%"`, "a\nb": `"a\nb"`,
	} {
		if got := unitQuote(word); got != want {
			t.Errorf("unitQuote(%q) = %s, want %s", word, got, want)
		}
	}
}

// TestUnitOfOthers: a unit that somebody else wrote is left alone.
func TestUnitOfOthers(t *testing.T) {
	u := Unit{Path: filepath.Join(t.TempDir(), unitName)}
	if err := u.ours(); err != nil {
		t.Errorf("no unit: %v", err)
	}
	for text, mine := range map[string]bool{unitText("/bin/podrun", nil, false): true, "[Service]\nExecStart=/bin/true\n": false, "": false} {
		if err := os.WriteFile(u.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := u.ours(); (err == nil) != mine {
			t.Errorf("ours of %q: %v", text, err)
		}
	}
}

// TestLinger: who lingers is told nothing, nor is root.
func TestLinger(t *testing.T) {
	defer func(dir string) { lingerDir = dir }(lingerDir)
	lingerDir = t.TempDir()
	const uid, name = 4_000_000_000, "4000000000" // nobody has it
	for _, lingers := range []bool{false, true} {
		want := "sudo loginctl enable-linger " + name
		if lingers {
			want = ""
			if err := os.WriteFile(filepath.Join(lingerDir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := lingerMend(uid); got != want {
			t.Errorf("lingers: %t: got %q, want %q", lingers, got, want)
		}
	}
	if got := lingerMend(0); got != "" {
		t.Errorf("root: got %q", got)
	}
}
