package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// imageFaultPoints are the steps at which the verbs of images can be made to
// fail.
var imageFaultPoints = []string{
	"image.dropped", "image.layercollected", "image.swept", "image.tag", "image.tagged",
	"load.add", "load.layer", "load.spooled", "push.begin", "push.sent", "save.blob",
}

// TestImageFaults fails each step of loading, importing, tagging, saving, pushing,
// collecting and removing images once, by an error and by kill -9 of the node. The next node's
// store is good: what is there is whole, the same works then, and in the end
// nothing is left.
func TestImageFaults(t *testing.T) {
	t.Parallel()
	maker := newEnv(t)
	maker.ok("pull", "-q", "busybox", "app")
	archive := filepath.Join(maker.home, "both.tar")
	maker.ok("save", "-o", archive, "busybox", "app")
	for _, point := range imageFaultPoints {
		for _, action := range []string{"error", "kill"} {
			t.Run(point+" "+action, func(t *testing.T) {
				t.Parallel()
				fired := filepath.Join(t.TempDir(), "fired")
				vars := []string{fmt.Sprintf("PODRUN_FAULT=%s:%s:1:%s", point, action, fired)}
				if point == "image.layercollected" {
					vars = append(vars, "PODRUN_IMAGE_GC_HIGH_THRESHOLD=1", "PODRUN_IMAGE_GC_LOW_THRESHOLD=0")
				}
				e := newEnv(t, vars...)
				// Whatever fails, works the next time.
				again := func(args ...string) {
					t.Helper()
					for range 3 {
						if r := e.run(args...); r.code == 0 {
							return
						}
					}
					e.ok(args...)
				}
				again("load", "-q", "-i", archive)
				again("tag", "app", "other")
				again("image", "import", filepath.Join(maker.home, "both.tar"), "mine")
				if point == "image.layercollected" { // of what a registry has
					again("pull", "-q", "nginx")
					e.eventually("the fault", func() string {
						if _, err := os.Stat(fired); err != nil {
							return "to come"
						}
						return ""
					})
				}
				for _, name := range []string{"busybox:latest", "app:latest", "other:latest", "mine:latest"} {
					if out := e.ok("images", "--format", "{{.Repository}}:{{.Tag}}", name); strings.TrimSpace(out) != name {
						t.Errorf("images %s: %q", name, out)
					}
				}
				again("save", "-o", "all.tar", "busybox", "app", "other", "mine")
				pushed := images.Address + "/faults/" + point + "-" + action
				again("tag", "app", pushed)
				again("push", "-q", pushed)
				if err := wholeAt(pushed); err != nil {
					t.Error(err)
				}
				same(t, e.runsImage("app", "echo it runs"), "it runs\n")
				again("image", "prune", "-a", "-f")
				again("pull", "-q", "busybox")
				again("rmi", "busybox")
				if _, err := os.Stat(fired); err != nil {
					t.Error("the fault did not fire")
				}
				// A sweep that failed is made up for by the next.
				e.ok("load", "-q", "-i", archive)
				e.ok("image", "prune", "-a", "-f")
				for _, dir := range []string{"layers", "blobs/sha256", "tmp"} {
					if entries, err := os.ReadDir(filepath.Join(e.data, "images", dir)); err != nil || len(entries) > 0 {
						t.Errorf("images/%s: %v, %v", dir, entries, err)
					}
				}
			})
		}
	}
}
