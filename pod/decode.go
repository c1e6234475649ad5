package pod

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gopkg.in/yaml.v3"
)

// value checks a node against the Go type it is to become, keeps positions,
// and returns it as encoding/json would decode it. What is complained about
// is returned as nil.
func (p *parser) value(n *yaml.Node, t reflect.Type, path string) any {
	n = follow(n)
	if !p.count(n, path) || isNull(n) {
		return nil
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if convert, ok := special[t]; ok {
		return convert(p, n, path)
	}
	switch t.Kind() {
	case reflect.Struct:
		return p.object(n, t, path)
	case reflect.Map:
		return p.mapping(n, t.Elem(), path)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return p.bytes(n, path)
		}
		return p.sequence(n, t.Elem(), path)
	case reflect.String:
		if s, ok := p.text(n, path, "string"); ok {
			return s
		}
		return nil
	case reflect.Bool:
		return p.boolean(n, path)
	case reflect.Int, reflect.Int32, reflect.Int64:
		return p.integer(n, t, path)
	case reflect.Float64:
		return p.number(n, path)
	}
	p.complain(n, path, "", "internal error: no reader for %s", t)
	return nil
}

// flatten returns a mapping with its merge keys (<<) replaced by what they
// merge, which gives way to the mapping's own keys and to earlier merges. A
// node without them is returned as it is.
func (p *parser) flatten(n *yaml.Node) *yaml.Node {
	if n.Kind != yaml.MappingNode || !slices.ContainsFunc(n.Content, isMerge) {
		return n
	}
	flat := *n
	flat.Content = nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			flat.Content = append(flat.Content, n.Content[i], n.Content[i+1])
		}
	}
	p.merge(&flat, n, 0)
	return &flat
}

func isMerge(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!merge" }

// merge adds to flat what the merge keys of n bring.
func (p *parser) merge(flat, n *yaml.Node, depth int) {
	const maxMerges = 20 // of one in another; an anchor may merge itself
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			continue
		}
		sources := []*yaml.Node{n.Content[i+1]}
		if v := follow(n.Content[i+1]); v.Kind == yaml.SequenceNode {
			sources = v.Content
		}
		for _, source := range sources {
			source = follow(source)
			if source.Kind != yaml.MappingNode || depth == maxMerges {
				p.complain(n.Content[i], "", "write << with the alias of an object, or a list of them", "nothing that can be merged")
				return
			}
			for j := 0; j+1 < len(source.Content); j += 2 {
				if !p.count(source, "") {
					return
				}
				if key := source.Content[j]; !isMerge(key) && !hasField(flat, key.Value) {
					flat.Content = append(flat.Content, key, source.Content[j+1])
				}
			}
			p.merge(flat, source, depth+1)
		}
	}
}

func (p *parser) sequence(n *yaml.Node, elem reflect.Type, path string) any {
	if n.Kind != yaml.SequenceNode {
		return p.mismatch(n, path, "a list")
	}
	out := make([]any, 0, len(n.Content))
	for i, item := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		p.positions[at] = Position{item.Line, item.Column}
		if isNull(item) {
			p.complain(item, at, "", "null in a list")
			continue
		}
		out = append(out, p.value(item, elem, at))
	}
	return out
}

func (p *parser) mapping(n *yaml.Node, elem reflect.Type, path string) any {
	if n.Kind != yaml.MappingNode {
		return p.mismatch(n, path, "an object")
	}
	n = p.flatten(n)
	out := map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := follow(n.Content[i]), n.Content[i+1]
		if key.Kind != yaml.ScalarNode || kindOf(key) != "!!str" && !plainKey(key.Value) {
			p.complain(key, path, "put it in quotes", "expected string as a key, got %s", describe(key))
			continue
		}
		at := path + "[" + key.Value + "]"
		if _, again := out[key.Value]; again {
			p.complain(key, at, "", "duplicate key")
			continue
		}
		p.positions[at] = Position{key.Line, key.Column}
		if v := p.value(value, elem, at); v != nil {
			out[key.Value] = v
		} else {
			out[key.Value] = reflect.Zero(elem).Interface()
		}
	}
	return out
}

// plainKey tells whether a key that is not a string becomes the string that
// it is written as.
func plainKey(s string) bool {
	if s == "true" || s == "false" {
		return true
	}
	i, err := strconv.ParseInt(s, 10, 64)
	return err == nil && strconv.FormatInt(i, 10) == s
}

func (p *parser) object(n *yaml.Node, t reflect.Type, path string) any {
	if n.Kind != yaml.MappingNode {
		return p.mismatch(n, path, "an object")
	}
	n = p.flatten(n)
	known := fieldsOf(t)
	out := map[string]any{}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := follow(n.Content[i]), n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			p.complain(key, path, "", "expected the name of a field, got %s", describe(key))
			continue
		}
		at := join(path, key.Value)
		ft, ok := known[key.Value]
		if !ok {
			p.complain(key, at, suggest(key.Value, names(known)), "unknown field")
			continue
		}
		if seen[key.Value] {
			p.complain(key, at, "", "duplicate field")
			continue
		}
		seen[key.Value] = true
		p.positions[at] = Position{key.Line, key.Column}
		if v := p.value(value, ft, at); v != nil {
			out[key.Value] = v
		}
	}
	return out
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fieldCache holds the JSON fields of each struct type.
var fieldCache sync.Map // reflect.Type -> map[string]reflect.Type

// fieldsOf returns the JSON names of a struct's fields, those of inlined
// structs included, and their types.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if m, ok := fieldCache.Load(t); ok {
		return m.(map[string]reflect.Type)
	}
	m := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag, ok := f.Tag.Lookup("json")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(tag, ",")
		switch {
		case name == "-":
		case name == "":
			for k, v := range fieldsOf(f.Type) {
				m[k] = v
			}
		default:
			m[name] = f.Type
		}
	}
	fieldCache.Store(t, m)
	return m
}

func names(m map[string]reflect.Type) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
