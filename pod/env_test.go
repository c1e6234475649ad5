package pod_test

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"

	"get.podrun.dev/podrun/pod"
)

// sources is a map of files, a ConfigMap "cm" and a Secret "s".
type sources map[string]string

func (sources) ConfigMap(name string) (*corev1.ConfigMap, error) {
	if name != "cm" {
		return nil, apierrors.NewNotFound(corev1.Resource("configmap"), name)
	}
	return &corev1.ConfigMap{Data: map[string]string{"b": "2", "a": "1", "ref": "$(a)"}}, nil
}

func (sources) Secret(name string) (*corev1.Secret, error) {
	if name != "s" {
		return nil, apierrors.NewNotFound(corev1.Resource("secret"), name)
	}
	return &corev1.Secret{Data: map[string][]byte{"key": []byte("hush")}}, nil
}

func (sources) Allocatable() corev1.ResourceList {
	return corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi"), "ephemeral-storage": resource.MustParse("5Gi")}
}

func (s sources) OpenFile(volume, path string) (io.ReadCloser, error) {
	text, ok := s[volume+"/"+path]
	if !ok {
		return nil, &fs.PathError{Op: "openat2", Path: path, Err: fs.ErrNotExist}
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	for in, want := range map[string]string{
		"": "", "plain": "plain", "$(A)": "1", "x$(A)y$(A)": "x1y1", "$$(A)": "$(A)", "$$$(A)": "$1", "$(NO)": "$(NO)",
		"$(A": "$(A", "$A": "$A", "$": "$", "$$": "$", "$(B)": "$(A)", "[$(EMPTY)]": "[]", "$()": "$()", "a$": "a$",
	} {
		if got := pod.Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCommand(t *testing.T) {
	entrypoint, cmd := []string{"entry", "$(A)"}, []string{"cmd"}
	for _, c := range []struct {
		name          string
		command, args []string
		want          string
	}{
		{"the image's", nil, nil, "entry $(A) cmd"},
		{"args replace cmd", nil, []string{"$(A)"}, "entry $(A) 1"},
		{"command replaces both", []string{"run", "$(A)"}, nil, "run 1"},
		{"command and args", []string{"run"}, []string{"$$(A)"}, "run $(A)"},
		{"not the image's variables", []string{"run"}, []string{"$(HOME)"}, "run $(HOME)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			container := &corev1.Container{Command: c.command, Args: c.args, Env: []corev1.EnvVar{{Name: "A", Value: "1"}}}
			env, err := pod.Environment([]string{"HOME=/root"}, container, minimal(), sources{})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(env.Command(container, entrypoint, cmd), " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func fieldRef(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func configMapKey(name, object, key string, optional bool) corev1.EnvVar {
	ref := &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: object}, Key: key, Optional: &optional}
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: ref}}
}

func secretKey(name, object, key string, optional bool) corev1.EnvVar {
	ref := &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: object}, Key: key, Optional: &optional}
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: ref}}
}

func fileKey(name, path, key string, optional bool) corev1.EnvVar {
	ref := &corev1.FileKeySelector{VolumeName: "v", Path: path, Key: key, Optional: &optional}
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FileKeyRef: ref}}
}

func resourceField(name, resourceName, container, divisor string) corev1.EnvVar {
	ref := &corev1.ResourceFieldSelector{Resource: resourceName, ContainerName: container}
	if divisor != "" {
		ref.Divisor = resource.MustParse(divisor)
	}
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: ref}}
}

func configMapRef(name, prefix string, optional bool) corev1.EnvFromSource {
	return corev1.EnvFromSource{Prefix: prefix, ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &optional}}
}

func secretRef(name string, optional bool) corev1.EnvFromSource {
	return corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &optional}}
}

func TestEnvironment(t *testing.T) {
	p := minimal()
	p.Namespace = "default"
	p.Labels = map[string]string{"app": "x"}
	p.Status.PodIP = "10.0.0.1"
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("1500m")}
	main := p.Spec.Containers[0].Name
	file := sources{"v/dir/env": "# first\n\nA='one'\nB='two\nlines' # two\n"}
	for _, c := range []struct {
		name string
		from []corev1.EnvFromSource
		env  []corev1.EnvVar
		want []string // beyond the image's
		err  string
	}{
		{name: "values", env: []corev1.EnvVar{
			{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)$(LATER)$(HOME)"}, {Name: "LATER", Value: "2"},
		}, want: []string{"A=1", "B=1$(LATER)$(HOME)", "LATER=2"}},
		{name: "fields", env: []corev1.EnvVar{fieldRef("IP", "status.podIP"), fieldRef("L", "metadata.labels['app']"), fieldRef("NAME", "metadata.name")},
			want: []string{"IP=10.0.0.1", "L=x", "NAME=p"}},
		{name: "all of a ConfigMap", from: []corev1.EnvFromSource{configMapRef("cm", "P_", false)}, env: []corev1.EnvVar{{Name: "X", Value: "<$(P_a)>"}, {Name: "P_b", Value: "3"}},
			want: []string{"P_a=1", "P_b=3", "P_ref=$(a)", "X=<1>"}},
		{name: "all of a Secret", from: []corev1.EnvFromSource{secretRef("s", false)}, want: []string{"key=hush"}},
		{name: "optional and missing", from: []corev1.EnvFromSource{configMapRef("no", "", true), secretRef("no", true)},
			env: []corev1.EnvVar{configMapKey("A", "no", "k", true), configMapKey("B", "cm", "k", true), secretKey("C", "no", "k", true), secretKey("D", "s", "k", true), fileKey("E", "no", "k", true), fileKey("F", "dir/env", "k", true)}},
		{name: "keys", env: []corev1.EnvVar{configMapKey("A", "cm", "a", false), secretKey("S", "s", "key", false)}, want: []string{"A=1", "S=hush"}},
		{name: "no ConfigMap", env: []corev1.EnvVar{configMapKey("A", "no", "a", false)}, err: `configmap "no" not found`},
		{name: "no ConfigMap for all", from: []corev1.EnvFromSource{configMapRef("no", "", false)}, err: `configmap "no" not found`},
		{name: "no key", env: []corev1.EnvVar{configMapKey("A", "cm", "k", false)}, err: `couldn't find key k in ConfigMap default/cm`},
		{name: "no Secret", env: []corev1.EnvVar{secretKey("A", "no", "a", false)}, err: `secret "no" not found`},
		{name: "no key of a Secret", env: []corev1.EnvVar{secretKey("A", "s", "k", false)}, err: `couldn't find key k in Secret default/s`},
		{name: "resources", env: []corev1.EnvVar{
			resourceField("CPU", "limits.cpu", "", ""), resourceField("MILLI", "limits.cpu", main, "1m"), resourceField("MEM", "limits.memory", main, "1Mi"), resourceField("REQ", "requests.memory", main, ""),
		}, want: []string{"CPU=2", "MILLI=1500", "MEM=1024", "REQ=0"}},
		{name: "resources of nobody", env: []corev1.EnvVar{resourceField("CPU", "limits.cpu", "nobody", "")}, err: "container nobody not found"},
		{name: "a file", env: []corev1.EnvVar{fileKey("A", "dir/env", "A", false), fileKey("B", "dir/env", "B", false)}, want: []string{"A=one", "B=two\nlines"}},
		{name: "no file", env: []corev1.EnvVar{fileKey("A", "no", "A", false)}, err: "couldn't parse env file: openat2 no: file does not exist"},
		{name: "no key in a file", env: []corev1.EnvVar{fileKey("A", "dir/env", "C", false)}, err: `environment variable key "C" not found in file "dir/env" of volume "v"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := []string{"PATH=/bin", "HOME=/root"}
			spec := p.Spec.Containers[0].DeepCopy()
			spec.EnvFrom, spec.Env = c.from, c.env
			env, err := pod.Environment(base, spec, p, file)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := append(base, c.want...); !slices.Equal(env.List(), want) {
				t.Errorf("environment %q, want %q", env.List(), want)
			}
		})
	}
}

func TestSubPathExpr(t *testing.T) {
	c := &corev1.Container{Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "EMPTY"}}}
	env, err := pod.Environment([]string{"HOME=/root"}, c, minimal(), sources{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := env.SubPath(&corev1.VolumeMount{SubPathExpr: "x/$(A)"}); err != nil || got != "x/1" {
		t.Errorf("got %q, %v", got, err)
	}
	const want = "missing value for EMPTY, HOME"
	if _, err := env.SubPath(&corev1.VolumeMount{SubPathExpr: "$(HOME)/$(EMPTY)"}); err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestEnvFile(t *testing.T) {
	const bad = "couldn't parse env file: \"f\" of volume \"v\": invalid environment variable format "
	for text, want := range map[string]string{
		"K='v'":                    "v",
		"  K='a # b'  # comment\n": "a # b",
		"K='1'\nK='2'\n":           "1",
		"A= 'x'\nK='$(A)\\n'":      `$(A)\n`,
		"K='a\n\nb'\n":             "a\n\nb",
		"K\n":                      bad + "at line 1: missing '='",
		"\n='v'\n":                 bad + "at line 2: empty variable name",
		"K ='v'\n":                 bad + "at line 1: whitespace before '=' is not allowed",
		"K=v\n":                    bad + "at line 1: value must be enclosed in single quotes",
		"K='v\n":                   bad + "at line 1: unclosed single quote",
		"A='a\nb'c\nK='v'":         bad + "at line 2: unexpected content after closing quote",
	} {
		c := &corev1.Container{Env: []corev1.EnvVar{fileKey("X", "f", "K", false)}}
		env, err := pod.Environment(nil, c, minimal(), sources{"v/f": text})
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = strings.TrimPrefix(env.List()[0], "X=")
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	large := sources{"v/f": "A='" + strings.Repeat("x", 2<<20) + "'"}
	if _, err := pod.Environment(nil, &corev1.Container{Env: []corev1.EnvVar{fileKey("X", "f", "K", false)}}, minimal(), large); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a large file: %v", err)
	}
}

func TestMapField(t *testing.T) {
	p := minimal()
	p.Labels = map[string]string{"b": "2", "a": `say "x"`}
	if got, err := pod.Field(p, "metadata.labels"); err != nil || got != "a=\"say \\\"x\\\"\"\nb=\"2\"" {
		t.Errorf("got %q, %v", got, err)
	}
}
