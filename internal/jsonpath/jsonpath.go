// Package jsonpath evaluates kubectl's dialect of JSONPath on decoded JSON
// (https://kubernetes.io/docs/reference/kubectl/jsonpath/): text outside
// braces is printed as it is; inside there are paths, {range PATH}...{end},
// and quoted strings.
//
// It works on what encoding/json makes of JSON and knows no Kubernetes types.
package jsonpath

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Template is a parsed template. It is immutable and safe for concurrent use.
type Template struct {
	nodes []node
	// AllowMissing makes a path to a key that is not there print nothing; set
	// it before the first use.
	AllowMissing bool
}

// node is text, a range or a path.
type node struct {
	text string
	path []step // nil for text
	body []node // of a range
	loop bool
}

// step selects from each of a list of values.
type step struct {
	kind      stepKind
	names     []string // key and union of keys
	index     [3]*int  // slice; index[0] alone for one element
	indexes   []int    // union of indexes
	filter    *filter
	recursive bool
}

type stepKind int

const (
	byKey stepKind = iota
	byWildcard
	bySlice
	byIndexes
	byFilter
	byRecursion // all values below, and the value itself
)

// filter is [?(LEFT OP RIGHT)]; without OP it asks whether LEFT is there.
type filter struct {
	left, right operand
	op          string
}

type operand struct {
	path    []step // of @ or $
	root    bool
	literal any
}

// Parse reads a template.
func Parse(text string) (*Template, error) {
	p := &parser{in: text}
	nodes, ended, err := p.nodes(false)
	if err != nil {
		return nil, fmt.Errorf("error parsing jsonpath %s, %w", text, err)
	}
	if ended {
		return nil, fmt.Errorf("error parsing jsonpath %s, not in range, nothing to end", text)
	}
	return &Template{nodes: nodes}, nil
}

// Execute prints what the template selects of value.
func (t *Template) Execute(out io.Writer, value any) error {
	var b strings.Builder
	if err := t.run(&b, t.nodes, value, value); err != nil {
		return err
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// Find returns the values that the template's first path selects.
func (t *Template) Find(value any) ([]any, error) {
	for _, n := range t.nodes {
		if n.path != nil {
			return t.walk(n.path, value, value)
		}
	}
	return nil, nil
}

func (t *Template) run(b *strings.Builder, nodes []node, root, current any) error {
	for _, n := range nodes {
		if n.path == nil {
			b.WriteString(n.text)
			continue
		}
		values, err := t.walk(n.path, root, current)
		if err != nil {
			return err
		}
		if n.loop {
			for _, v := range values {
				if err := t.run(b, n.body, root, v); err != nil {
					return err
				}
			}
			continue
		}
		for i, v := range values {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(Text(v))
		}
	}
	return nil
}

// Text is a value as kubectl prints it: strings bare, the rest as JSON.
func Text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}

func (t *Template) walk(path []step, root, current any) ([]any, error) {
	values := []any{current}
	if len(path) > 0 && path[0].kind == byKey && len(path[0].names) == 1 && path[0].names[0] == "$" {
		values, path = []any{root}, path[1:]
	}
	for _, s := range path {
		var next []any
		for _, v := range values {
			found, err := t.step(s, root, v)
			if err != nil {
				return nil, err
			}
			next = append(next, found...)
		}
		values = next
	}
	return values, nil
}

func (t *Template) step(s step, root, v any) ([]any, error) {
	switch s.kind {
	case byRecursion:
		return below(v), nil
	case byWildcard:
		return children(v), nil
	case byKey:
		var out []any
		m, isMap := v.(map[string]any)
		for _, name := range s.names {
			found, ok := m[name]
			switch {
			case ok:
				out = append(out, found)
			case s.recursive || t.AllowMissing:
			case !isMap:
				return nil, fmt.Errorf("can't find field %s: not an object", name)
			default:
				return nil, fmt.Errorf("%s is not found", name)
			}
		}
		return out, nil
	}
	list, ok := v.([]any)
	if !ok {
		if s.kind == byFilter {
			if m, isMap := v.(map[string]any); isMap {
				list, ok = children(m), true
			}
		}
		if !ok {
			if s.recursive || t.AllowMissing {
				return nil, nil
			}
			return nil, fmt.Errorf("%s is not array or slice", kindName(v))
		}
	}
	switch s.kind {
	case byFilter:
		var out []any
		for _, e := range list {
			if t.matches(s.filter, root, e) {
				out = append(out, e)
			}
		}
		return out, nil
	case byIndexes:
		var out []any
		for _, i := range s.indexes {
			e, err := at(list, i)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		return out, nil
	}
	return slice(list, s.index)
}

func kindName(v any) string {
	switch v.(type) {
	case nil:
		return "<nil>"
	case map[string]any:
		return "map"
	}
	return fmt.Sprintf("%T", v)
}

func at(list []any, i int) (any, error) {
	j := i
	if j < 0 {
		j += len(list)
	}
	if j < 0 || j >= len(list) {
		return nil, fmt.Errorf("array index out of bounds: index %d, length %d", i, len(list))
	}
	return list[j], nil
}

// slice is [from:to:by] with Python's rules.
func slice(list []any, index [3]*int) ([]any, error) {
	from, to, by := 0, len(list), 1
	if index[2] != nil {
		by = *index[2]
	}
	if by <= 0 {
		return nil, fmt.Errorf("step must be > 0")
	}
	clamp := func(i int) int {
		if i < 0 {
			i += len(list)
		}
		return min(max(i, 0), len(list))
	}
	if index[0] != nil {
		from = clamp(*index[0])
	}
	if index[1] != nil {
		to = clamp(*index[1])
	}
	var out []any
	for i := from; i < to; i += by {
		out = append(out, list[i])
	}
	return out, nil
}

func children(v any) []any {
	switch v := v.(type) {
	case []any:
		return v
	case map[string]any:
		var out []any
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, v[k])
		}
		return out
	}
	return nil
}

func below(v any) []any {
	out := []any{v}
	for _, c := range children(v) {
		out = append(out, below(c)...)
	}
	return out
}

func (t *Template) matches(f *filter, root, e any) bool {
	value := func(o operand) (any, bool) {
		if o.path == nil {
			return o.literal, true
		}
		from := e
		if o.root {
			from = root
		}
		found, err := (&Template{AllowMissing: true}).walk(o.path, root, from)
		if err != nil || len(found) == 0 {
			return nil, false
		}
		return found[0], true
	}
	left, ok := value(f.left)
	if f.op == "" {
		return ok
	}
	right, ok2 := value(f.right)
	if !ok || !ok2 {
		return false
	}
	c, comparable := Compare(left, right)
	switch f.op {
	case "==":
		return comparable && c == 0
	case "!=":
		return !comparable || c != 0
	case "<":
		return comparable && c < 0
	case "<=":
		return comparable && c <= 0
	case ">":
		return comparable && c > 0
	}
	return comparable && c >= 0
}

// Compare orders two values of one kind; not ok are values that have no order.
func Compare(a, b any) (order int, ok bool) {
	if x, isNumber := number(a); isNumber {
		y, isNumber := number(b)
		return cmp.Compare(x, y), isNumber
	}
	switch x := a.(type) {
	case string:
		y, isString := b.(string)
		return strings.Compare(x, y), isString
	case bool:
		y, isBool := b.(bool)
		if x == y {
			return 0, isBool
		}
		if x {
			return 1, isBool
		}
		return -1, isBool
	}
	return 0, false
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	case int:
		return float64(v), true
	}
	return 0, false
}

// parseInt reads a whole number.
func parseInt(s string) (*int, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil, nil
	}
	i, err := strconv.Atoi(s)
	if err != nil {
		return nil, fmt.Errorf("invalid array index %s", s)
	}
	return &i, nil
}
