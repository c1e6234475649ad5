package pod

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Sources gives what an environment is made of beside its pod. An object that
// is not there is a NotFound error of the Kubernetes API.
type Sources interface {
	ConfigMap(name string) (*corev1.ConfigMap, error)
	Secret(name string) (*corev1.Secret, error)
	// Allocatable is what the node can give: the limit of who has none.
	Allocatable() corev1.ResourceList
	// OpenFile opens a file of one of the pod's volumes for reading; no link
	// leads out of the volume.
	OpenFile(volume, path string) (io.ReadCloser, error)
}

// Env is the environment of a container.
type Env struct {
	order   []string
	values  map[string]string
	defined map[string]string // by the manifest: what $(NAME) can name
}

// List returns the variables in NAME=value form and the order in which they
// were first named.
func (e *Env) List() []string {
	out := make([]string, 0, len(e.order))
	for _, name := range e.order {
		out = append(out, name+"="+e.values[name])
	}
	return out
}

func (e *Env) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.order = append(e.order, name)
	}
	e.values[name] = value
}

func (e *Env) define(name, value string) {
	e.defined[name] = value
	e.set(name, value)
}

func (e *Env) lookup(name string) (string, bool) {
	v, ok := e.defined[name]
	return v, ok
}

// Command returns the program and arguments of a container: its command or
// else the image's entrypoint, with its args or else, when it has no command
// either, the image's cmd. References to variables of the manifest are
// expanded in the manifest's words; the image's are not Kubernetes' syntax.
func (e *Env) Command(c *corev1.Container, entrypoint, cmd []string) []string {
	expand := func(words []string) []string {
		out := make([]string, 0, len(words))
		for _, s := range words {
			out = append(out, Expand(s, e.lookup))
		}
		return out
	}
	switch {
	case len(c.Command) > 0:
		return append(expand(c.Command), expand(c.Args)...)
	case len(c.Args) > 0:
		return append(slices.Clone(entrypoint), expand(c.Args)...)
	}
	return append(slices.Clone(entrypoint), cmd...)
}

// SubPath returns the subPath of a mount, its subPathExpr expanded. A variable
// without a value is an error, for it would name another directory.
func (e *Env) SubPath(m *corev1.VolumeMount) (string, error) {
	if m.SubPathExpr == "" {
		return m.SubPath, nil
	}
	missing := map[string]bool{}
	path := Expand(m.SubPathExpr, func(name string) (string, bool) {
		if e.defined[name] == "" {
			missing[name] = true
		}
		return e.defined[name], true
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("missing value for %s", strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
	}
	return path, nil
}

// Environment returns base, which is in NAME=value form, with the variables of
// c on top: those of envFrom, then those of env. p gives what fieldRef asks
// for; its status must hold the pod's addresses when NeedsIP says so. The
// errors are the kubelet's.
func Environment(base []string, c *corev1.Container, p *corev1.Pod, from Sources) (*Env, error) {
	e := &Env{values: map[string]string{}, defined: map[string]string{}}
	for _, kv := range base {
		name, value, _ := strings.Cut(kv, "=")
		e.set(name, value)
	}
	for i := range c.EnvFrom {
		if err := e.addAll(&c.EnvFrom[i], from); err != nil {
			return nil, err
		}
	}
	for i := range c.Env {
		v := &c.Env[i]
		if v.Value != "" || v.ValueFrom == nil {
			// References see what was defined before them in the manifest, not
			// what the image sets.
			e.define(v.Name, Expand(v.Value, e.lookup))
			continue
		}
		value, ok, err := valueFrom(v.ValueFrom, c, p, from)
		if err != nil {
			return nil, err
		}
		if ok {
			e.define(v.Name, value)
		}
	}
	return e, nil
}

// addAll adds the variables of a whole object.
func (e *Env) addAll(s *corev1.EnvFromSource, from Sources) error {
	data := map[string]string{}
	switch {
	case s.ConfigMapRef != nil:
		m, err := from.ConfigMap(s.ConfigMapRef.Name)
		if err != nil {
			return unlessOptional(err, s.ConfigMapRef.Optional)
		}
		data = m.Data
	case s.SecretRef != nil:
		secret, err := from.Secret(s.SecretRef.Name)
		if err != nil {
			return unlessOptional(err, s.SecretRef.Optional)
		}
		for k, v := range secret.Data {
			data[k] = string(v)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(data)) {
		e.define(s.Prefix+k, data[k])
	}
	return nil
}

// valueFrom returns the value of a variable, and false when it is optional and
// not there: then the variable is not set.
func valueFrom(s *corev1.EnvVarSource, c *corev1.Container, p *corev1.Pod, from Sources) (value string, ok bool, err error) {
	switch {
	case s.FieldRef != nil:
		value, err = Field(p, s.FieldRef.FieldPath)
		return value, err == nil, err
	case s.ResourceFieldRef != nil:
		value, err = ResourceField(p, c, s.ResourceFieldRef, from.Allocatable)
		return value, err == nil, err
	case s.ConfigMapKeyRef != nil:
		ref := s.ConfigMapKeyRef
		m, err := from.ConfigMap(ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		if value, ok = m.Data[ref.Key]; !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %s in ConfigMap %s/%s", ref.Key, p.Namespace, ref.Name)
		}
		return value, ok, nil
	case s.SecretKeyRef != nil:
		ref := s.SecretKeyRef
		secret, err := from.Secret(ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		data, ok := secret.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %s in Secret %s/%s", ref.Key, p.Namespace, ref.Name)
		}
		return string(data), ok, nil
	case s.FileKeyRef != nil:
		return fileKey(s.FileKeyRef, from)
	}
	return "", false, errors.New("this kind of valueFrom is not supported")
}

// fileKey reads a variable from a file that, most often, an init container
// wrote into a volume.
func fileKey(ref *corev1.FileKeySelector, from Sources) (string, bool, error) {
	f, err := from.OpenFile(ref.VolumeName, ref.Path)
	if errors.Is(err, fs.ErrNotExist) && isTrue(ref.Optional) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("couldn't parse env file: %w", err)
	}
	defer func() { _ = f.Close() }()
	value, err := envFileValue(f, ref.Key)
	if err != nil {
		return "", false, fmt.Errorf("couldn't parse env file: %q of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	if value == "" && !isTrue(ref.Optional) {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q of volume %q", ref.Key, ref.Path, ref.VolumeName)
	}
	return value, value != "", nil
}

func unlessOptional(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil
	}
	return err
}

func isTrue(b *bool) bool { return b != nil && *b }
