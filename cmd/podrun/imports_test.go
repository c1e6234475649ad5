package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows are the imports between our own packages that docs/architecture.md
// draws; everybody may import internal/... .
var arrows = map[string][]string{
	"cmd/podrun": {"node", "pod"},
	"node":       {"supervisor", "object", "pod", "store", "sandbox", "cni", "image", "volume"},
	"supervisor": {"object", "pod", "store", "sandbox", "cni", "image", "volume"},
	"sandbox":    {},
	"cni":        {},
	"image":      {},
	"volume":     {},
	"pod":        {},
	"store":      {},
	"object":     {"pod", "store"},
}

// banned are packages that must not be linked: what they cost is paid by every
// start of a container, or they are somebody else's half of the system.
var banned = []string{
	"k8s.io/client-go", "github.com/google/gopacket",
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork", "github.com/containers/gvisor-tap-vsock/pkg/tap",
}

func TestImports(t *testing.T) {
	const module = "get.podrun.dev/podrun/"
	root := os.DirFS("../..")
	packages := 0
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != "." || name == "integration" || name == "build" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		from := path.Dir(name)
		if strings.HasPrefix(from, "internal/") {
			from = "internal"
		} else if _, drawn := arrows[from]; !drawn {
			t.Errorf("package %s is not drawn", from)
			return nil
		}
		packages++
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("../..", name), nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(banned, func(b string) bool { return imported == b || strings.HasPrefix(imported, b+"/") }) {
				t.Errorf("%s imports %s", name, imported)
			}
			to, ours := strings.CutPrefix(imported, module)
			if !ours || strings.HasPrefix(to, "internal/") {
				continue
			}
			if !slices.Contains(arrows[from], to) {
				t.Errorf("%s: %s -> %s is not an arrow of docs/architecture.md", name, from, to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if packages < 50 {
		t.Errorf("only %d files were looked at", packages)
	}
}
