package pod_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/pod"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// complaints is everything that podrun says of a manifest before it does
// anything, a line each.
func complaints(name string, data []byte) string {
	objects, err := pod.Parse(name, data)
	if err != nil {
		return err.Error() + "\n"
	}
	var out strings.Builder
	for _, o := range objects {
		v := o.Value.DeepCopyObject().(pod.Value)
		pod.Complete(v)
		if err := o.Locate(pod.Check(v)); err != nil {
			out.WriteString(err.Error() + "\n")
		} else {
			out.WriteString("ok " + strings.TrimPrefix(v.GetNamespace()+"/", "/") + v.GetName() + "\n")
		}
		var ignored []pod.Problem
		if p, is := v.(*corev1.Pod); is {
			_, ignored = pod.Unsupported(p)
		}
		for _, i := range ignored {
			out.WriteString("no effect: " + i.Field + ": " + i.Reason + "\n")
		}
	}
	return out.String()
}

// Each testdata/*.yml and *.json has what podrun says of it beside it, in
// NAME.txt. Review reads these files: they are the product.
func TestComplaints(t *testing.T) {
	var files []string
	for _, pattern := range []string{"*.yml", "*.json", "kubernetes.io/*.yaml"} {
		found, err := filepath.Glob(filepath.Join("testdata", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 20 {
		t.Fatalf("only %d manifests found", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := complaints(filepath.Base(file), data)
			golden := strings.TrimSuffix(file, filepath.Ext(file)) + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("podrun says\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestParseKeepsValues(t *testing.T) {
	objects, err := pod.Parse("f", []byte(`
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: a, labels: {app: x,}, annotations: {"n": "1"}}
  spec:
    terminationGracePeriodSeconds: 5
    containers:
    - {name: c, image: busybox, command: ['sh', '-c', 'echo hi',], resources: {limits: {memory: 64Mi, cpu: 0.5}}, tty: true}
---
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}, "spec": {"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 2 || objects[0].Pod.Name != "a" || objects[1].Pod.Name != "b" {
		t.Fatalf("objects %+v", objects)
	}
	c := objects[0].Pod.Spec.Containers[0]
	if c.Command[2] != "echo hi" || c.Resources.Limits.Memory().Value() != 64<<20 || c.Resources.Limits.Cpu().MilliValue() != 500 || !c.TTY ||
		*objects[0].Pod.Spec.TerminationGracePeriodSeconds != 5 || objects[0].Pod.Labels["app"] != "x" {
		t.Errorf("container %+v", c)
	}
	if at := objects[0].Positions["spec.containers[0].image"]; at.Line != 11 || at.Column != 17 {
		t.Errorf("image is at %+v, want 11:17", at)
	}
	if objects[1].Pod.Spec.Containers[0].Ports[0].ContainerPort != 80 {
		t.Error("the port of the JSON document is lost")
	}
}

func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers: []\n  nodeSelector: &a0 {k: v}\n")
	b.WriteString("x0: &b0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 10; i++ {
		prev := string(rune('0' + i - 1))
		b.WriteString("x" + string(rune('0'+i)) + ": &b" + string(rune('0'+i)) + " [" + strings.Repeat("*b"+prev+",", 10) + "]\n")
	}
	if _, err := pod.Parse("bomb", []byte(b.String())); err == nil {
		t.Error("a manifest of 10 billion values was accepted")
	}
	bomb := "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - {name: a, image: x, command: &c [" + strings.Repeat("x,", 2000) + "]}\n"
	for range 1000 {
		bomb += "  - {name: a, image: x, command: *c}\n"
	}
	if _, err := pod.Parse("bomb", []byte(bomb)); err == nil || !strings.Contains(err.Error(), "aliases") {
		t.Errorf("aliases to 2 million values: %v", err)
	}
}

// A List that holds itself many times over is given up, at once.
func TestListBomb(t *testing.T) {
	items := strings.Repeat("*l,", 200)
	if _, err := pod.Parse("bomb", []byte("&l {apiVersion: v1, kind: List, items: ["+items+"]}")); err == nil {
		t.Error("Lists in one another without end were accepted")
	}
	merges := "&m {<<: [" + strings.Repeat("*m,", 50) + "], kind: Pod, apiVersion: v1}"
	if _, err := pod.Parse("bomb", []byte(merges)); err == nil {
		t.Error("a mapping that merges itself was accepted")
	}
	if _, err := pod.Parse("bomb", []byte(strings.Repeat("{\"a\":", 1_000_000))); err == nil {
		t.Error("a million objects in one another were accepted")
	}
}

// To find the line of a mistake costs a bounded time.
func TestLargeMistake(t *testing.T) {
	start := time.Now()
	text := "a: '" + strings.Repeat(strings.Repeat("x", 4000)+"\n", 2000)
	if _, err := pod.Parse("f", []byte(text)); err == nil {
		t.Error("a quote without end was accepted")
	}
	if took := time.Since(start); took > 20*time.Second { // 80 s without the bound, under 1 s with it
		t.Errorf("an 8 MB mistake took %s", took)
	}
}

func TestTooLarge(t *testing.T) {
	if _, err := pod.Parse("f", make([]byte, 17<<20)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("17 MiB: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := pod.Parse("f", data)
		if err != nil {
			if len(objects) > 0 {
				t.Error("objects beside an error")
			}
			return
		}
		for _, o := range objects {
			v := o.Value
			pod.Complete(v)
			_ = o.Locate(pod.Check(v))
			again := v.DeepCopyObject().(pod.Value)
			pod.Complete(again)
			if errs := pod.CheckUpdate(v, again); len(errs) > 0 {
				t.Errorf("completing twice changes a %s: %v", o.Kind, errs)
			}
		}
	})
}

// A wrong value of any length is shown as far as a person reads it.
func TestLongValueIsCut(t *testing.T) {
	name := strings.Repeat("ä", 1_000_000)
	got := complaints("f", []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: "+name+"}\nspec: {containers: [{name: c, image: i}]}\n"))
	if len(got) > 5000 || !strings.Contains(got, "äää... (2000000 bytes)") {
		t.Errorf("got %d bytes: %.200s", len(got), got)
	}
}
