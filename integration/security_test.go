package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/integration/registry"
)

// securePod is the manifest of a pod with one container, c, whose security
// context is given.
func securePod(name, spec, context string) string {
	head := podYAML(name, spec)
	return head + "  - {name: c, image: busybox, command: [sleep, '3600'], securityContext: " + context + "}\n"
}

// in runs a shell in container c of a pod.
func (e *env) in(pod, script string) result {
	e.t.Helper()
	return e.run("exec", pod, "-c", "c", "--", "sh", "-c", script)
}

// status are lines of /proc/1/status in container c of a pod.
func (e *env) status(pod string) map[string]string {
	e.t.Helper()
	return statusLines(e.ok("exec", pod, "-c", "c", "--", "cat", "/proc/1/status"))
}

func statusLines(text string) map[string]string {
	lines := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		lines[name] = strings.Join(strings.Fields(value), " ")
	}
	return lines
}

// waiting waits until container c of a pod waits for reason, and returns the
// message.
func (e *env) waiting(name, reason string) string {
	e.t.Helper()
	p := e.when(name, "waits: "+reason, func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == reason
	})
	return p.Status.ContainerStatuses[0].State.Waiting.Message
}

// TestUserAndGroups: who a container runs as, and in which groups.
func TestUserAndGroups(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(securePod("merge", "securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, supplementalGroups: [4000]}", "{}") + "---\n" +
		securePod("own", "securityContext: {runAsUser: 1000, runAsGroup: 3000}", "{runAsUser: 2000}") + "---\n" +
		securePod("group", "", "{runAsGroup: 8}") + "---\n" +
		securePod("strict", "securityContext: {runAsUser: 1000, supplementalGroups: [4000], supplementalGroupsPolicy: Strict}", "{}"))
	for name, want := range map[string][3]string{
		"merge":  {"1000 1000 1000 1000", "3000 3000 3000 3000", "2000 3000 4000"},
		"own":    {"2000 2000 2000 2000", "3000 3000 3000 3000", "3000"},
		"group":  {"0 0 0 0", "8 8 8 8", "8"},
		"strict": {"1000 1000 1000 1000", "0 0 0 0", "0 4000"},
	} {
		e.ready(name)
		s := e.status(name)
		if got := [3]string{s["Uid"], s["Gid"], s["Groups"]}; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	// The effects, not only the numbers.
	if r := e.in("merge", "echo no >/etc/motd"); r.code == 0 {
		t.Error("uid 1000 writes to /etc")
	}
}

// TestGroupsOfImage: with the policy Merge the image's /etc/group counts, a
// group in the manifest or not, and with Strict it does not.
func TestGroupsOfImage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	busybox, err := registry.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := registry.Layer(registry.File{Name: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\nnobody:x:65534:\nextra:x:50000:nobody\n")})
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(busybox, layer)
	if err != nil {
		t.Fatal(err)
	}
	if err := images.Push(t.Context(), "test/groups:latest", image); err != nil {
		t.Fatal(err)
	}
	pod := func(name, policy string) string {
		return strings.ReplaceAll(securePod(name, "securityContext: {runAsUser: 65534, runAsGroup: 3000, supplementalGroups: [4000], supplementalGroupsPolicy: "+policy+"}", "{}"),
			"image: busybox", "image: test/groups")
	}
	e.start(pod("merge", "Merge")+"---\n"+pod("strict", "Strict"), "merge", "strict")
	if got := e.status("merge")["Groups"]; got != "3000 4000 50000" {
		t.Errorf("merge: groups %q", got)
	}
	if got := e.status("strict")["Groups"]; got != "3000 4000" {
		t.Errorf("strict: groups %q", got)
	}
}

// TestRunAsNonRoot: enforced before anything runs, in the kubelet's words.
func TestRunAsNonRoot(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(securePod("image", "", "{runAsNonRoot: true}") + "---\n" +
		securePod("manifest", "securityContext: {runAsNonRoot: true}", "{runAsUser: 0}") + "---\n" +
		securePod("fine", "securityContext: {runAsNonRoot: true}", "{runAsUser: 7}"))
	mustContain(t, e.waiting("image", "CreateContainerConfigError"), "container has runAsNonRoot and image will run as root (pod: \"image_default(", "container: c)")
	mustContain(t, e.waiting("manifest", "CreateContainerConfigError"), "container's runAsUser breaks non-root policy (pod: \"manifest_default(")
	e.ready("fine")
}

// TestCapabilities: the bounding, permitted and effective sets are what was
// asked for, and the kernel keeps to them.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const usual, chown, netAdmin, netRaw = 0xa80425fb, 1 << 0, 1 << 12, 1 << 13
	e.apply(securePod("usual", "", "{}") + "---\n" +
		securePod("none", "", "{capabilities: {drop: [ALL]}}") + "---\n" +
		securePod("some", "", "{capabilities: {drop: [ALL], add: [CHOWN]}}") + "---\n" +
		securePod("more", "", "{capabilities: {drop: [NET_RAW], add: [NET_ADMIN]}}") + "---\n" +
		securePod("bad", "", "{capabilities: {add: [FLY]}}"))
	for name, want := range map[string]uint64{"usual": usual, "none": 0, "some": chown, "more": usual&^netRaw | netAdmin} {
		e.ready(name)
		s := e.status(name)
		for _, set := range []string{"CapBnd", "CapPrm", "CapEff"} {
			if got := fmt.Sprintf("%016x", want); s[set] != got {
				t.Errorf("%s: %s is %s, want %s", name, set, s[set], got)
			}
		}
	}
	if r := e.in("none", "touch /tmp/x; chown 1 /tmp/x"); r.code == 0 {
		t.Errorf("chown without the capability: %v", r)
	}
	if r := e.in("some", "touch /tmp/x && chown 1 /tmp/x"); r.code != 0 {
		t.Errorf("chown with the capability: %v", r)
	}
	if r := e.in("more", "ip link add dummy0 type dummy || ip link set lo down"); r.code != 0 {
		t.Errorf("NET_ADMIN in its own network: %v", r)
	}
	if r := e.in("usual", "ip link set lo down"); r.code == 0 {
		t.Errorf("no NET_ADMIN: %v", r)
	}
	same(t, e.waiting("bad", "CreateContainerConfigError"), `capability "FLY" is not one that podrun has to give`)
}

// TestPrivilegeEscalation: allowPrivilegeEscalation and readOnlyRootFilesystem.
func TestPrivilegeEscalation(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(securePod("usual", "", "{}")+"---\n"+securePod("tight", "", "{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true}"), "usual", "tight")
	same(t, e.status("usual")["NoNewPrivs"], "0")
	same(t, e.status("tight")["NoNewPrivs"], "1")
	// A process that exec starts is held to it as well.
	same(t, statusLines(e.ok("exec", "tight", "--", "cat", "/proc/self/status"))["NoNewPrivs"], "1")
	r := e.in("tight", "echo x >/file")
	if mustContain(t, r.err, "Read-only file system"); r.code == 0 {
		t.Errorf("the root file system is writable: %v", r)
	}
	if r := e.in("tight", "echo x >/dev/shm/file"); r.code != 0 {
		t.Errorf("/dev/shm is not writable: %v", r)
	}
}

// TestHiddenFiles: what of /proc and /sys is masked or read-only, and who sees
// it anyway.
func TestHiddenFiles(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(securePod("usual", "", "{}"), "usual")
	if r := e.in("usual", "echo 1 >/proc/sys/net/ipv4/ip_forward"); r.code == 0 {
		t.Errorf("/proc/sys is writable: %v", r)
	}
	if r := e.in("usual", "grep -q ' /proc/sys ' /proc/mounts"); r.code != 0 {
		t.Errorf("/proc/sys has no mount of its own: %v", r)
	}
	same(t, e.in("usual", "cat /proc/timer_list /proc/keys | wc -c").out, "0\n")
	e.openUp()
	e.start(securePod("unmasked", "hostUsers: false", "{procMount: Unmasked}"), "unmasked")
	if r := e.in("unmasked", "! grep ' /proc/' /proc/mounts"); r.code != 0 {
		t.Errorf("/proc is masked: %v", r)
	}
}

// TestSeccomp: the default filter is on when nothing is said.
func TestSeccomp(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	profiles := filepath.Join(e.data, "seccomp", "profiles")
	if err := os.MkdirAll(profiles, 0o700); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(filepath.Dir(profiles)) }()
	for name, profile := range map[string]string{
		"no-mkdir.json": `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`,
		"broken.json":   `{"defaultAction": "SCMP_ACT_FLY"`,
	} {
		if err := os.WriteFile(filepath.Join(profiles, name), []byte(profile), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	local := func(name string) string {
		return "{seccompProfile: {type: Localhost, localhostProfile: " + name + "}}"
	}
	e.apply(securePod("unset", "", "{}") + "---\n" +
		securePod("default", "securityContext: {seccompProfile: {type: Unconfined}}", "{seccompProfile: {type: RuntimeDefault}}") + "---\n" +
		securePod("unconfined", "securityContext: {seccompProfile: {type: Unconfined}}", "{}") + "---\n" +
		securePod("local", "", local("profiles/no-mkdir.json")) + "---\n" +
		securePod("missing", "", local("profiles/none.json")) + "---\n" +
		securePod("broken", "", local("profiles/broken.json")))
	for name, want := range map[string]string{"unset": "2", "default": "2", "unconfined": "0", "local": "2"} {
		e.ready(name)
		if got := e.status(name)["Seccomp"]; got != want {
			t.Errorf("%s: Seccomp is %s, want %s", name, got, want)
		}
	}
	const newUserNS = "unshare -U true"
	if r := e.in("unset", newUserNS); r.code == 0 {
		t.Errorf("the default filter lets unshare(2) through: %v", r)
	}
	r := e.in("local", "mkdir /made")
	if mustContain(t, r.err, "Operation not permitted"); r.code == 0 {
		t.Errorf("the profile is not applied: %v", r)
	}
	missing := filepath.Join(profiles, "none.json")
	mustContain(t, e.waiting("missing", "CreateContainerError"), `load seccomp profile "`+missing+`": open `+missing+`: no such file or directory`)
	mustContain(t, e.waiting("broken", "CreateContainerError"), `load seccomp profile "`, "broken.json", "unexpected end of JSON input")
}

// TestPrivileged: all that podrun itself may do.
func TestPrivileged(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(securePod("p", "", "{privileged: true}")+"---\n"+securePod("usual", "", "{}"), "p", "usual")
	s := e.status("p")
	// Those of the node: in its user namespace all, and of real root what it has.
	node, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.nodePID()))
	if err != nil {
		t.Fatal(err)
	}
	same(t, s["CapEff"], statusLines(string(node))["CapEff"])
	same(t, s["Seccomp"], "0")
	if r := e.in("p", "mkdir /m && mount -t tmpfs none /m && echo 1 >/proc/sys/net/ipv4/ip_forward"); r.code != 0 {
		t.Errorf("mount and sysctl: %v", r)
	}
	if _, err := os.Stat("/dev/net/tun"); err == nil {
		if r := e.in("p", "test -c /dev/net/tun && exec 3<>/dev/net/tun"); r.code != 0 {
			t.Errorf("a device of the host: %v", r)
		}
		if r := e.in("usual", "test -e /dev/net/tun"); r.code == 0 {
			t.Errorf("an unprivileged container has /dev/net/tun: %v", r)
		}
	}
}

// TestDevices: a container has the usual devices and can make no others, in
// whatever is mounted, though real root may call mknod(2).
func TestDevices(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("a", "volumes: [{name: v, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}]")+
		"  - {name: c, image: busybox, command: [sleep, '3600'], volumeMounts: [{name: v, mountPath: /v}, {name: m, mountPath: /m}]}\n", "a")
	if r := e.in("a", "cd /dev && for d in null zero full random urandom tty; do test -c $d || echo no $d; done; echo x >null && test $(head -c 1 zero | wc -c) = 1 && test $(head -c 1 urandom | wc -c) = 1"); r.code != 0 || r.out != "" {
		t.Errorf("the usual devices: %v", r)
	}
	for _, dir := range []string{"/dev", "/dev/shm", "/v", "/m", "/tmp"} {
		if r := e.in("a", "mknod "+dir+"/made c 1 5; head -c 1 "+dir+"/made | wc -c"); strings.TrimSpace(r.out) != "0" {
			t.Errorf("a device made in %s works: %v", dir, r)
		}
	}
}

// TestSysctls: those of the pod's own namespaces are set; others fail the pod
// as the kubelet does.
func TestSysctls(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	sysctls := func(pairs ...string) string {
		var list []string
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, fmt.Sprintf("{name: %s, value: %q}", pairs[i], pairs[i+1]))
		}
		return "securityContext: {sysctls: [" + strings.Join(list, ", ") + "]}"
	}
	e.apply(securePod("a", sysctls("net.core.somaxconn", "1024", "kernel.shm_rmid_forced", "1", "kernel/msgmax", "65536", "fs.mqueue.msg_max", "20", "kernel.sem", "250 32000 100 200"), "{}") + "---\n" +
		securePod("forbidden", sysctls("vm.swappiness", "1"), "{}"))
	e.ready("a")
	same(t, e.in("a", "cd /proc/sys; cat net/core/somaxconn kernel/shm_rmid_forced kernel/msgmax fs/mqueue/msg_max; tr '\\t' ' ' <kernel/sem").out, "1024\n1\n65536\n20\n250 32000 100 200\n")
	for name, want := range map[string]string{
		"forbidden": `forbidden sysctl: "vm.swappiness" not allowlisted`,
	} {
		p := e.when(name, "fails", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		same(t, p.Status.Reason, "SysctlForbidden")
		same(t, p.Status.Message, "Pod was rejected: "+want)
		mustContain(t, e.ok("describe", "pod", name), "SysctlForbidden", want)
		mustContain(t, row(e.ok("get", "pods"), name), "SysctlForbidden")
	}
}

// TestHostSysctls: what is the host's is refused with the manifest.
func TestHostSysctls(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for shared, sysctl := range map[string]string{"hostNetwork": "net.core.somaxconn", "hostIPC": "kernel.shmmax"} {
		e.write("pod.yml", securePod("a", shared+": true\nsecurityContext: {sysctls: [{name: "+sysctl+", value: '1024'}]}", "{}"))
		mustContain(t, e.fails(1, "apply", "-f", "pod.yml"), "spec.securityContext.sysctls[0].name", "may not be specified when '"+shared+"' is true")
	}
}

// TestHostNamespaces: the host's network, processes and IPC.
func TestHostNamespaces(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(securePod("net", "hostNetwork: true\nhostAliases: [{ip: 10.1.2.3, hostnames: [foo.local]}]", "{}")+"---\n"+
		securePod("pid", "hostPID: true", "{}")+"---\n"+
		securePod("ipc", "hostIPC: true", "{}")+"---\n"+
		securePod("all", "hostNetwork: true\nhostPID: true\nhostIPC: true\ndnsPolicy: ClusterFirstWithHostNet", "{}"), "net", "pid", "ipc", "all")
	own := func(kind string) string {
		link, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	kinds := []string{"net", "uts", "pid", "ipc"}
	for pod, hosts := range map[string]string{"net": "net uts", "pid": "pid", "ipc": "ipc", "all": "net uts pid ipc"} {
		links := strings.Fields(e.in(pod, "cd /proc/self/ns && readlink "+strings.Join(kinds, " ; readlink ")).out)
		if len(links) != len(kinds) {
			t.Fatalf("pod %s: namespaces %q", pod, links)
		}
		for i, kind := range kinds {
			if got, want := links[i] == own(kind), strings.Contains(hosts, kind); got != want {
				t.Errorf("pod %s: the %s namespace is the host's: %v, want %v", pod, kind, got, want)
			}
		}
	}

	p := e.pod("net")
	if p.Status.PodIP == "" || p.Status.PodIP != p.Status.HostIP {
		t.Errorf("pod IP %q, host IP %q", p.Status.PodIP, p.Status.HostIP)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	same(t, e.in("net", "hostname; cat /etc/hostname; echo $HOSTNAME").out, strings.Repeat(host+"\n", 3))
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	same(t, e.ok("exec", "net", "--", "cat", "/etc/hosts"), "# Kubernetes-managed hosts file (host network).\n"+string(hosts)+"\n# Entries added by HostAliases.\n10.1.2.3\tfoo.local\n")
	resolver, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(resolver)) {
		if strings.HasPrefix(line, "nameserver") {
			mustContain(t, e.ok("exec", "net", "--", "cat", "/etc/resolv.conf"), line)
		}
	}
	// The node's DNS is not there: the policy is Default, and an event says so.
	same(t, e.ok("exec", "all", "--", "cat", "/etc/resolv.conf"), e.ok("exec", "net", "--", "cat", "/etc/resolv.conf"))
	mustContain(t, e.ok("describe", "pod", "all"), "MissingClusterDNS", "Falling back to \"Default\" policy.")
	if r := e.in("net", "ls /sys/class/net && ! echo >/sys/fs/cgroup/x"); r.code != 0 {
		t.Errorf("/sys: %v", r)
	}

	// The test is one of the host's processes.
	self := strconv.Itoa(os.Getpid())
	if r := e.in("pid", "test -d /proc/"+self); r.code != 0 {
		t.Errorf("hostPID: no process %s: %v", self, r)
	}
	mark := "podrun-test-" + self
	if r := e.in("ipc", "echo hello >/dev/shm/"+mark); r.code != 0 {
		t.Errorf("hostIPC: /dev/shm: %v", r)
	}
	defer func() { _ = os.Remove("/dev/shm/" + mark) }()
	text, err := os.ReadFile("/dev/shm/" + mark)
	if err != nil || string(text) != "hello\n" {
		t.Errorf("the host's /dev/shm: %q, %v", text, err)
	}
	// What a container with the host's processes leaves ends with it.
	if r := e.in("pid", "sleep 3611 >/dev/null 2>&1 </dev/null &"); r.code != 0 {
		t.Error(r)
	}
	e.ok("delete", "pods", "--all", "--now")
	if left := commandLines("sleep 3611"); len(left) > 0 {
		t.Errorf("left of a pod with the host's processes: %v", left)
	}
}

// commandLines are the processes of this machine whose command line is that.
func commandLines(want string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " ") == want {
			found = append(found, f)
		}
	}
	return found
}

// TestNames: hostname, subdomain, setHostnameAsFQDN, hostnameOverride.
func TestNames(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(securePod("plain", "hostname: h\nsubdomain: sub", "{}") + "---\n" +
		securePod("full", "hostname: h\nsubdomain: sub\nsetHostnameAsFQDN: true", "{}") + "---\n" +
		securePod("override", "hostnameOverride: web.example.org", "{}") + "---\n" +
		securePod("long", "hostname: "+strings.Repeat("h", 40)+"\nsubdomain: sub\nsetHostnameAsFQDN: true", "{}"))
	const fqdn = "h.sub.default.svc.cluster.local"
	for pod, want := range map[string][2]string{
		"plain": {"h", fqdn + "\th\n"}, "full": {fqdn, fqdn + "\th\n"}, "override": {"web.example.org", "\tweb.example.org\n"},
	} {
		e.ready(pod)
		same(t, e.in(pod, "uname -n; cat /etc/hostname; echo $HOSTNAME").out, strings.Repeat(want[0]+"\n", 3))
		mustContain(t, e.ok("exec", pod, "--", "cat", "/etc/hosts"), want[1])
	}
	e.eventually("long name", func() string {
		out := e.ok("describe", "pod", "long")
		if strings.Contains(out, "FailedCreatePodSandBox") && strings.Contains(out, "failed to construct FQDN from pod hostname and cluster domain, FQDN "+strings.Repeat("h", 40)+".sub.default.svc.cluster.local is too long (64 characters is the max, 70 characters requested)") {
			return ""
		}
		return out
	})
}

// TestWhatIsInherited: a container has three descriptors and its own
// environment, and nothing of the node's.
func TestWhatIsInherited(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "PODRUN_SECRET_OF_THE_NODE=1")
	e.start(podYAML("a", "", "c=ls /proc/self/fd; echo; env; exec sleep 3600"), "a")
	e.eventually("log", func() string {
		if log := e.ok("logs", "a"); !strings.Contains(log, "HOSTNAME=a") {
			return log
		}
		return ""
	})
	descriptors, environment, _ := strings.Cut(e.ok("logs", "a"), "\n\n")
	// 3 is ls's own, of the directory.
	same(t, descriptors, "0\n1\n2\n3")
	for line := range strings.Lines(environment) {
		name, _, _ := strings.Cut(line, "=")
		if !strings.Contains(" PATH HOSTNAME HOME PWD SHLVL ", " "+name+" ") {
			t.Errorf("in the environment: %s", line)
		}
	}
	same(t, e.ok("exec", "a", "--", "ls", "/proc/self/fd"), "0\n1\n2\n3\n")
}

// TestRefusedByTheMachine: what this host cannot do is refused by name.
func TestRefusedByTheMachine(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !strings.HasPrefix(string(enabled), "Y") {
		e.write("pod.yml", securePod("a", "", "{appArmorProfile: {type: Localhost, localhostProfile: x}}"))
		mustContain(t, e.fails(1, "apply", "-f", "pod.yml"), "spec.containers[0].securityContext.appArmorProfile: Forbidden: Cannot enforce AppArmor: AppArmor is not enabled on the host")
	}
	e.start(securePod("b", "", "{appArmorProfile: {type: RuntimeDefault}, seLinuxOptions: {level: 's0:c1,c2'}}"), "b")
}
