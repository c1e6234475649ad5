package integration

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// operations is the matrix: who may have which step fail.
func operations() []*operation {
	list := []*operation{
		starts("start", group("victim"),
			"container.created", "container.mounted", "container.saved", "container.start", "container.started", "container.started:2",
			"network.add", "network.added", "network.address", "network.reserve", "network.veth",
			"sandbox.anchor", "sandbox.cloned", "sandbox.ready", "sandbox.saved", "sandbox.shm",
			"store.commit", "store.commit:2", "store.commit:3", "store.committed", "store.committed:2", "store.committed:3"),
		restart(),
		deletes("delete", group("victim"),
			"container.cleared", "container.ended", "container.ended:2", "container.unmounted", "delete.logs", "delete.object",
			"network.del", "network.unplugged", "sandbox.ended", "sandbox.killed",
			"store.commit", "store.commit:2", "store.committed", "store.committed:2", "store.committed:3",
			"teardown.network", "teardown.sandbox", "teardown.volumes"),
		recovery(),
		job(),
		withVolumes(starts("start with volumes", volumes, "volume.bound", "volume.made", "volume.made:2", "volume.subpath", "volume.swapped", "volume.written")),
		deletes("delete with volumes", volumes, "volume.unmounted"),
		withNetwork(starts("start in a network of plugins", inNetwork, "network.joined", "network.record", "network.recorded")),
		withNetwork(deletes("delete in a network of plugins", inNetwork, "network.del", "network.leaving", "network.left")),
		withPorts(starts("start with host ports", "", "hostport.bound", "hostport.bound:2", "hostport.kept")),
		withPorts(deletes("delete with host ports", "", "teardown.hostports")),
		deleteNamespace(),
		pull(),
		load(),
		importImage(),
		tag(),
		removeImage(),
		collectImages(),
		save(),
		push(),
	}
	if os.Geteuid() == 0 {
		list = append(list, ofRootOnly()...)
	}
	return list
}

// ofRootOnly are what pods with users of their own go through: others' share
// their user's.
func ofRootOnly() []*operation {
	return []*operation{withUsers(starts("start with users of its own", strings.Replace(group("victim"), "spec:\n", "spec:\n  hostUsers: false\n", 1),
		"container.mapped", "sandbox.ids"))}
}

// group is a pod of two containers; each ends with what is written to its /end.
func group(name string) string {
	const script = "=mkfifo /end; read code </end; exit $code"
	return podYAML(name, "terminationGracePeriodSeconds: 0", "one"+script, "two"+script)
}

const victim = "victim"

// starts is the start of a pod: when it is over, its containers run or it waits
// to be tried again. No restart is counted for that.
func starts(name, manifest string, points ...string) *operation {
	return &operation{
		name: name, points: points, fromNothing: true,
		make: func(e *env) {
			e.start(manifest, victim)
			e.restarted(victim, 0)
		},
		do:    func(e *env) { e.tryApply(manifest, victim) },
		after: func(e *env, point string) { e.afterFault(victim, point, 0, isReady) },
		clear: func(e *env) { e.tryDelete(victim) },
	}
}

// restart is the restart of a group, of which one container ends.
func restart() *operation {
	o := starts("restart", group(victim),
		"container.cleared", "container.created", "container.ended", "container.mounted", "container.saved", "container.start", "container.started", "container.unmounted",
		"restart.count", "restart.counted", "restart.decide", "restart.decided",
		"store.commit", "store.commit:2", "store.commit:3", "store.committed", "store.committed:2", "store.committed:3")
	o.fromNothing = false
	var before map[string]string
	o.do = func(e *env) {
		before = ids(e.pod(victim))
		e.run("exec", victim, "-c", "one", "--", "sh", "-c", "echo 3 >/end")
	}
	o.after = func(e *env, point string) {
		e.afterFault(victim, point, 1, func(p *corev1.Pod) bool {
			return isReady(p) && ids(p)["one"] != before["one"] && ids(p)["two"] != before["two"]
		})
	}
	return o
}

// deletes is the deletion of a pod that runs.
func deletes(name, manifest string, points ...string) *operation {
	o := starts(name, manifest, points...)
	o.fromNothing = false
	o.do = func(e *env) { e.run("delete", "pod", victim, "--now") }
	o.after = func(e *env, _ string) { e.tryDelete(victim) }
	return o
}

// recovery is what a node does that finds pods. One that dies of it is followed
// by the next.
func recovery() *operation {
	o := starts("recovery", group(victim), "recover.adopted", "recover.adopted:2", "recover.adopted:3")
	o.fromNothing = false
	var before map[string]string
	o.do = func(e *env) {
		before = ids(e.pod(victim))
		e.kill9(e.nodePID())
	}
	o.after = func(e *env, _ string) {
		p := e.restarted(victim, 0)
		if got := ids(p); got["one"] != before["one"] || got["two"] != before["two"] {
			e.t.Errorf("the containers were made again: got %v, were %v", got, before)
		}
	}
	return o
}

// job is the life of a pod with a sidecar, of which one container is made again
// by a rule, to its end. It completes with one restart.
func job() *operation {
	const script = "mkfifo /end; read code </end; exit $code"
	o := starts("job", lifecyclePod(victim, "restartPolicy: Never\nterminationGracePeriodSeconds: 5",
		[]string{"side " + sidecar + "=trap 'exit 9' TERM; mkfifo /end; while :; do read code </end; done", "init=sleep 0.3"},
		[]string{"main restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]=" + script}),
		"alone.count", "alone.counted", "alone.decide", "alone.decided",
		"finish.decide", "finish.decided", "finish.stopped",
		"init.start", "init.start:2", "init.started", "init.started:2") // at the second the sidecar runs, and the init container too
	apply := o.do
	o.do = func(e *env) {
		apply(e)
		before := ids(e.restarted(victim, 0))
		// The node may die of the end before it has answered.
		e.run("exec", victim, "-c", "main", "--", "sh", "-c", "echo 42 >/end")
		after := ids(e.when(victim, "made again", func(p *corev1.Pod) bool { return isReady(p) && ids(p)["main"] != before["main"] }))
		if after["side"] != before["side"] {
			e.t.Errorf("the sidecar was made again")
		}
		e.restarted(victim, 1)
		e.run("exec", victim, "-c", "main", "--", "sh", "-c", "echo 0 >/end")
	}
	o.after = func(e *env, _ string) {
		p := e.when(victim, "succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
		if restarts(p) != 1 {
			e.t.Errorf("got %d restarts, want 1", restarts(p))
		}
		if s := initStatus(e.t, p, "side"); s.State.Terminated == nil || s.State.Terminated.ExitCode != 9 {
			e.t.Errorf("sidecar: %+v", s.State)
		}
	}
	return o
}

// volumes is a pod with volumes of each kind that is made in several steps.
const volumes = `
apiVersion: v1
kind: Pod
metadata: {name: victim, labels: {app: a}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 70}
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: labels, downwardAPI: {items: [{path: app, fieldRef: {fieldPath: "metadata.labels['app']"}}]}}
  containers:
  - name: c
    image: busybox
    command: [sleep, "3600"]
    volumeMounts:
    - {name: memory, mountPath: /memory}
    - {name: memory, mountPath: /part, subPath: part}
    - {name: disk, mountPath: /disk, mountPropagation: HostToContainer}
    - {name: labels, mountPath: /labels}
    - {name: labels, mountPath: /app, subPath: app}
`

// withVolumes has a pod of volumes show that they are whole.
func withVolumes(o *operation) *operation {
	whole := func(e *env) {
		same(e.t, e.sh(victim, "c", "cat /labels/app /app; echo; stat -c '%n %a:%g' /memory /disk; touch /memory/f /part/f /disk/f; grep -o ' /disk .* master:' /proc/self/mountinfo | cut -d' ' -f2").out,
			"aa\n/memory 3777:70\n/disk 2777:70\n/disk\n")
	}
	make, after := o.make, o.after
	o.make = func(e *env) {
		make(e)
		whole(e)
	}
	o.after = func(e *env, point string) {
		after(e, point)
		if isReady(e.pod(victim)) {
			whole(e)
		}
	}
	return o
}

// inNetwork is a pod in the network of withNetwork.
var inNetwork = strings.Replace(group(victim), "metadata:\n", "metadata:\n  annotations: {podrun.dev/network: wires}\n", 1)

// withNetwork has a network of the plugins that all use.
func withNetwork(o *operation) *operation {
	o.setUp = func(e *env) {
		e.vars["CNI_PATH"] = cniPlugins(e.t)
		e.network("wires", "1.1.0", `{"type":"ptp","ipam":{"type":"host-local","subnet":"10.99.0.0/24"}}`)
	}
	return o
}

// withPorts has the pod ask for a port of the host, which it serves, and which
// is free when the pod is gone.
func withPorts(o *operation) *operation {
	var port int
	free := func(e *env) {
		e.soon("the port", func() []string { // the reaper lets go of it when it is told
			l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
			if err != nil {
				return []string{err.Error()}
			}
			_ = l.Close()
			return nil
		})
	}
	o.setUp = func(e *env) { port = freePort(e.t) }
	serves := func(e *env) { e.asked("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) }
	manifest := func() string { return peerPod(victim, port, "") }
	o.make = func(e *env) {
		e.start(manifest(), victim)
		e.restarted(victim, 0)
		serves(e)
	}
	after, clear := o.after, o.clear
	if o.fromNothing {
		o.do = func(e *env) { e.tryApply(manifest(), victim) }
		o.after = func(e *env, point string) {
			after(e, point)
			if isReady(e.pod(victim)) {
				serves(e)
			}
		}
	}
	o.clear = func(e *env) {
		clear(e)
		free(e)
	}
	return o
}

// withUsers has all homes open to the pods' users.
func withUsers(o *operation) *operation {
	o.setUp = func(e *env) { e.openUp() }
	clear := o.clear
	o.clear = func(e *env) {
		clear(e)
		if left, _ := filepath.Glob(e.state + "-rootfs/*/*"); len(left) > 0 {
			e.t.Errorf("left behind: %v", left)
		}
	}
	return o
}

// deleteNamespace is the deletion of a namespace with a pod, a claim and more.
func deleteNamespace() *operation {
	gone := func(e *env) {
		e.run("delete", "ns", "team", "--wait=false", "--ignore-not-found")
		e.eventually("end of the namespace", func() string {
			return strings.TrimPrefix(e.ok("get", "ns", "-o", "name"), "namespace/default\n")
		})
		same(e.t, e.ok("get", "pods,pvc,cm,secrets", "-n", "team", "-o", "name"), "")
	}
	return &operation{
		name:   "delete a namespace",
		points: []string{"claim.removed", "claim.unused", "namespace.emptied", "namespace.pod", "namespace.podless", "store.commit", "store.commit:2", "store.committed", "store.committed:2"},
		make:   func(e *env) { e.apply(besidePods) },
		do:     func(e *env) { e.run("delete", "ns", "team", "--wait=false") },
		after:  func(e *env, _ string) { gone(e) },
		clear:  gone,
	}
}
