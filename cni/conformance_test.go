package cni_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/internal/hint"
)

// TestConformance has the built-in network do what the CNI specification asks of
// ADD, CHECK and DEL (https://www.cni.dev/docs/spec/#section-2-execution-protocol),
// and what cnitool makes a runtime do.
func TestConformance(t *testing.T) {
	dir := stateDir(t)
	n := openNetwork(t, dir, nil)
	ctx := t.Context()
	wantError := func(what string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	p := cni.Pod{ID: "a", Namespace: "default", Name: "a", NetNS: podNetNS(t)}
	wantError("CHECK before ADD", n.Check(ctx, p), "not joined")
	if err := n.Del(ctx, p); err != nil {
		t.Errorf("DEL before ADD: %v", err)
	}
	nowhere := p
	nowhere.NetNS = filepath.Join(dir, "no-such-namespace")
	_, err := n.Add(ctx, nowhere)
	wantError("ADD without a namespace", err, "no-such-namespace")
	if left := addressFiles(t, dir); len(left) > 0 {
		t.Errorf("a failed ADD leaves %v", left)
	}

	first, err := n.Add(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := n.Add(ctx, p)
	if err != nil || !reflect.DeepEqual(again.IPs, first.IPs) {
		t.Errorf("ADD again: %v, %v; want %v", again, err, first.IPs)
	}
	if err := n.Check(ctx, p); err != nil {
		t.Errorf("CHECK: %v", err)
	}

	// What CHECK has to notice, and what mends it.
	change := func(at string, fn func(link netlink.Link) error, name string) func() error {
		return func() error {
			return in(t, at, func() error {
				link, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				return fn(link)
			})
		}
	}
	address := &netlink.Addr{IPNet: netlink.NewIPNet(first.IPs[0].Addr().AsSlice())}
	address.Mask = []byte{0xff, 0xff, 0, 0}
	for _, tt := range []struct {
		name, want string
		spoil      func() error
	}{
		{"lost route", "lost its route", change(p.NetNS, func(l netlink.Link) error {
			return netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: first.Gateway.AsSlice()})
		}, "eth0")},
		{"lost address", "lost its address", change(p.NetNS, func(l netlink.Link) error { return netlink.AddrDel(l, address) }, "eth0")},
		{"interface down", "is down", change(p.NetNS, netlink.LinkSetDown, "eth0")},
		{"no interface", "find", change(p.NetNS, netlink.LinkDel, "eth0")},
	} {
		if err := tt.spoil(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		wantError(tt.name, n.Check(ctx, p), tt.want)
		if err := n.Del(ctx, p); err != nil {
			t.Errorf("%s: DEL: %v", tt.name, err)
		}
		r, err := n.Add(ctx, p)
		if err != nil {
			t.Fatalf("%s: ADD after DEL: %v", tt.name, err)
		}
		first = r
		address.IPNet = netlink.NewIPNet(first.IPs[0].Addr().AsSlice())
		address.Mask = []byte{0xff, 0xff, 0, 0}
		if err := n.Check(ctx, p); err != nil {
			t.Errorf("%s: CHECK of the new: %v", tt.name, err)
		}
	}

	gone := p
	gone.NetNS = "" // the sandbox has died
	for range 3 {
		if err := n.Del(ctx, gone); err != nil {
			t.Errorf("DEL without a namespace: %v", err)
		}
	}
	if left := addressFiles(t, dir); len(left) > 0 {
		t.Errorf("DEL leaves %v", left)
	}
	wantError("CHECK after DEL", n.Check(ctx, p), "not joined")
}

// TestWishesOfTheBuiltinNetwork: an address of its own is not to be had in the
// built-in network, and the mend is not to change a file that there is not.
func TestWishesOfTheBuiltinNetwork(t *testing.T) {
	dir := stateDir(t)
	n := openNetwork(t, dir, nil)
	p := cni.Pod{ID: "a", NetNS: podNetNS(t), Capabilities: map[string]any{"ips": []string{"10.88.0.9/16"}}}
	_, err := n.Add(t.Context(), p)
	if err == nil || err.Error() != `network "podrun" has no plugin with the capability ips` ||
		hint.Of(err) != "name a network that has one by podrun.dev/network, or take the annotation away" {
		t.Errorf("%v; %s", err, hint.Of(err))
	}
	if left := addressFiles(t, dir); len(left) > 0 {
		t.Errorf("it leaves %v", left)
	}
}

// TestProblemText: what has no mend ends with what it is.
func TestProblemText(t *testing.T) {
	for p, want := range map[cni.Problem]string{{Summary: "no way", Mend: "make one"}: "no way; make one", {Summary: "no way"}: "no way"} {
		if got := p.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestProblemsAsTheyCome: a file that is no network is told of from when it is
// there until it is mended.
func TestProblemsAsTheyCome(t *testing.T) {
	folder := t.TempDir()
	n := openNetwork(t, stateDir(t), func(o *cni.Options) { o.ConfDirs = []string{folder} })
	file := filepath.Join(folder, "lan.conflist")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := n.Problems(); len(p) != 1 || !strings.Contains(p[0].Summary, file+": ") {
		t.Errorf("a broken file: %v", p)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if p := n.Problems(); len(p) != 0 {
		t.Errorf("without it: %v", p)
	}
}
