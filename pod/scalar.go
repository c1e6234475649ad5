package pod

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Scalars are read as kubectl reads them: by YAML 1.1, in which yes, no, on
// and off are booleans unless they are in quotes.

// oldTrue and oldFalse are the booleans that YAML 1.2 no longer has.
var (
	oldTrue  = []string{"y", "Y", "yes", "Yes", "YES", "on", "On", "ON"}
	oldFalse = []string{"n", "N", "no", "No", "NO", "off", "Off", "OFF"}
)

// kindOf is the tag of a scalar by YAML 1.1.
func kindOf(n *yaml.Node) string {
	tag := n.ShortTag()
	if tag == "!!str" && n.Style == 0 && (slices.Contains(oldTrue, n.Value) || slices.Contains(oldFalse, n.Value)) {
		return "!!bool"
	}
	return tag
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
	const limit = 40 // characters
	value := n.Value
	if r := []rune(value); len(r) > limit {
		value = string(r[:limit]) + "..."
	}
	switch kindOf(n) {
	case "!!int":
		return "integer " + value
	case "!!float":
		return "number " + value
	case "!!bool":
		return "boolean " + value
	case "!!null":
		return "null"
	}
	return "string " + strconv.Quote(value)
}

func (p *parser) mismatch(n *yaml.Node, path, want string) any {
	mend := ""
	if want == "string" && n.Kind == yaml.ScalarNode {
		mend = "put it in quotes"
	}
	got := describe(n)
	if n.Kind == yaml.ScalarNode && p.secret && (strings.HasPrefix(path, "data[") || strings.HasPrefix(path, "stringData[")) {
		got, _, _ = strings.Cut(got, " ") // what it is, not its value
	}
	p.complain(n, path, mend, "expected %s, got %s", want, got)
	return nil
}

// text reads a string; want names it in a complaint.
func (p *parser) text(n *yaml.Node, path, want string) (string, bool) {
	if n.Kind == yaml.ScalarNode {
		switch kindOf(n) {
		case "!!str", "!!timestamp":
			return n.Value, true
		case "!!binary":
			var s string
			if n.Decode(&s) == nil {
				return s, true
			}
		}
	}
	p.mismatch(n, path, want)
	return "", false
}

func (p *parser) boolean(n *yaml.Node, path string) any {
	var b bool
	switch {
	case n.Kind != yaml.ScalarNode || kindOf(n) != "!!bool":
		return p.mismatch(n, path, "boolean")
	case slices.Contains(oldTrue, n.Value):
		return true
	case slices.Contains(oldFalse, n.Value):
		return false
	case n.Decode(&b) != nil:
		return p.mismatch(n, path, "boolean")
	}
	return b
}

func (p *parser) integer(n *yaml.Node, t reflect.Type, path string) any {
	var i int64
	if n.Kind != yaml.ScalarNode || kindOf(n) != "!!int" {
		return p.mismatch(n, path, "integer")
	}
	if n.Decode(&i) != nil || t.Kind() == reflect.Int32 && (i < math.MinInt32 || i > math.MaxInt32) {
		p.complain(n, path, "", "integer %s is out of range", n.Value)
		return nil
	}
	return json.Number(strconv.FormatInt(i, 10))
}

func (p *parser) number(n *yaml.Node, path string) any {
	var f float64
	if n.Kind != yaml.ScalarNode || n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return p.mismatch(n, path, "number")
	}
	return f
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

// special reads types whose JSON form is not that of their Go kind.
var special = map[reflect.Type]func(p *parser, n *yaml.Node, path string) any{
	reflect.TypeFor[resource.Quantity]():  (*parser).quantity,
	reflect.TypeFor[intstr.IntOrString](): (*parser).intOrString,
	reflect.TypeFor[metav1.Time]():        (*parser).time,
	reflect.TypeFor[metav1.FieldsV1]():    func(*parser, *yaml.Node, string) any { return map[string]any{} },
}

func (p *parser) quantity(n *yaml.Node, path string) any {
	const mend = `write a number with a unit, such as "500m", "128Mi" or "2"`
	if n.Kind != yaml.ScalarNode {
		return p.mismatch(n, path, "quantity")
	}
	value := n.Value
	switch kindOf(n) {
	case "!!int": // perhaps octal or hexadecimal
		var i int64
		if n.Decode(&i) == nil {
			value = strconv.FormatInt(i, 10)
		}
	case "!!str", "!!float":
	default:
		return p.mismatch(n, path, "quantity")
	}
	if _, err := resource.ParseQuantity(value); err != nil {
		p.complain(n, path, mend, "%q is not a quantity", value)
		return nil
	}
	return value
}

func (p *parser) intOrString(n *yaml.Node, path string) any {
	if n.Kind == yaml.ScalarNode && kindOf(n) == "!!int" {
		return p.integer(n, reflect.TypeFor[int32](), path)
	}
	if s, ok := p.text(n, path, "integer or string"); ok {
		return s
	}
	return nil
}

func (p *parser) time(n *yaml.Node, path string) any {
	s, ok := p.text(n, path, "time")
	if !ok {
		return nil
	}
	if _, err := time.Parse(time.RFC3339, s); err != nil {
		p.complain(n, path, `write it as "2006-01-02T15:04:05Z"`, "%q is not a time", s)
		return nil
	}
	return s
}
