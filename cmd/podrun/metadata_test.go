package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestParsePairs(t *testing.T) {
	for args, want := range map[string]string{
		"pod a x=1 y-":     "[pod a] map[x:1] [y]",
		"pod/a pod/b x=":   "[pod/a pod/b] map[x:] []",
		"x=1":              "[] map[x:1] []",
		"pod my-pod- x=1":  "[pod] map[x:1] [my-pod]",
		"pod a x=1 b":      "all resources must be specified before label changes: b",
		"pod a =1":         "invalid label format: =1",
		"pod a -":          "invalid label format: -",
		"pod a x=1 x-":     "can not both modify and remove the following label(s) in the same command: x",
		"pod a x=not:this": `invalid label value: "x=not:this": a valid label must be`,
	} {
		objects, change, err := parsePairs(labelVerb, strings.Fields(args))
		got := fmt.Sprint(objects, " ", change.set, " ", change.remove)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", args, got, want)
		}
	}
}

func TestMaskTellsDifferences(t *testing.T) {
	was := object{"data": map[string]any{"same": "a", "other": "a", "gone": "a"}}
	is := object{"data": map[string]any{"same": "a", "other": "b", "new": "a"}}
	mask(was, is)
	if got := fmt.Sprint(was, is); got != "map[data:map[gone:*** other:*** (before) same:***]] map[data:map[new:*** other:*** (after) same:***]]" {
		t.Errorf("got %s", got)
	}
	is = object{"data": map[string]any{"a": "x"}}
	mask(nil, is)
	if got := fmt.Sprint(is); got != "map[data:map[a:***]]" {
		t.Errorf("a new secret: %s", got)
	}
}

func TestDataFlags(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("one/app.conf", "x")
	write("one/other.conf", "y")
	write("one/below/not.conf", "z")
	env := write("vars", "# no\n\nA=1\n B=2=3\nC=\nPODRUN_TEST_UNSET\nPODRUN_TEST_SET\n")
	t.Setenv("PODRUN_TEST_SET", "yes")
	for _, tt := range []struct {
		flags dataFlags
		want  string
	}{
		{dataFlags{files: []string{file}}, "map[app.conf:x]"},
		{dataFlags{files: []string{"k=" + file}, literals: []string{"a=b"}}, "map[a:b k:x]"},
		{dataFlags{files: []string{dir + "/one"}}, "map[app.conf:x other.conf:y]"},
		{dataFlags{envFiles: []string{env}}, "map[A:1 B:2=3 C: PODRUN_TEST_SET:yes]"},
		{dataFlags{files: []string{"k=" + dir + "/one"}}, "cannot give a key name for a directory path"},
		{dataFlags{literals: []string{"a/b=c"}}, `"a/b" is not a valid key name: `},
		{dataFlags{files: []string{file}, literals: []string{"app.conf=c"}}, `cannot add key "app.conf", another key by that name already exists`},
		{dataFlags{envFiles: []string{write("bad", "1-x=1\n")}}, `"1-x" is not a valid key name: `},
	} {
		data, err := tt.flags.read()
		text := map[string]string{}
		for k, v := range data {
			text[k] = string(v)
		}
		got := fmt.Sprint(text)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tt.want) {
			t.Errorf("%+v: got %q, want %q", tt.flags, got, tt.want)
		}
	}
}

func TestUnready(t *testing.T) {
	for _, tt := range []struct {
		p    corev1.Pod
		want string
	}{
		{testPod("a", 2, waits(1, "CrashLoopBackOff")), `container "b" is waiting: CrashLoopBackOff`},
		{testPod("a", 2, waits(0, "ContainerCreating"), ended(1, 3, "Error")), `container "b" ended with exit code 3 (Error)`},
		{testPod("a", 1, func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Ready = false }), `container "a" runs and is not ready`},
		{testPod("a", 1, func(p *corev1.Pod) { p.Status.Reason, p.Status.Message = "DeadlineExceeded", "too long" }), "DeadlineExceeded: too long"},
		{testPod("a", 1, func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "Back-off pulling image"}}
		}), `container "a" is waiting: ImagePullBackOff: Back-off pulling image`},
		{corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}, "its phase is Pending"},
	} {
		if got := unready(&tt.p); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
