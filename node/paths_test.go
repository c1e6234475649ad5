package node

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"get.podrun.dev/podrun/internal/hint"
)

func TestLocatePaths(t *testing.T) {
	runtime, data, own := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "own")
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(open, link); err != nil {
		t.Fatal(err)
	}
	root := os.Geteuid() == 0
	foreign := "/root"
	if root {
		foreign = filepath.Join(t.TempDir(), "foreign")
		if err := errors.Join(os.Mkdir(foreign, 0o700), os.Chown(foreign, 12345, 12345)); err != nil {
			t.Fatal(err)
		}
	}
	pick := func(asRoot, asUser string) string {
		if root {
			return asRoot
		}
		return asUser
	}
	sessionless := "/elsewhere/podrun-"
	if dir := "/run/user/" + strconv.Itoa(os.Geteuid()); owned(dir, os.Geteuid()) {
		sessionless = dir // the session is found without being named
	}
	for _, test := range []struct {
		name        string
		env         map[string]string
		state, data string
		err, mend   string // parts of them
	}{
		{
			name:  "from the session",
			env:   map[string]string{"XDG_RUNTIME_DIR": runtime, "XDG_DATA_HOME": data},
			state: pick("/run/podrun", runtime+"/podrun"), data: pick("/var/lib/podrun", data+"/podrun"),
		},
		{
			name:  "without a session",
			env:   map[string]string{"XDG_RUNTIME_DIR": "/proc", "HOME": data, "TMPDIR": "/elsewhere"},
			state: pick("/run/podrun", sessionless), data: pick("/var/lib/podrun", data+"/.local/share/podrun"),
		},
		{
			name:  "told",
			env:   map[string]string{stateVariable: own + "/", dataVariable: data},
			state: own, data: "", err: "can be entered by other users (mode 0755)", mend: "chmod 700 " + data,
		},
		{name: "relative", env: map[string]string{stateVariable: "state"}, err: "not an absolute path", mend: stateVariable},
		{name: "too long", env: map[string]string{stateVariable: "/tmp/" + strings.Repeat("x", 100), dataVariable: own}, err: "may have 107", mend: "shorter"},
		{name: "a link", env: map[string]string{stateVariable: link}, err: "is not a directory", mend: stateVariable},
		{name: "somebody else's", env: map[string]string{dataVariable: foreign, stateVariable: own}, err: "belongs to user " + pick("12345", "0"), mend: dataVariable},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{stateVariable, dataVariable, "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "HOME"} {
				t.Setenv(name, test.env[name])
			}
			if tmp := test.env["TMPDIR"]; tmp != "" {
				t.Setenv("TMPDIR", tmp)
			}
			p, err := LocatePaths()
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(hint.Of(err), test.mend) {
					t.Errorf("error %v; %s: want %q; %q", err, hint.Of(err), test.err, test.mend)
				}
				return
			}
			if err != nil || !strings.HasPrefix(p.State, test.state) || p.Data != test.data {
				t.Errorf("paths %+v (%v), want %s and %s", p, err, test.state, test.data)
			}
		})
	}
}

// A node that was started without a session is found from within one.
func TestLocateRunningNode(t *testing.T) {
	in := newInstance(t)
	in.launch()
	t.Setenv(stateVariable, "")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	p, err := LocatePaths()
	if err != nil || p != in.p {
		t.Errorf("paths %+v (%v), want those of the node that runs: %+v", p, err, in.p)
	}
	in.ask(new(any), "/leave")
	in.eventually("the node is not looked for where it was", func() error {
		p, err := LocatePaths()
		if err == nil && p.State == in.p.State {
			err = errors.New("it is")
		}
		return err
	})
}
