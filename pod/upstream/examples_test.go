package upstream_test

import (
	"os"
	"path/filepath"
	"testing"

	"get.podrun.dev/podrun/pod"
)

// The pods of kubernetes.io's examples, and podrun's own test manifests.
func TestExamples(t *testing.T) {
	pods := 0
	for _, pattern := range []string{"kubernetes.io/*.yaml", "*.yml", "*.json"} {
		files, err := filepath.Glob(filepath.Join("..", "testdata", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			objects, _ := pod.Parse(file, data) // what does not parse is for package pod
			for _, o := range objects {
				if o.Pod == nil {
					continue
				}
				pods++
				t.Run(filepath.Base(file), func(t *testing.T) { compare(t, o.Pod) })
			}
		}
	}
	if pods < 40 {
		t.Errorf("only %d pods found", pods)
	}
}
