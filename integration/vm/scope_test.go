package vm

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// podYAML is the manifest of a pod of the image that TestMain has loaded, with
// spec in its pod's spec and fields in its container.
func podYAML(name, spec, script, fields string) string {
	quoted, _ := json.Marshal(script)
	return fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {%s containers: [{name: c, image: %q, imagePullPolicy: Never, command: [sh, -c, %s], %s}]}}",
		name, spec, busybox, quoted, fields)
}

// apply applies a manifest as user, after what the shell command before does.
func apply(t *testing.T, user, before, manifest string) {
	t.Helper()
	in(t, user, before+"podrun apply -f - <<'MANIFEST'\n"+manifest+"\nMANIFEST")
}

// ready waits until pods of user's are ready, and returns what the node says of
// all that there are, by name.
func ready(t *testing.T, user string, names ...string) map[string]*corev1.Pod {
	t.Helper()
	in(t, user, "podrun wait --for=condition=Ready --timeout=5m pod/"+strings.Join(names, " pod/"))
	return pods(t, user)
}

// pods is what the node says of user's pods, by name. One command does for all:
// they are slow in an emulated machine.
func pods(t *testing.T, user string) map[string]*corev1.Pod {
	t.Helper()
	var list corev1.PodList
	out := in(t, user, "podrun get pods -o json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m := map[string]*corev1.Pod{}
	for _, p := range list.Items {
		m[p.Name] = &p
	}
	return m
}

// container is what a pod's status says of its only container.
func container(p *corev1.Pod) corev1.ContainerStatus {
	if p == nil || len(p.Status.ContainerStatuses) != 1 {
		return corev1.ContainerStatus{}
	}
	return p.Status.ContainerStatuses[0]
}

// limited fails unless a pod's limits have effect.
func limited(t *testing.T, p *corev1.Pod) {
	t.Helper()
	if p == nil {
		t.Error("no such pod")
		return
	}
	for _, c := range p.Status.Conditions {
		if c.Type == "podrun.dev/ResourceLimits" {
			if c.Status != corev1.ConditionTrue {
				t.Errorf("pod %s has no limits: %s", p.Name, c.Message)
			}
			return
		}
	}
	t.Errorf("pod %s has no condition podrun.dev/ResourceLimits: %+v", p.Name, p.Status.Conditions)
}

// endNode ends the user's node, if there is one, and its pods before.
func endNode(t *testing.T) {
	t.Helper()
	in(t, User, `podrun delete pod --all --now >/dev/null
node=$(podrun version -o json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
reaper=$(awk '$1 == "PPid:" { print $2 }' /proc/$node/status)
kill $node
while kill -0 $reaper 2>/dev/null; do sleep 0.5; done`)
}

// nodeCgroup is the cgroup of the user's node.
const nodeCgroup = `cat /proc/$(podrun version -o json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')/cgroup`

// TestScope: whoever starts podrun in a login session gets a delegated scope of
// the user's systemd. Its pods outlive the session when the user may linger.
func TestScope(t *testing.T) {
	in(t, Root, "loginctl enable-linger "+User)
	mustMatch(t, in(t, User, "cat /proc/self/cgroup"), `^0::/user\.slice/user-1000\.slice/session-`)
	apply(t, User, "", podYAML("a", "", "exec sleep 36000", "resources: {limits: {memory: 64Mi}}"))
	before := ready(t, User, "a")["a"]
	limited(t, before)
	scope := mustMatch(t, in(t, User, nodeCgroup), `^0::(/user\.slice/user-1000\.slice/user@1000\.service/\S*/)(podrun-\d+\.scope)/podrun-node\n$`)
	mustMatch(t, in(t, User, "systemctl --user show -p Delegate -p ActiveState "+scope[2]), `(?s)Delegate=yes.*ActiveState=active|ActiveState=active.*Delegate=yes`)
	id := strings.TrimPrefix(container(before).ContainerID, "podrun://")
	if got := in(t, User, "cat /sys/fs/cgroup"+scope[1]+scope[2]+"/podrun-"+id+"/memory.max"); got != "67108864\n" {
		t.Errorf("memory.max is %s", got)
	}
	// The node ends with the session of who started it no more than its pods do.
	machine.HangUp()
	await(t, Root, "loginctl list-sessions --no-legend", `^(?:\s*\d+\s+0 root.*\n)*$`)
	if after := container(pods(t, User)["a"]); after.ContainerID != container(before).ContainerID || after.RestartCount != 0 || after.State.Running == nil {
		t.Errorf("after the session's end: %+v", after)
	}
	if again := mustMatch(t, in(t, User, nodeCgroup), `(podrun-\d+\.scope)`); again[1] != scope[2] {
		t.Errorf("the node was in %s, and is in %s", scope[2], again[1])
	}
}

// TestLateSystemd: a systemd that takes long to answer, as it does while a
// machine boots, delays the first start and takes no limits away.
func TestLateSystemd(t *testing.T) {
	endNode(t)
	manager := strings.TrimSpace(in(t, Root, "systemctl show user@1000.service -p MainPID --value"))
	apply(t, User, "sudo kill -STOP "+manager+"; (sleep 8; sudo kill -CONT "+manager+") >/dev/null 2>&1 </dev/null & ",
		podYAML("late", "", "exec sleep 36000", "resources: {limits: {memory: 64Mi}}"))
	limited(t, ready(t, User, "late")["late"])
	mustMatch(t, in(t, User, nodeCgroup), `podrun-\d+\.scope/podrun-node`)
	endNode(t)
}
