package pod

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// Problem is a field that podrun does not honour.
type Problem struct {
	Field  string // spec.containers[0].volumeDevices
	Reason string
}

// Unsupported lists the fields of a defaulted pod that podrun refuses, and
// those that it accepts without effect. Fields that only hold their default,
// or that ask for nothing, are not listed.
func Unsupported(p *corev1.Pod) (refused, ignored []Problem) {
	w := walker{pod: p}
	w.fields(reflect.ValueOf(p).Elem(), reflect.ValueOf(defaultPod()).Elem(), "", "")
	return w.refused, w.ignored
}

// defaultPod holds what Default sets by itself.
var defaultPod = sync.OnceValue(func() *corev1.Pod {
	p := &corev1.Pod{}
	Default(p)
	return p
})

type walker struct {
	pod              *corev1.Pod
	refused, ignored []Problem
}

// fields looks at the fields of a struct. path is where it is, plain the same
// without indexes. byDefault is what Default makes of it; it is not valid
// below lists.
func (w *walker) fields(v, byDefault reflect.Value, path, plain string) {
	t := v.Type()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		f := v.Field(i)
		var d reflect.Value
		if byDefault.IsValid() {
			d = byDefault.Field(i)
		}
		switch {
		case name == "" && f.Kind() == reflect.Struct:
			w.fields(f, d, path, plain)
		case name == "" || name == "-" || asksNothing(f, choices[t]):
		case d.IsValid() && reflect.DeepEqual(f.Interface(), d.Interface()):
		default:
			w.field(f, d, join(path, name), join(plain, name))
		}
	}
}

// field looks at a field that is set.
func (w *walker) field(f, byDefault reflect.Value, path, plain string) {
	if r := ruleFor(plain); r != nil {
		w.judge(r, path, plain)
		return
	}
	if f.Kind() == reflect.Pointer {
		f = f.Elem()
		if byDefault.IsValid() {
			byDefault = byDefault.Elem()
		}
	}
	switch {
	case f.Type() == reflect.TypeFor[corev1.ResourceList]():
		w.resources(f.Interface().(corev1.ResourceList), path, plain)
	case f.Kind() == reflect.Struct:
		w.fields(f, byDefault, path, plain)
	case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
		for i := range f.Len() {
			w.fields(f.Index(i), reflect.Value{}, fmt.Sprintf("%s[%d]", path, i), plain)
		}
	default:
		w.refused = append(w.refused, Problem{path, "podrun does not know this field"})
	}
}

// resources looks at the names in a list of resources.
func (w *walker) resources(list corev1.ResourceList, path, plain string) {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		at := path + "[" + string(name) + "]"
		// What is limited is requested too, by default.
		limited := strings.Replace(at, ".requests[", ".limits[", 1)
		told := func(p Problem) bool { return p.Field == limited }
		r := ruleFor(plain + "." + resourceKind(name))
		if r != nil && !slices.ContainsFunc(w.refused, told) && !slices.ContainsFunc(w.ignored, told) { // without a rule it is not valid
			w.judge(r, at, plain)
		}
	}
}

func (w *walker) judge(r *rule, path, plain string) {
	support, note := r.support, r.note
	spec := &w.pod.Spec
	switch plain {
	case "metadata.generateName":
		if w.pod.Name != "" {
			return // it had no part in the name
		}
	case "spec.serviceAccount":
		return // the old name of serviceAccountName, which Default makes the same
	case "spec.os.name":
		if spec.OS.Name != corev1.Linux {
			support, note = Refused, notWindows
		}
	case "spec.volumes.emptyDir.medium":
		var i int
		if _, err := fmt.Sscanf(path, "spec.volumes[%d]", &i); err == nil && strings.HasPrefix(string(spec.Volumes[i].EmptyDir.Medium), string(corev1.StorageMediumHugePages)) {
			support, note = Refused, noHugePages
		}
	case "spec.containers.ports.hostPort", "spec.initContainers.ports.hostPort", "spec.containers.ports.hostIP", "spec.initContainers.ports.hostIP":
		if spec.HostNetwork {
			return // the container port itself, by default
		}
		if r := hostPortRule(spec, path); r != nil {
			support, note = r.support, r.note
		}
	}
	switch support {
	case Refused:
		w.refused = append(w.refused, Problem{path, note})
	case NoEffect:
		w.ignored = append(w.ignored, Problem{path, note})
	}
}

// hostPortRule is what holds for the hostPort or hostIP at path, where that is
// not what the table says.
func hostPortRule(spec *corev1.PodSpec, path string) *rule {
	c, p, ok := portAt(spec, path)
	_, badIP := netip.ParseAddr(p.HostIP)
	switch {
	case !ok:
		return nil
	case strings.HasSuffix(path, ".hostIP") && badIP != nil:
		return &rule{support: Refused, note: "must be an IP address"}
	case strings.HasSuffix(path, ".hostIP") && p.HostPort == 0:
		return &rule{support: NoEffect, note: "there is no hostPort with it"}
	case strings.HasSuffix(path, ".hostPort") && p.Protocol == corev1.ProtocolSCTP:
		return &rule{support: Refused, note: noSCTP}
	case strings.HasPrefix(path, "spec.initContainers") && !IsSidecar(c):
		return &rule{support: NoEffect, note: noHostPorts}
	}
	return nil
}

// portAt finds the port that a path such as spec.containers[0].ports[1].hostIP
// is about.
func portAt(spec *corev1.PodSpec, path string) (*corev1.Container, corev1.ContainerPort, bool) {
	var list string
	var i, j int
	if _, err := fmt.Sscanf(strings.NewReplacer(".", " ", "[", " ", "]", " ").Replace(path), "spec %s %d ports %d", &list, &i, &j); err != nil {
		return nil, corev1.ContainerPort{}, false
	}
	containers := spec.Containers
	if list == "initContainers" {
		containers = spec.InitContainers
	}
	return &containers[i], containers[i].Ports[j], true
}

// resourceKind is the word by which the table knows a resource.
func resourceKind(name corev1.ResourceName) string {
	switch {
	case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
		return "hugepages-*"
	case strings.Contains(string(name), "/"):
		return "extended"
	}
	return string(name)
}

// choices are the types of which each field is a choice, so that even an empty
// one says something.
var choices = map[reflect.Type]bool{reflect.TypeFor[corev1.VolumeSource](): true, reflect.TypeFor[corev1.VolumeProjection](): true}

// asksNothing tells whether a field is not set, or says no.
func asksNothing(f reflect.Value, choice bool) bool {
	switch f.Kind() {
	case reflect.Pointer:
		if f.IsNil() {
			return true
		}
		switch e := f.Elem(); e.Kind() {
		case reflect.Bool, reflect.String:
			return e.IsZero()
		case reflect.Struct:
			return e.IsZero() && !choice
		}
		return false
	case reflect.Slice, reflect.Map:
		return f.Len() == 0
	}
	return f.IsZero()
}
