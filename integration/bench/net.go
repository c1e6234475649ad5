package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	podPort  = "7000" // of the server in a pod
	hostPort = "17000"
)

// place is a network namespace that a tool made, seen from outside.
type place struct {
	pid   int    // of a process in it
	host  string // the host's loopback, from inside
	peer  int    // a process in a pod that others reach; 0: there is none
	other int    // one in another pod of the same network
	ip    string // the peer's address, for the other
	port  string // of the host, that leads to podPort; "" for none
	end   func()
}

// networks are what is compared, in the order of the table.
var networks = []struct {
	name string
	open func(m *meter) (*place, error)
}{{"podrun", openPodrun}, {"podman (slirp4netns)", openPodman}, {"slirp4netns", openSlirp}, {"pasta", openPasta}}

// netRows are the measurements.
var netRows = []struct{ name, kind, from, unit string }{
	{"pod to host, 1 stream", "up", "pod", "Gbit/s"},
	{"host to pod over the pod's connection, 1 stream", "down", "pod", "Gbit/s"},
	{"pod to host, 100 streams", "up-many", "pod", "Gbit/s"},
	{"pod to host, 10,000 short connections", "connect", "pod", "/s"},
	{"pod to host, round trip of a byte", "latency", "pod", "µs"},
	{"pod to host and back, UDP of 1,400 bytes", "udp", "pod", "/s"},
	{"host port to pod, 1 stream", "up", "host", "Gbit/s"},
	{"host port to pod, 100 streams", "up-many", "host", "Gbit/s"},
	{"host port to pod, 10,000 short connections", "connect", "host", "/s"},
	{"host port to pod, round trip of a byte", "latency", "host", "µs"},
	{"host port to pod and back, UDP of 1,400 bytes", "udp", "host", "/s"},
	{"pod to pod, 1 stream", "up", "other", "Gbit/s"},
	{"pod to pod, 100 streams", "up-many", "other", "Gbit/s"},
	{"pod to pod, 10,000 short connections", "connect", "other", "/s"},
	{"pod to pod, round trip of a byte", "latency", "other", "µs"},
	{"pod to pod and back, UDP of 1,400 bytes", "udp", "other", "/s"},
}

// benchNetworks measures each network in turn, runs times, and prints medians.
func benchNetworks(runs int) error {
	m, err := newMeter(os.Getenv("BENCH_CGROUP"))
	if err != nil {
		return err
	}
	port, err := serveTraffic("127.0.0.1:0")
	if err != nil {
		return err
	}
	values := map[string][]float64{}
	for range runs {
		for _, network := range networks {
			p, err := network.open(m)
			if err != nil {
				return fmt.Errorf("%s: %w", network.name, err)
			}
			err = measureNetwork(p, strconv.Itoa(port), func(row string, v float64) {
				values[network.name+row] = append(values[network.name+row], v)
			})
			p.end()
			if err != nil {
				return fmt.Errorf("%s: %w", network.name, err)
			}
		}
	}
	fmt.Printf("Medians of %d runs, all rootless, as the same user, in turns. %s.\n\n", runs, machine())
	fmt.Println("| |" + strings.Join(names(), "|") + "|\n|---|" + strings.Repeat("---:|", len(networks)))
	for _, r := range netRows {
		fmt.Printf("| %s |", r.name)
		for _, n := range names() {
			v := values[n+r.name]
			if len(v) == 0 {
				fmt.Print(" – |")
				continue
			}
			slices.Sort(v)
			format := " %.0f %s |"
			if r.unit == "Gbit/s" {
				format = " %.1f %s |"
			}
			fmt.Printf(format, v[len(v)/2], r.unit)
		}
		fmt.Println()
	}
	return nil
}

func names() []string {
	var all []string
	for _, n := range networks {
		all = append(all, n.name)
	}
	return all
}

func measureNetwork(p *place, port string, record func(row string, value float64)) error {
	servers := []int{p.pid}
	if p.peer != 0 && p.peer != p.pid {
		servers = append(servers, p.peer)
	}
	for _, pid := range servers {
		server := inside(pid, "serve", "0.0.0.0:"+podPort)
		if err := server.Start(); err != nil {
			return err
		}
		defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	}
	time.Sleep(300 * time.Millisecond)
	for _, r := range netRows {
		var out []byte
		var err error
		switch {
		case r.from == "pod":
			out, err = inside(p.pid, r.kind, net.JoinHostPort(p.host, port)).Output()
		case r.from == "host" && p.port != "":
			out, err = exec.Command("/proc/self/exe", "-traffic", r.kind, "127.0.0.1:"+p.port).Output()
		case r.from == "other" && p.peer != 0:
			out, err = inside(p.other, r.kind, net.JoinHostPort(p.ip, podPort)).Output()
		default:
			continue
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			// A figure that there is not, such as of a tool that refuses so many.
			fmt.Fprintf(os.Stderr, "%s: %s\n", r.name, bytes.TrimSpace(exit.Stderr))
			continue
		}
		if err != nil {
			return err
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		if err != nil {
			return err
		}
		record(r.name, v)
	}
	return nil
}

// inside is this program in the user and network namespace of a process.
func inside(pid int, kind, address string) *exec.Cmd {
	self, _ := os.Executable()
	return exec.Command("nsenter", "--target", strconv.Itoa(pid), "--user", "--net", "--preserve-credentials", "--", self, "-traffic", kind, address)
}

// runTraffic is what inside starts.
func runTraffic(kind, address string) error {
	if kind == "serve" {
		if _, err := serveTraffic(address); err != nil {
			return err
		}
		select {}
	}
	v, err := traffic(kind, address)
	if err == nil {
		fmt.Println(v)
	}
	return err
}

const netPods = `apiVersion: v1
kind: Pod
metadata: {name: net-a}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "3600"], ports: [` + netPorts + `]}]
`

const netPorts = `{containerPort: ` + podPort + `, hostPort: ` + hostPort + `}, {containerPort: ` + podPort + `, hostPort: ` + hostPort + `, protocol: UDP}`

func openPodrun(m *meter) (*place, error) {
	t := &podrun{}
	open := func(name, text string) (int, error) {
		file := os.TempDir() + "/" + name + ".yml"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return 0, err
		}
		return started(m, t.apply(file))
	}
	p := &place{host: "169.254.1.2", port: hostPort, end: t.clean}
	var err error
	if p.pid, err = open("net-a", netPods); err != nil {
		return nil, err
	}
	p.peer = p.pid
	second := strings.NewReplacer("net-a", "net-b", netPorts, "").Replace(netPods)
	if p.other, err = open("net-b", second); err != nil {
		return nil, err
	}
	out, err := exec.Command("podrun", "get", "pod", "net-a", "-o", "jsonpath={.status.podIP}").Output()
	p.ip = strings.TrimSpace(string(out))
	return p, err
}

// openPodman has a container with the network that podman gives by default, and
// two on a bridge, for those of the default reach nobody.
func openPodman(m *meter) (*place, error) {
	p := &place{host: "10.0.2.2", port: hostPort, end: func() {
		_ = run([]string{"podman", "rm", "-f", "-t", "0", "net-a", "net-b", "net-c"})
		_ = run([]string{"podman", "network", "rm", "net"})
	}}
	open := func(name, network string, more ...string) (int, error) {
		args := append([]string{"podman", "run", "-d", "--rm", "--name", name, "--network", network}, more...)
		return started(m, append(args, "busybox", "sleep", "3600"))
	}
	err := run([]string{"podman", "network", "create", "net"})
	if err == nil {
		p.pid, err = open("net-a", "slirp4netns:allow_host_loopback=true", "-p", hostPort+":"+podPort, "-p", hostPort+":"+podPort+"/udp")
	}
	if err == nil {
		p.peer, err = open("net-b", "net")
	}
	if err == nil {
		p.other, err = open("net-c", "net")
	}
	if err != nil {
		p.end()
		return nil, err
	}
	out, err := exec.Command("podman", "inspect", "-f", "{{.NetworkSettings.Networks.net.IPAddress}}", "net-b").Output()
	p.ip = strings.TrimSpace(string(out))
	return p, err
}

// started runs a command and returns the one new program of a pod.
func started(m *meter, args []string) (int, error) {
	old := m.programs()
	if _, err := m.until(1, func() error { return run(args) }); err != nil {
		return 0, err
	}
	for _, pid := range m.programs() {
		if !slices.Contains(old, pid) {
			return pid, nil
		}
	}
	return 0, errors.New("its program is not there")
}

// openSlirp and openPasta are the helpers alone, on an empty namespace.
func openSlirp(*meter) (*place, error) {
	return openHelper("10.0.2.2", func(pid string) []string { return []string{"slirp4netns", "--configure", "--mtu=65520", pid, "tap0"} })
}

func openPasta(*meter) (*place, error) {
	return openHelper(defaultGateway(), func(pid string) []string {
		return []string{"pasta", "--config-net", "-f", "-q", "-t", hostPort + ":" + podPort, "-u", hostPort + ":" + podPort, pid}
	})
}

func openHelper(host string, helper func(pid string) []string) (*place, error) {
	holder := exec.Command("unshare", "--user", "--map-root-user", "--net", "sleep", "600")
	if err := holder.Start(); err != nil {
		return nil, err
	}
	time.Sleep(300 * time.Millisecond)
	args := helper(strconv.Itoa(holder.Process.Pid))
	h := exec.Command(args[0], args[1:]...)
	end := func() {
		for _, c := range []*exec.Cmd{h, holder} {
			if c.Process != nil {
				_ = c.Process.Kill()
				_ = c.Wait()
			}
		}
	}
	if err := h.Start(); err != nil {
		end()
		return nil, err
	}
	time.Sleep(time.Second)
	p := &place{pid: holder.Process.Pid, host: host, end: end}
	if args[0] == "pasta" {
		p.port = hostPort
	}
	return p, nil
}

// defaultGateway is the address that pasta gives the host's loopback.
func defaultGateway() string {
	out, _ := exec.Command("ip", "-4", "route", "show", "default").Output()
	if f := strings.Fields(string(out)); len(f) > 2 {
		return f[2]
	}
	return ""
}
