package upstream_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestCases reads testdata/*.txt: a pod on each line, in YAML, after the
// verdict: "ok", "invalid" or "refused". What a line does not say is that of
// the smallest pod. These stand for its parts:
//
//	c: a container's fields    i: an init container's    m: the metadata's
//	v: volumes, by their names
//
// Everything else is the spec's. Both sides have to agree about each.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			for line := range strings.Lines(string(data)) {
				line = strings.TrimSpace(line)
				if line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				want, text, _ := strings.Cut(line, " ")
				cases++
				t.Run(line, func(t *testing.T) {
					got := compare(t, small(t, text))
					if word := map[verdict]string{accepted: "ok", invalid: "invalid", refused: "refused"}[got]; word != want {
						t.Errorf("it is %s, want %s", word, want)
					}
				})
			}
		})
	}
	if cases < 400 {
		t.Errorf("only %d cases found", cases)
	}
}

// small makes the smallest pod with changes.
func small(t testing.TB, text string) *corev1.Pod {
	t.Helper()
	spec := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	take := func(name string) any { v := spec[name]; delete(spec, name); return v }
	with := func(to map[string]any, more any) map[string]any {
		if more, ok := more.(map[string]any); ok {
			for k, v := range more {
				to[k] = v
			}
		}
		return to
	}
	meta := with(map[string]any{"name": "p"}, take("m"))
	container := with(map[string]any{"name": "c", "image": "busybox"}, take("c"))
	if _, ok := spec["containers"]; !ok {
		spec["containers"] = []any{container}
	}
	if i := take("i"); i != nil {
		spec["initContainers"] = []any{with(map[string]any{"name": "i", "image": "busybox"}, i)}
	}
	if v, ok := take("v").(map[string]any); ok {
		var volumes []any
		for _, name := range sortedKeys(v) {
			volumes = append(volumes, with(map[string]any{"name": name}, v[name]))
		}
		spec["volumes"] = volumes
	}
	data, err := json.Marshal(map[string]any{"metadata": meta, "spec": spec})
	if err != nil {
		t.Fatal(err)
	}
	p := &corev1.Pod{}
	if err := json.Unmarshal(data, p); err != nil {
		t.Fatal(err)
	}
	return p
}
