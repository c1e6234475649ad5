package pod

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"
)

// Limits of a manifest.
const (
	maxBytes = 16 << 20  // of one file
	maxNodes = 1_000_000 // after aliases are followed: stops "billion laughs"
)

// otherKinds are kinds of Kubernetes that people will try.
var otherKinds = []string{
	"ConfigMap", "CronJob", "DaemonSet", "Deployment", "Endpoints", "HorizontalPodAutoscaler", "Ingress", "Job", "LimitRange",
	"Namespace", "NetworkPolicy", "PersistentVolume", "PersistentVolumeClaim", "PodDisruptionBudget", "PodTemplate", "ReplicaSet",
	"ReplicationController", "ResourceQuota", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Secret", "Service",
	"ServiceAccount", "StatefulSet", "StorageClass", "CustomResourceDefinition",
}

// Parse reads a manifest, YAML or JSON, of one or several documents, Lists
// included. name is the file's for complaints. The error is of type Errors and
// holds every complaint; no object is returned with it.
func Parse(name string, data []byte) ([]*Object, error) {
	if len(data) > maxBytes {
		return nil, Errors{{File: name, Msg: fmt.Sprintf("manifest is larger than %d MiB", maxBytes>>20)}}
	}
	p := &parser{file: name}
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			p.errs = append(p.errs, syntaxError(name, err))
			break
		}
		if len(doc.Content) == 1 && !isNull(doc.Content[0]) {
			p.document(doc.Content[0])
		}
	}
	if len(p.errs) == 0 && len(p.objects) == 0 {
		p.errs = append(p.errs, &Error{File: name, Msg: "no objects in the manifest"})
	}
	if err := p.errs.orNil(); err != nil {
		return nil, err
	}
	return p.objects, nil
}

// syntaxError turns what the YAML library says into a complaint: its messages
// carry a line and no column.
func syntaxError(name string, err error) *Error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	e := &Error{File: name, Msg: msg}
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if n, text, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(n); err == nil {
				e.Line, e.Column, e.Msg = line, 1, text
			}
		}
	}
	if strings.Contains(e.Msg, "cannot start any token") {
		e.Mend = "YAML takes spaces for indentation, not tabs"
	}
	return e
}

type parser struct {
	file    string
	errs    Errors
	objects []*Object
	nodes   int

	positions map[string]Position // of the object being read
}

func (p *parser) complain(n *yaml.Node, path, mend, format string, args ...any) {
	p.errs = append(p.errs, &Error{
		File: p.file, Line: n.Line, Column: n.Column, Field: path, Msg: fmt.Sprintf(format, args...), Mend: mend,
	})
}

// document reads one object, or the items of a List.
func (p *parser) document(n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		p.complain(n, "", "", "expected an object, got %s", describe(n))
		return
	}
	kind, kindNode := scalarField(n, "kind")
	version, versionNode := scalarField(n, "apiVersion")
	if kindNode == nil {
		p.complain(n, "kind", `write "kind: Pod"`, "required field is missing")
		return
	}
	if versionNode == nil {
		p.complain(n, "apiVersion", `write "apiVersion: v1"`, "required field is missing")
		return
	}
	switch kind {
	case "Pod":
		if version != "v1" {
			p.complain(versionNode, "apiVersion", `a Pod has apiVersion "v1"`, "unknown version %q of kind Pod", version)
			return
		}
		p.pod(n)
	case "List", "PodList":
		p.list(n)
	default:
		for _, k := range otherKinds {
			if k == kind {
				p.complain(kindNode, "kind", "only Pod is", "kind %s is not supported by this version of podrun", kind)
				return
			}
		}
		p.complain(kindNode, "kind", suggest(kind, append([]string{"Pod", "List"}, otherKinds...)), "unknown kind %q", kind)
	}
}

func (p *parser) list(n *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch key.Value {
		case "kind", "apiVersion", "metadata":
		case "items":
			if value.Kind != yaml.SequenceNode {
				p.complain(value, "items", "", "expected a list, got %s", describe(value))
				continue
			}
			for _, item := range value.Content {
				p.document(item)
			}
		default:
			p.complain(key, key.Value, suggest(key.Value, []string{"items", "metadata"}), "unknown field")
		}
	}
}

func (p *parser) pod(n *yaml.Node) {
	p.positions = map[string]Position{"": {n.Line, n.Column}}
	before := len(p.errs)
	value := p.value(n, reflect.TypeFor[corev1.Pod](), "")
	if len(p.errs) > before {
		return
	}
	data, err := json.Marshal(value)
	if err != nil {
		p.complain(n, "", "", "%v", err)
		return
	}
	out := new(corev1.Pod)
	if err := json.Unmarshal(data, out); err != nil {
		p.complain(n, "", "", "%v", err)
		return
	}
	p.objects = append(p.objects, &Object{Kind: "Pod", APIVersion: "v1", File: p.file, Positions: p.positions, Pod: out})
}

// scalarField returns the value and node of a scalar field of a mapping.
func scalarField(n *yaml.Node, name string) (string, *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			v := n.Content[i+1]
			if v.Kind == yaml.AliasNode {
				v = v.Alias
			}
			if v.Kind == yaml.ScalarNode && !isNull(v) {
				return v.Value, v
			}
			return "", nil
		}
	}
	return "", nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// describe names what a node is, for "expected X, got Y".
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int":
		return "integer " + n.Value
	case "!!float":
		return "number " + n.Value
	case "!!bool":
		return "boolean " + n.Value
	case "!!null":
		return "null"
	}
	const limit = 40
	if len(n.Value) > limit {
		return "string " + strconv.Quote(n.Value[:limit]) + "..."
	}
	return "string " + strconv.Quote(n.Value)
}
