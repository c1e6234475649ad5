package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// again runs a command that must succeed in the end: a dying node may have taken
// the first one with it.
func (e *env) again(args ...string) {
	e.t.Helper()
	for range 3 {
		if r := e.run(args...); r.code == 0 {
			return
		}
	}
	e.ok(args...)
}

// named tells whether an image is listed.
func (e *env) named(name string) bool {
	e.t.Helper()
	return strings.TrimSpace(e.ok("images", "-q", name)) != ""
}

// itRuns has a container of an image say so: all of it is there.
func (e *env) itRuns(image string) {
	e.t.Helper()
	same(e.t, e.runsImage(image, "echo it runs"), "it runs\n")
}

// storedAsShown fails the test unless the next node lists an image if, and only
// if, this one does; what it lists runs.
func (e *env) storedAsShown(image string) {
	e.t.Helper()
	was := e.named(image)
	e.killNode()
	if is := e.named(image); is != was {
		e.t.Errorf("image %s is there: %v; for the next node: %v", image, was, is)
	}
	if was {
		e.itRuns(image)
	}
}

// brings is an operation that brings an image called app.
func brings(name string, bring []string, points ...string) *operation {
	return &operation{
		name: name, points: points, fromNothing: true,
		make: func(e *env) {
			e.again(bring...)
			e.itRuns("app")
		},
		do:    func(e *env) { e.run(bring...) },
		after: func(e *env, _ string) { e.storedAsShown("app") },
		clear: func(e *env) {
			e.again(bring...) // or there is nothing to remove
			e.again("rmi", "-f", "app")
		},
	}
}

func pull() *operation {
	return brings("pull", []string{"pull", "-q", "app"},
		"image.save", "pull.add", "pull.added", "pull.entry:2", "pull.flushed", "pull.placed", "pull.unpacked")
}

// withArchive has the image app in an archive.
func withArchive(o *operation) *operation {
	o.setUp = func(e *env) {
		e.ok("pull", "-q", "app")
		e.ok("save", "-o", "app.tar", "app")
		e.ok("rmi", "app")
	}
	return o
}

func load() *operation {
	return withArchive(brings("load", []string{"load", "-q", "-i", "app.tar"}, "image.save", "load.add", "load.layer", "load.spooled"))
}

// importImage makes an image of the files of an archive.
func importImage() *operation {
	o := withArchive(brings("import", []string{"image", "import", "app.tar", "mine"}, "image.save", "load.add", "load.layer"))
	o.make = func(e *env) { e.again("image", "import", "app.tar", "mine") }
	o.after = func(e *env, _ string) {
		was := e.named("mine")
		e.killNode()
		if is := e.named("mine"); is != was {
			e.t.Errorf("the image is there: %v; for the next node: %v", was, is)
		}
	}
	o.clear = func(e *env) {
		o.make(e)
		e.again("rmi", "-f", "mine")
		e.again("image", "prune", "-f") // each import is another image, by its date
	}
	return o
}

// of is an operation on the image app, which is there.
func of(name string, do []string, points ...string) *operation {
	return &operation{
		name: name, points: points,
		make: func(e *env) { e.again("pull", "-q", "app") },
		do:   func(e *env) { e.run(do...) },
		clear: func(e *env) {
			e.again("pull", "-q", "app")
			e.again("rmi", "-f", "app")
		},
	}
}

func tag() *operation {
	o := of("tag", []string{"tag", "app", "other"}, "image.save", "image.tagged")
	o.after = func(e *env, _ string) { e.storedAsShown("other") }
	clear := o.clear
	o.clear = func(e *env) {
		e.again("pull", "-q", "app")
		e.again("tag", "app", "other")
		e.again("rmi", "other")
		clear(e)
	}
	return o
}

func removeImage() *operation {
	o := of("rmi", []string{"rmi", "app"}, "image.dropped", "image.save", "image.swept", "image.swept:2")
	o.after = func(e *env, _ string) { e.storedAsShown("app") }
	return o
}

// collectImages is garbage collection, for which every disk is too full.
func collectImages() *operation {
	o := of("image collection", []string{"pull", "-q", "nginx"}, "image.layercollected")
	o.vars = []string{"PODRUN_IMAGE_GC_HIGH_THRESHOLD=1", "PODRUN_IMAGE_GC_LOW_THRESHOLD=0"}
	o.make = func(*env) {}
	o.after = func(e *env, _ string) {
		e.again("pull", "-q", "nginx")
		e.itRuns("busybox") // what is in use stays
	}
	o.clear = func(e *env) { e.again("image", "prune", "-a", "-f") }
	return o
}

// save leaves no half of an archive.
func save() *operation {
	o := of("save", nil, "save.blob", "save.blob:2")
	o.do = func(e *env) {
		if r := e.run("save", "-o", "app.tar", "app"); r.code == 0 {
			e.t.Errorf("it failed and did not say so: %v", r)
		}
	}
	o.after = func(e *env, _ string) {
		if left, _ := filepath.Glob(filepath.Join(e.home, "*app.tar*")); len(left) > 0 {
			e.t.Errorf("left behind: %v", left)
		}
		e.ok("save", "-o", "app.tar", "app")
		e.ok("load", "-q", "-i", "app.tar")
		if err := os.Remove(filepath.Join(e.home, "app.tar")); err != nil {
			e.t.Error(err)
		}
	}
	return o
}

// push leaves nothing in the registry that has a name and is not whole.
func push() *operation {
	o := of("push", nil, "push.begin", "push.blob", "push.sent")
	repository := ""
	o.setUp = func(e *env) { repository = fmt.Sprintf("%s/%s/app:v1", images.Address, filepath.Base(e.dir)) }
	o.make = func(e *env) {
		e.again("pull", "-q", "app")
		e.again("tag", "app", repository)
	}
	var pushed bool
	n := 0
	o.do = func(e *env) { // to a repository that has nothing of it yet
		e.ok("rmi", repository)
		n++
		repository = fmt.Sprintf("%s/%s/app%d:v1", images.Address, filepath.Base(e.dir), n)
		o.make(e)
		pushed = e.run("push", "-q", repository).code == 0 // it may have tried again
	}
	o.after = func(e *env, point string) {
		e.ok("rmi", repository)
		if r := e.run("pull", "-q", repository); pushed != (r.code == 0) && point != "push.sent" {
			e.t.Errorf("pushed: %v, and then: %v", pushed, r)
		}
		o.make(e)
		e.ok("push", "-q", repository)
		e.ok("rmi", repository)
		e.ok("pull", "-q", repository)
	}
	o.clear = func(e *env) {
		o.make(e)
		e.again("rmi", "app", repository)
	}
	return o
}
