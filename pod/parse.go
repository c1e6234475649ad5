package pod

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"
)

// Limits of a manifest.
const (
	maxBytes = 16 << 20  // of one file
	maxNodes = 1_000_000 // after aliases are followed: stops "billion laughs"

	maxComplaints = 1000 // of one file
)

// Parse reads a manifest, YAML or JSON, of one or several documents, Lists
// included. name is the file's for complaints. The error is of type Errors and
// holds every complaint; no object is returned with it.
func Parse(name string, data []byte) ([]*Object, error) {
	if len(data) > maxBytes {
		return nil, Errors{{File: name, Msg: fmt.Sprintf("manifest is larger than %d MiB", maxBytes>>20)}}
	}
	p := &parser{file: name}
	documents, broken := readDocuments(data)
	for _, n := range documents {
		if !isNull(n) {
			p.document(n, 0)
		}
	}
	if broken != nil {
		p.errs = append(p.errs, &Error{File: name, Line: broken.Line, Column: broken.Column, Msg: broken.msg, Mend: broken.mend})
	}
	if len(p.errs) == 0 && len(p.objects) == 0 {
		p.errs = append(p.errs, &Error{File: name, Msg: "no objects in the manifest"})
	}
	if err := p.errs.orNil(); err != nil {
		return nil, err
	}
	return p.objects, nil
}

type parser struct {
	file    string
	errs    Errors
	objects []*Object
	nodes   int

	positions map[string]Position // of the object being read
	secret    bool                // it is a Secret: its values are not shown
}

func (p *parser) complain(n *yaml.Node, path, mend, format string, args ...any) {
	if len(p.errs) < maxComplaints {
		p.errs = append(p.errs, &Error{
			File: p.file, Line: n.Line, Column: n.Column, Field: path, Msg: fmt.Sprintf(format, args...), Mend: mend,
		})
	}
}

// document reads one object, or the items of a List that is depth Lists deep.
func (p *parser) document(n *yaml.Node, depth int) {
	n = follow(n)
	if !p.count(n, "") {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.complain(n, "", "", "expected an object, got %s", describe(n))
		return
	}
	n = p.flatten(n)
	kind, kindNode := scalarField(n, "kind")
	version, versionNode := scalarField(n, "apiVersion")
	if kindNode == nil {
		p.missing(n, "kind", "Pod")
	}
	if versionNode == nil {
		p.missing(n, "apiVersion", "v1")
	}
	switch {
	case kindNode == nil:
	case KindNamed(kind) != nil:
		if versionNode != nil && version != "v1" {
			p.complain(versionNode, "apiVersion", fmt.Sprintf(`a %s has apiVersion "v1"`, kind), "unknown version %q of kind %s", version, kind)
		}
		p.typed(n, KindNamed(kind))
	case kind == "List" || itemKind(kind) != nil:
		p.list(n, kind, depth)
	case isOtherKind(kind):
		p.complain(kindNode, "", takes(), "kind %s: not supported by this version of podrun", kind)
	default:
		mend := suggest(kind, append(append(kindNames(), "List"), otherKinds...))
		if mend == "" {
			mend = takes()
		}
		p.complain(kindNode, "kind", mend, "unknown kind %q", kind)
	}
}

// missing complains about a field that every object has.
func (p *parser) missing(n *yaml.Node, name, value string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch key := n.Content[i]; {
		case key.Value == name:
			p.complain(n.Content[i+1], name, "", "expected string, got %s", describe(follow(n.Content[i+1])))
			return
		case strings.EqualFold(key.Value, name):
			p.complain(key, key.Value, suggest(key.Value, []string{name}), "unknown field")
			return
		}
	}
	p.complain(n, name, fmt.Sprintf(`write "%s: %s"`, name, value), "required field is missing")
}

// maxLists is how many Lists may be in one another.
const maxLists = 8

// itemKind is the kind of the items of a PodList and its like, nil for all else.
func itemKind(list string) *Kind {
	name, is := strings.CutSuffix(list, "List")
	if !is {
		return nil
	}
	return KindNamed(name)
}

// list reads the items of a List; those of a PodList need not say their kind.
func (p *parser) list(n *yaml.Node, kind string, depth int) {
	if depth == maxLists {
		p.complain(n, "", "", "more than %d Lists in one another", maxLists)
		return
	}
	of := itemKind(kind)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], follow(n.Content[i+1])
		if seen[key.Value] {
			p.complain(key, key.Value, "", "duplicate field")
			continue
		}
		seen[key.Value] = true
		switch key.Value {
		case "kind", "apiVersion", "metadata":
		case "items":
			if isNull(value) {
				continue
			}
			if value.Kind != yaml.SequenceNode {
				p.complain(value, "items", "", "expected a list, got %s", describe(value))
				continue
			}
			for _, item := range value.Content {
				if item = p.flatten(follow(item)); of != nil && item.Kind == yaml.MappingNode && !hasField(item, "kind") {
					if p.count(item, "") {
						p.typed(item, of)
					}
					continue
				}
				p.document(item, depth+1)
			}
		default:
			p.complain(key, key.Value, suggest(key.Value, []string{"items", "metadata"}), "unknown field")
		}
	}
}

// typed reads an object of a kind that podrun takes.
func (p *parser) typed(n *yaml.Node, kind *Kind) {
	p.positions = map[string]Position{"": {n.Line, n.Column}}
	p.secret = kind.Name == "Secret"
	before := len(p.errs)
	fields := p.value(n, reflect.TypeOf(kind.New()), "")
	if len(p.errs) > before {
		return
	}
	data, err := json.Marshal(fields)
	if err != nil {
		p.complain(n, "", "", "%v", err)
		return
	}
	value, err := kind.Decode(data)
	if err != nil {
		p.complain(n, "", "", "%v", err)
		return
	}
	o := &Object{Kind: kind.Name, APIVersion: "v1", File: p.file, Positions: p.positions, Value: value}
	o.Pod, _ = value.(*corev1.Pod)
	p.objects = append(p.objects, o)
}

// follow returns what an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// count counts a value and tells whether it is within the limit.
func (p *parser) count(n *yaml.Node, path string) bool {
	if p.nodes++; p.nodes == maxNodes+1 {
		p.complain(n, path, "", "manifest has more than %d values once its aliases are followed", maxNodes)
	}
	return p.nodes <= maxNodes
}

// hasField tells whether a mapping names a field.
func hasField(n *yaml.Node, name string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return true
		}
	}
	return false
}

// scalarField returns the value and node of a scalar field of a mapping.
func scalarField(n *yaml.Node, name string) (string, *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			if v := follow(n.Content[i+1]); v.Kind == yaml.ScalarNode && v.ShortTag() == "!!str" {
				return v.Value, v
			}
			return "", nil
		}
	}
	return "", nil
}
