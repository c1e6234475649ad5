package vm

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestReboot: with podrun's unit enabled, the user's and root's pods are there
// again after a reboot before the user has logged in, each as its restartPolicy
// says, and each restart is counted once.
func TestReboot(t *testing.T) {
	in(t, Root, "loginctl disable-linger "+User)
	out, _ := try(t, User, "podrun system enable")
	mustMatch(t, out, `loginctl enable-linger `+User)
	in(t, Root, "loginctl enable-linger "+User)
	if out := in(t, User, "podrun system enable --now"); strings.Contains(out, "linger") {
		t.Errorf("the user lingers, and enable says: %s", out)
	}
	in(t, User, "systemd-analyze --user verify ~/.config/systemd/user/podrun.service")
	shown := in(t, User, "systemctl --user show podrun.service -p Type -p Delegate -p ActiveState -p UnitFileState")
	for _, want := range []string{"Type=notify", "Delegate=yes", "ActiveState=active", "UnitFileState=enabled"} {
		mustMatch(t, shown, `(?m)^`+want+`$`)
	}

	apply(t, User, "", podYAML("always", "", "exec sleep 36001", "resources: {limits: {memory: 64Mi}}")+"\n---\n"+
		podYAML("failure", "restartPolicy: OnFailure,", "exec sleep 36002", "")+"\n---\n"+
		podYAML("never", "restartPolicy: Never,", "exec sleep 36003", "")+"\n---\n"+
		podYAML("job", "restartPolicy: OnFailure,", "true", ""))
	in(t, Root, "podrun system enable --now")
	in(t, Root, "systemd-analyze verify /etc/systemd/system/podrun.service")
	apply(t, Root, "", podYAML("roots", "", "exec sleep 36004", "resources: {limits: {memory: 64Mi}}"))
	roots := container(ready(t, Root, "roots")["roots"]).ContainerID
	before := map[string]string{}
	started := ready(t, User, "always", "failure", "never")
	for _, name := range []string{"always", "failure", "never"} {
		before[name] = container(started[name]).ContainerID
	}
	in(t, User, "podrun wait --for=jsonpath='{.status.phase}'=Succeeded --timeout=5m pod/job")

	// The pods neither go with the service nor with a node that is killed.
	for _, end := range []string{"systemctl --user restart podrun.service", `kill -9 $(podrun version -o json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')`} {
		in(t, User, end)
		now := ready(t, User, "always", "failure", "never")
		for name, id := range before {
			if c := container(now[name]); c.ContainerID != id || c.RestartCount != 0 {
				t.Errorf("after %s: %s: %+v", end, name, c)
			}
		}
		limited(t, now["always"])
	}

	ctx, cancel := context.WithTimeout(t.Context(), bootPatience)
	defer cancel()
	if err := machine.Reboot(ctx); err != nil {
		t.Fatalf("reboot: %v; the console:\n%s", err, machine.Console())
	}
	// Root looks, so that nobody but systemd starts the user's things.
	await(t, Root, "pgrep -a sleep || true", `(?m)^\d+ sleep 3600[124]\n(.*\n)*\d+ sleep 3600[124]\n(.*\n)*\d+ sleep 3600[124]$`)
	if out := in(t, Root, "loginctl list-sessions --no-legend"); strings.Contains(out, User) {
		t.Fatalf("%s has logged in: %s", User, out)
	}

	after := ready(t, User, "always", "failure")
	for _, name := range []string{"always", "failure"} {
		if c := container(after[name]); c.RestartCount != 1 || c.ContainerID == before[name] {
			t.Errorf("%s: %d restarts, container %s, which was %s", name, c.RestartCount, c.ContainerID, before[name])
		}
	}
	limited(t, after["always"])
	if p := after["never"]; p == nil || p.Status.Phase != corev1.PodFailed || container(p).RestartCount != 0 || container(p).State.Terminated == nil {
		t.Errorf("never: %+v", container(p))
	}
	if p := after["job"]; p == nil || p.Status.Phase != corev1.PodSucceeded || container(p).RestartCount != 0 {
		t.Errorf("job: %+v", container(p))
	}
	p := ready(t, Root, "roots")["roots"]
	limited(t, p)
	if c := container(p); c.RestartCount != 1 || c.ContainerID == roots {
		t.Errorf("roots: %d restarts, container %s, which was %s", c.RestartCount, c.ContainerID, roots)
	}
	mustMatch(t, in(t, User, "podrun get pods"), `(?m)^always +1/1 +Running +1 `)

	for user, unit := range map[string]struct{ systemctl, file string }{
		User: {"systemctl --user", "~/.config/systemd/user/podrun.service"},
		Root: {"systemctl", "/etc/systemd/system/podrun.service"},
	} {
		in(t, user, "podrun delete pod --all --now && podrun system disable --now")
		for _, gone := range []string{unit.systemctl + " is-enabled podrun.service", unit.systemctl + " is-active podrun.service", "ls " + unit.file} {
			if out, code := try(t, user, gone); code == 0 {
				t.Errorf("after disable: %s", out)
			}
		}
	}
}
