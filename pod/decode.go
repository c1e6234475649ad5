package pod

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// value checks a node against the Go type it is to become, keeps positions,
// and returns it as encoding/json would decode it. What is complained about
// is returned as nil.
func (p *parser) value(n *yaml.Node, t reflect.Type, path string) any {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if p.nodes++; p.nodes > maxNodes {
		if p.nodes == maxNodes+1 {
			p.complain(n, path, "", "manifest has more than %d values once its aliases are followed", maxNodes)
		}
		return nil
	}
	if isNull(n) {
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
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			return p.mismatch(n, path, "boolean")
		}
		var b bool
		if err := n.Decode(&b); err != nil {
			return p.mismatch(n, path, "boolean")
		}
		return b
	case reflect.Int, reflect.Int32, reflect.Int64:
		return p.integer(n, t, path)
	case reflect.Float64:
		var f float64
		if n.Kind != yaml.ScalarNode || n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return p.mismatch(n, path, "number")
		}
		return f
	}
	p.complain(n, path, "", "internal error: no reader for %s", t)
	return nil
}

func (p *parser) mismatch(n *yaml.Node, path, want string) any {
	mend := ""
	if want == "string" && n.Kind == yaml.ScalarNode {
		mend = "put it in quotes"
	}
	p.complain(n, path, mend, "expected %s, got %s", want, describe(n))
	return nil
}

func (p *parser) text(n *yaml.Node, path, want string) (string, bool) {
	switch {
	case n.Kind == yaml.ScalarNode && (n.ShortTag() == "!!str" || n.ShortTag() == "!!timestamp" || n.ShortTag() == "!!binary"):
		return n.Value, true
	default:
		p.mismatch(n, path, want)
		return "", false
	}
}

func (p *parser) integer(n *yaml.Node, t reflect.Type, path string) any {
	var i int64
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || n.Decode(&i) != nil {
		return p.mismatch(n, path, "integer")
	}
	if t.Kind() == reflect.Int32 && (i < math.MinInt32 || i > math.MaxInt32) {
		p.complain(n, path, "", "integer %d is out of range", i)
		return nil
	}
	return json.Number(strconv.FormatInt(i, 10))
}

func (p *parser) bytes(n *yaml.Node, path string) any {
	s, ok := p.text(n, path, "base64 string")
	if !ok {
		return nil
	}
	if _, err := base64.StdEncoding.DecodeString(s); err != nil {
		p.complain(n, path, "", "not base64: %v", err)
		return nil
	}
	return s
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
	out := map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := path + "[" + key.Value + "]"
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
			p.complain(key, path, "", "a key must be a string")
			continue
		}
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

func (p *parser) object(n *yaml.Node, t reflect.Type, path string) any {
	if n.Kind != yaml.MappingNode {
		return p.mismatch(n, path, "an object")
	}
	known := fieldsOf(t)
	out := map[string]any{}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
			p.complain(key, path, "write the fields out", "merge keys and keys that are not strings are not supported")
			continue
		}
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

// special reads types whose JSON form is not that of their Go kind.
var special = map[reflect.Type]func(p *parser, n *yaml.Node, path string) any{
	reflect.TypeFor[resource.Quantity](): func(p *parser, n *yaml.Node, path string) any {
		if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!bool" {
			return p.mismatch(n, path, "quantity")
		}
		if _, err := resource.ParseQuantity(n.Value); err != nil {
			p.complain(n, path, `write a number with a unit, such as "500m", "128Mi" or "2"`, "%q is not a quantity", n.Value)
			return nil
		}
		return n.Value
	},
	reflect.TypeFor[intstr.IntOrString](): func(p *parser, n *yaml.Node, path string) any {
		if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
			return p.integer(n, reflect.TypeFor[int32](), path)
		}
		if s, ok := p.text(n, path, "integer or string"); ok {
			return s
		}
		return nil
	},
	reflect.TypeFor[metav1.Time](): func(p *parser, n *yaml.Node, path string) any {
		s, ok := p.text(n, path, "time")
		if !ok {
			return nil
		}
		if _, err := time.Parse(time.RFC3339, s); err != nil {
			p.complain(n, path, `write it as "2006-01-02T15:04:05Z"`, "%q is not a time", s)
			return nil
		}
		return s
	},
	reflect.TypeFor[metav1.FieldsV1](): func(*parser, *yaml.Node, string) any { return map[string]any{} },
}
