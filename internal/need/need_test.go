package need

import (
	"errors"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// recorder notes how a need ended a test.
type recorder struct {
	testing.TB
	outcome string
}

func (r *recorder) Helper()               {}
func (r *recorder) Fatalf(string, ...any) { r.outcome = "failed" }
func (r *recorder) Skipf(string, ...any)  { r.outcome = "skipped" }

func TestMeet(t *testing.T) {
	missing := errors.New("it is not there")
	for _, tt := range []struct {
		name    string
		without string
		err     error
		want    string
	}{
		{"met", "", nil, ""},
		{"unmet", "", missing, "failed"},
		{"unmet-waived", "other,unmet-waived", missing, "skipped"},
		{"unmet-other-waived", "unmet", missing, "failed"},
		{"met-waived", "met-waived", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("PODRUN_TEST_WITHOUT", tt.without)
			r := &recorder{TB: t}
			meet(r, tt.name, "make it", func() error { return tt.err })
			if r.outcome != tt.want {
				t.Errorf("got %q, want %q", r.outcome, tt.want)
			}
		})
	}
}

// TestRunReportsProbe runs a probe in its own process, so that a probe that
// never runs is not taken for one that succeeded.
func TestRunReportsProbe(t *testing.T) {
	UserNS(t)
	Overlay(t)
	NetNS(t)
	if err := run("netns"); err != nil {
		t.Fatal(err)
	}
}
