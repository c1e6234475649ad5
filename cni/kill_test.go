package cni_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"get.podrun.dev/podrun/cni"
)

// stepVariable makes the test program a node that does one thing: OPERATION,
// state directory, folder of networks, network and namespace of pod "a", with a
// colon between them. It is for processes that are killed on the way.
const stepVariable = "CNI_TEST_STEP"

func step(text string) int {
	f := strings.Split(text, ";")
	op, dir, folder, network, netns := f[0], f[1], f[2], f[3], f[4]
	n, err := cni.Open(context.Background(), cni.Options{StateDir: dir, ConfDirs: []string{folder}, PluginDirs: []string{folder}})
	if err == nil {
		p := cni.Pod{ID: "a", NetNS: netns, Network: network}
		if op == "DEL" {
			err = n.Del(context.Background(), p)
		} else {
			_, err = n.Add(context.Background(), p)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A node that fails or is killed anywhere in ADD or DEL leaves nothing that the
// next one trusts, holds against the pod, or keeps when the pod is gone.
func TestEveryStepFails(t *testing.T) {
	for _, c := range []struct{ network, op, point string }{
		{"", "ADD", "network.bridge"},
		{"", "ADD", "network.add"},
		{"", "ADD", "network.reserve"},
		{"", "ADD", "network.address"},
		{"", "ADD", "network.veth"},
		{"", "ADD", "network.added"},
		{"", "DEL", "network.del"},
		{"", "DEL", "network.unplugged"},
		{"foreign", "ADD", "network.record"},
		{"foreign", "ADD", "network.recorded"},
		{"foreign", "ADD", "network.joined"},
		{"foreign", "DEL", "network.del"},
		{"foreign", "DEL", "network.leaving"},
		{"foreign", "DEL", "network.left"},
	} {
		for _, action := range []string{"error", "kill"} {
			t.Run(strings.Join([]string{c.network, c.op, c.point, action}, " "), func(t *testing.T) {
				for _, stays := range []bool{true, false} {
					failStep(t, c.network, c.op, c.point, action, stays)
				}
			})
		}
	}
}

// failStep lets one process fail, and the next go on: with the pod, when it
// stays, and without.
func failStep(t *testing.T, network, op, point, action string, stays bool) {
	t.Helper()
	f := newFolders(t)
	f.plugin("plugin", `state=$CNI_PATH/given; case $CNI_COMMAND in
ADD) [ ! -e $state ] || { echo '{"cniVersion":"1.0.0","code":100,"msg":"given twice"}'; exit 1; }; : >$state
  ip link add lost0 type dummy 2>/dev/null || ip link add lost0 type bridge; up 192.0.2.5/24
  echo '{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.5/24"}]}' ;;
DEL) rm -f $state; ip link del lost0 2>/dev/null; nsenter --net="$CNI_NETNS" ip link del eth0 2>/dev/null; true ;; esac`)
	f.write(f.plugins, "foreign.conflist", `{"cniVersion":"1.0.0","name":"foreign","plugins":[{"type":"plugin"}]}`)
	options := func(o *cni.Options) {
		o.Uplink, o.ConfDirs, o.PluginDirs = false, []string{f.plugins}, []string{f.plugins}
	}
	dir := stateDir(t)
	p := cni.Pod{ID: "a", NetNS: podNetNS(t), Network: network}
	q := cni.Pod{ID: "b", NetNS: podNetNS(t)}
	var ip netip.Addr
	if point != "network.bridge" { // that is of the first process
		n := openNetwork(t, dir, options)
		ip = add(t, n, q)
		if op == "DEL" {
			add(t, n, p)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}

	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), stepVariable+"="+strings.Join([]string{op, dir, f.plugins, network, p.NetNS}, ";"), "PODRUN_FAULT="+point+":"+action)
	out, err := command.CombinedOutput()
	killed := command.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if err == nil || killed != (action == "kill") || action == "error" && !strings.Contains(string(out), "fault injected at "+point) {
		t.Fatalf("the fault did not happen: %v: %s", err, out)
	}

	n := openNetwork(t, dir, options)
	keep := map[string]bool{"b": true, "a": stays}
	if !stays {
		delete(keep, "a")
	}
	if err := n.Sweep(t.Context(), keep); err != nil {
		t.Fatalf("sweep: %v", err)
	}
	if stays {
		if op == "DEL" {
			// A deletion goes on where it was.
			if err := n.Del(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		got := add(t, n, p)
		if got == ip {
			t.Errorf("%s was given twice", ip)
		}
		if network == "" {
			if err := n.Check(t.Context(), p); err != nil {
				t.Errorf("check: %v", err)
			}
		}
		if err := n.Del(t.Context(), p); err != nil {
			t.Error(err)
		}
	}
	want := []string{"lo", "podrun0"}
	if point != "network.bridge" {
		if again := add(t, n, q); again != ip {
			t.Errorf("the neighbour's address was %s and is %s", ip, again)
		}
		if err := n.Check(t.Context(), q); err != nil {
			t.Errorf("check of the neighbour: %v", err)
		}
		if err := n.Del(t.Context(), q); err != nil {
			t.Error(err)
		}
	}
	var left []string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left = leftovers(t, dir)
		if names := links(t, dir); !slices.Equal(names, want) {
			left = append(left, fmt.Sprint("links ", names))
		}
		if len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(left) > 0 {
		t.Errorf("left, pod stays=%v: %v", stays, left)
	}
	if _, err := os.Stat(filepath.Join(f.plugins, "given")); err == nil {
		t.Errorf("the plugin was not told that the pod is gone, pod stays=%v", stays)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// leftovers are files that say of pods, below dir.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	left := addressFiles(t, dir)
	for _, pattern := range []string{"attachments/*", "cache/results/*", "foreign/results/*", "plugins/*"} {
		found, err := filepath.Glob(filepath.Join(dir, "cni", pattern))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

// What else a crash, or a person, may leave where addresses are kept.
func TestHalfStates(t *testing.T) {
	dir := stateDir(t)
	addresses := filepath.Join(dir, "cni", "addresses", "podrun")
	noUplink := func(o *cni.Options) { o.Uplink = false }
	n := openNetwork(t, dir, noUplink)
	pods := map[string]cni.Pod{}
	ips := map[string]netip.Addr{}
	for _, id := range []string{"whole", "torn", "unplugged", "robbed", "bare", "gone"} {
		pods[id] = cni.Pod{ID: id, NetNS: podNetNS(t)}
		ips[id] = add(t, n, pods[id])
	}
	result := func(id string) string { return filepath.Join(dir, "cni", "cache", "results", "podrun-"+id+"-eth0") }
	unplug := func(ns, name string) error {
		return in(t, ns, func() error { return exec.Command("ip", "link", "del", name).Run() })
	}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(n.Close(),
		// The answer was cut in the middle of its writing.
		os.Truncate(result("torn"), 20), os.Truncate(result("gone"), 20),
		// The link has gone.
		unplug(pods["unplugged"].NetNS, "eth0"),
		// The answer and the link are there, and no address.
		os.Remove(filepath.Join(addresses, ips["robbed"].String())),
		// A link alone.
		os.Remove(result("bare")), os.Remove(filepath.Join(addresses, ips["bare"].String())),
		// An address was being written; others are not ours.
		os.WriteFile(filepath.Join(addresses, "10.88.0.77"), nil, 0o600),
		os.Mkdir(filepath.Join(addresses, "10.88.0.78"), 0o700),
		os.WriteFile(filepath.Join(addresses, "README"), []byte("whole\r\neth0"), 0o600),
		os.WriteFile(filepath.Join(addresses, "last_reserved_ip.0"), []byte("rubbish"), 0o600),
	)
	n = openNetwork(t, dir, noUplink)
	keep := map[string]bool{"whole": true, "torn": true, "unplugged": true, "robbed": true, "bare": true}
	must(n.Sweep(t.Context(), keep))
	owners := map[netip.Addr]string{}
	for id := range keep {
		p := pods[id]
		p.RequestIP = ips[id]
		ip := add(t, n, p)
		if ip != ips[id] {
			t.Errorf("%s had %s and has %s", id, ips[id], ip)
		}
		if other, twice := owners[ip]; twice {
			t.Errorf("%s was given to %s and %s", ip, other, id)
		}
		owners[ip] = id
		must(n.Check(t.Context(), p))
	}
	if left := addressFiles(t, dir); len(left) != len(keep)+1 { // with the folder
		t.Errorf("addresses %v", left)
	}
	if names := links(t, dir); len(names) != 2+len(keep) {
		t.Errorf("links %v", names)
	}
	fresh := add(t, n, cni.Pod{ID: "fresh", NetNS: podNetNS(t)})
	if other, twice := owners[fresh]; twice {
		t.Errorf("%s was given to %s and a new pod", fresh, other)
	}
	// CHECK tells what is missing.
	must(unplug(pods["whole"].NetNS, "eth0"))
	if err := n.Check(t.Context(), pods["whole"]); err == nil || !strings.Contains(err.Error(), "find veth") {
		t.Errorf("check of a pod without its link: %v", err)
	}
	must(in(t, pods["torn"].NetNS, func() error { return exec.Command("ip", "addr", "flush", "dev", "eth0").Run() }))
	if err := n.Check(t.Context(), pods["torn"]); err == nil || !strings.Contains(err.Error(), "eth0 has lost its address") {
		t.Errorf("check of a pod without its address: %v", err)
	}
	if err := n.Check(t.Context(), cni.Pod{ID: "gone"}); err == nil || !strings.Contains(err.Error(), `not joined to network "podrun"`) {
		t.Errorf("check of a pod that is gone: %v", err)
	}
}
