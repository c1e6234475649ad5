package pod

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// leaf is a field of Pod that has no fields of its own.
type leaf struct {
	path    string // as the table has it
	written string // with the marks of lists
}

// leaves lists all of Pod.
func leaves() []leaf {
	var out []leaf
	walkLeaves(reflect.TypeFor[corev1.Pod](), leaf{}, nil, &out)
	return out
}

func walkLeaves(t reflect.Type, at leaf, above []reflect.Type, out *[]leaf) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 {
		if t.Kind() == reflect.Slice {
			at.written += "[]"
		}
		t = t.Elem()
	}
	_, scalar := special[t]
	switch {
	case t == reflect.TypeFor[corev1.ResourceList]() && at.path != "spec.overhead":
		kinds := []string{"cpu", "memory", "hugepages-*"}
		if strings.Contains(at.path, "ontainers.") {
			kinds = append(kinds, "ephemeral-storage", "extended")
		}
		for _, kind := range kinds {
			*out = append(*out, leaf{at.path + "." + kind, at.written + "[" + kind + "]"})
		}
	case t.Kind() != reflect.Struct || scalar:
		*out = append(*out, at)
	case slices.Contains(above, t):
		panic(fmt.Sprintf("%s is within itself", t))
	default:
		for i := range t.NumField() {
			below := at
			if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" {
				below = leaf{join(at.path, name), join(at.written, name)}
			}
			walkLeaves(t.Field(i).Type, below, append(above, t), out)
		}
	}
}

// Every field of Pod has one rule, and every rule a field: none is quietly
// dropped, and a field that a later Kubernetes adds is not supported because
// what it is in is.
func TestEveryFieldHasARule(t *testing.T) {
	fields := leaves()
	if len(fields) < 1000 {
		t.Fatalf("only %d fields found", len(fields))
	}
	rules := map[string]int{} // how often
	for _, s := range sections {
		for _, r := range s.rules {
			for _, path := range expand(s.at + r.paths) {
				rules[path]++
				if below, all := strings.CutSuffix(path, ".*"); all && r.support == Supported {
					t.Errorf("%s: what is below %s is supported before it is known", s.title, below)
				}
				if (r.support == Refused || r.support == NoEffect) && r.note == "" {
					t.Errorf("%s: %s is %s for no reason", s.title, path, r.support)
				}
			}
		}
	}
	used := map[string]bool{}
	for _, f := range fields {
		var found []string
		if rules[f.path] > 0 {
			found = append(found, f.path)
		}
		for at := f.path; at != ""; at = at[:max(strings.LastIndexByte(at, '.'), 0)] {
			if rules[at+".*"] > 0 {
				found = append(found, at+".*")
			}
		}
		if len(found) != 1 {
			t.Errorf("%s has the rules %q, want one", f.written, found)
		}
		for _, r := range found {
			used[r] = true
		}
	}
	for path, n := range rules {
		if n > 1 {
			t.Errorf("%s has %d rules", path, n)
		}
		if !used[path] {
			t.Errorf("%s: there is no such field", path)
		}
	}
}

// docs/fields.md is the table. "go generate ./pod" writes it.
func TestFieldsPage(t *testing.T) {
	page := filepath.Join("..", "docs", "fields.md")
	got := fieldsPage()
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("docs/fields.md is not what the code says; run: go generate ./pod")
	}
}

const pageHead = `# What podrun does with each field of a Pod

Made from the code by "go generate ./pod"; a test compares it with the type Pod of k8s.io/api, field by field.

- **supported**: does what Kubernetes %s says.
- **no effect**: accepted, and means nothing on one node; "podrun describe pod" lists those that a pod sets.
- **read-only**: podrun sets it; what a manifest says is passed over, as the Kubernetes API server does.
- **refused**: the manifest is refused at this field, with the reason. A field that asks for nothing, such as "false", is not refused.

NAME[] is an element of a list, and NAME.* stands for all fields below NAME. The fields of init containers are those of containers.
`

func fieldsPage() string {
	written := map[string]string{}
	for _, f := range leaves() {
		written[f.path] = f.written
		for at, as := f.path, f.written; at != ""; {
			at, as = at[:max(strings.LastIndexByte(at, '.'), 0)], as[:max(strings.LastIndexByte(as, '.'), 0)]
			written[at+".*"] = as + ".*"
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, pageHead, "1.37")
	for _, s := range sections {
		// The first of the places that a section is at speaks for all.
		first, places := "", expand(s.at)
		if s.at != "" {
			first = places[0]
		}
		fmt.Fprintf(&b, "\n## %s\n\n", s.title)
		if s.at != "" {
			var names []string
			for _, place := range places {
				names = append(names, "`"+strings.TrimSuffix(written[place+"*"], ".*")+"`")
			}
			fmt.Fprintf(&b, "Fields of %s:\n\n", strings.Join(names, ", "))
		}
		b.WriteString("| field | podrun | |\n|---|---|---|\n")
		for _, r := range s.rules {
			for _, path := range expand(first + r.paths) {
				name := written[path]
				if first != "" {
					name = strings.TrimPrefix(name, strings.TrimSuffix(written[first+"*"], "*"))
				}
				fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, r.support, r.note)
			}
		}
	}
	return b.String()
}

// Each rule that refuses or passes over a field has its words in a golden
// file.
func TestEveryRuleIsShown(t *testing.T) {
	var golden strings.Builder
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		golden.Write(data)
	}
	shown := map[string]bool{} // FIELD: NOTE, without indexes
	for line := range strings.Lines(golden.String()) {
		line = regexp.MustCompile(`\[[^\]]*\]`).ReplaceAllString(strings.TrimSpace(line), "")
		_, line, _ = strings.Cut(line, ": ")
		shown[strings.Replace(line, ": Forbidden", "", 1)] = true
	}
	for _, s := range sections {
		for _, r := range s.rules {
			if r.support != Refused && r.support != NoEffect {
				continue
			}
			if !slices.ContainsFunc(expand(s.at+r.paths), func(path string) bool {
				path = strings.TrimSuffix(path, ".*")
				if i := strings.LastIndex(path, "limits."); i > 0 {
					path = path[:i] + "limits"
				}
				return shown[path+": "+r.note]
			}) {
				t.Errorf("%s: no golden file has what is said of %s: %s", s.title, r.paths, r.note)
			}
		}
	}
}
