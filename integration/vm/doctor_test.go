package vm

import (
	"errors"
	"strings"
	"testing"

	"get.podrun.dev/podrun/internal/need"
)

// TestDoctor: each switch that takes something from an ordinary user is named,
// with the command that turns it; and that command, as printed, does.
func TestDoctor(t *testing.T) {
	// As Debian 12 is installed, one thing is missing.
	out, code := try(t, User, "podrun doctor")
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	mustMatch(t, out, `(?m)^ok +resource limits +the node has them: cpu, memory and pids$`)
	in(t, Root, mustMatch(t, out, `(?m)^MISSING .* cannot ping .*; as root: (sysctl -w net\.ipv4\.ping_group_range="\d+ \d+")$`)[1])
	endNode(t)
	in(t, User, "podrun doctor")
	for _, tt := range []struct{ sysctl, forbids, allows string }{
		{"user.max_user_namespaces", "0", "15000"},
		{"kernel.unprivileged_userns_clone", "0", "1"},
		{"kernel.apparmor_restrict_unprivileged_userns", "1", "0"},
	} {
		t.Run(tt.sysctl, func(t *testing.T) {
			need.That(t, tt.sysctl, "use a kernel that has it", func() error {
				if out, code := try(t, Root, "sysctl -n "+tt.sysctl); code != 0 {
					return errors.New(strings.TrimSpace(out) + " (Linux " + strings.TrimSpace(in(t, Root, "uname -r")) + ")")
				}
				return nil
			})
			in(t, Root, "sysctl -w "+tt.sysctl+"="+tt.forbids)
			out, code := try(t, User, "podrun doctor")
			if code != 1 {
				t.Errorf("exit %d", code)
			}
			cure := mustMatch(t, out, `(?m)^MISSING .*; run: (sudo sysctl -w \S+)`)[1]
			if want := "sudo sysctl -w " + tt.sysctl + "=" + tt.allows; cure != want {
				t.Errorf("got cure %q, want %q", cure, want)
			}
			// What a start says is no less.
			if out, code := try(t, User, "podrun get pods"); code != 1 || !strings.Contains(out, cure) {
				t.Errorf("exit %d, want 1: %s", code, out)
			}
			in(t, User, cure)
			in(t, User, "podrun doctor")
		})
	}
}
