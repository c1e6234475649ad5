package fault

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReach(t *testing.T) {
	if open("") != nil {
		t.Error("without the variable there is a plan")
	}
	p := open("a:kill:2")
	for _, tt := range []struct{ point, want string }{{"b", ""}, {"a", ""}, {"b", ""}, {"a", "kill"}, {"a", ""}} {
		if got := p.reach(tt.point); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.point, got, tt.want)
		}
	}
	if got := open("a").reach("a"); got != "error" {
		t.Errorf("got %q, want an error", got)
	}
}

// One of all processes fires, and the file says that it did; the next plan
// counts anew.
func TestReachByFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plan")
	one, other := open("@"+file), open("@"+file)
	if got := one.reach("a"); got != "" {
		t.Errorf("without a plan: got %q", got)
	}
	for range 2 {
		if err := os.WriteFile(file, []byte("a:kill:2\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			by   *plans
			want string
		}{{one, ""}, {other, ""}, {other, "kill"}, {one, ""}, {other, ""}} {
			if got := tt.by.reach("a"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("the plan is still there: %v", err)
		}
	}
}
