package upstream_test

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"get.podrun.dev/podrun/pod"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// TestRandom compares pods that are changed at random, always the same ones.
func TestRandom(t *testing.T) {
	const n = 4000
	counts := map[verdict]int{}
	differences := 0
	for seed := range uint64(n) {
		p := randomPod(rand.New(rand.NewPCG(seed, 37)))
		v, difference := differ(p)
		counts[v]++
		if difference == "" {
			continue
		}
		t.Errorf("seed %d: %s\nThe pod is %s", seed, difference, toJSON(p))
		if differences++; differences == 5 {
			t.Fatal("these are enough")
		}
	}
	if counts[accepted] < n/20 || counts[invalid] < n/4 || counts[refused] > n/3 {
		t.Errorf("the pods are not various enough: %v", counts)
	}
}

// FuzzPod compares pods for as long as one likes.
func FuzzPod(f *testing.F) {
	f.Add(uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, seed, stream uint64) {
		compare(t, randomPod(rand.New(rand.NewPCG(seed, stream))))
	})
}

// seeds are the pods that random ones begin as.
var seeds = func() []*corev1.Pod {
	var out []*corev1.Pod
	files, _ := filepath.Glob(filepath.Join("..", "testdata", "kubernetes.io", "*.yaml"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			panic(err)
		}
		objects, _ := pod.Parse(file, data)
		for _, o := range objects {
			if o.Pod != nil {
				out = append(out, o.Pod)
			}
		}
	}
	return out
}()

// randomPod changes a few fields of an example.
func randomPod(r *rand.Rand) *corev1.Pod {
	p := seeds[r.IntN(len(seeds))].DeepCopy()
	p.Status = corev1.PodStatus{}
	for range 1 + r.IntN(6) {
		m := mutator{r, p, 1 + r.IntN(12)}
		switch r.IntN(8) {
		case 0:
			m.change(reflect.ValueOf(&p.ObjectMeta).Elem(), "metadata")
		default:
			m.change(reflect.ValueOf(&p.Spec).Elem(), "spec")
		}
	}
	return p
}

// mutator changes one field of a pod.
type mutator struct {
	*rand.Rand
	pod   *corev1.Pod
	depth int // how far down to go before filling what is not set
}

// change goes down from v at random, and changes what it comes to.
func (m mutator) change(v reflect.Value, path string) {
	if m.depth--; m.depth < -12 {
		return
	}
	switch v.Interface().(type) {
	case resource.Quantity, intstr.IntOrString, metav1.Time:
		m.scalar(v, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		var fields []int
		for i := range v.NumField() {
			name := jsonName(v.Type().Field(i))
			support, _, known := pod.SupportOf(join(path, name))
			// What is refused is not compared, but for now and then.
			if name != "-" && (!known || support != pod.Refused || m.IntN(200) == 0) {
				fields = append(fields, i)
			}
		}
		if len(fields) == 0 {
			return
		}
		i := fields[m.IntN(len(fields))]
		m.change(v.Field(i), join(path, jsonName(v.Type().Field(i))))
	case reflect.Pointer:
		switch {
		case v.IsNil() || m.IntN(12) == 0 && v.Elem().Kind() != reflect.Struct:
			v.Set(reflect.New(v.Type().Elem()))
			m.change(v.Elem(), path)
		case m.IntN(12) == 0:
			v.SetZero()
		default:
			m.change(v.Elem(), path)
		}
	case reflect.Slice:
		m.slice(v, path)
	case reflect.Map:
		m.mapping(v, path)
	default:
		m.scalar(v, path)
	}
}

func (m mutator) slice(v reflect.Value, path string) {
	switch n := v.Len(); {
	case n == 0 || m.IntN(6) == 0 && n < 6:
		v.Set(reflect.Append(v, reflect.New(v.Type().Elem()).Elem()))
		if n > 0 && m.IntN(2) == 0 { // one that is like another, or the same
			v.Index(n).Set(deepCopy(v.Index(m.IntN(n))))
		}
		m.change(v.Index(n), path)
	case m.IntN(8) == 0:
		v.Set(v.Slice(0, n-1))
	default:
		m.change(v.Index(m.IntN(n)), path)
	}
}

func (m mutator) mapping(v reflect.Value, path string) {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
	if v.Type() == reflect.TypeFor[corev1.ResourceList]() {
		key.SetString(m.pick("cpu", "memory", "cpu", "memory", "cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "example.com/gpu", "pods", "disk", "storage"))
	} else {
		m.scalar(key, path)
	}
	m.change(value, path)
	v.SetMapIndex(key, value)
}

func (m mutator) pick(words ...string) string { return words[m.IntN(len(words))] }

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func join(path, name string) string {
	if name == "" {
		return path
	}
	return path + "." + name
}
