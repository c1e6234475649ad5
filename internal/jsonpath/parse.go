package jsonpath

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

type parser struct {
	in  string
	pos int
}

// nodes reads up to the end of the template, or of the range that is open.
func (p *parser) nodes(inRange bool) (nodes []node, ended bool, err error) {
	for p.pos < len(p.in) {
		open := strings.IndexByte(p.in[p.pos:], '{')
		if open < 0 {
			nodes = append(nodes, node{text: p.in[p.pos:]})
			p.pos = len(p.in)
			break
		}
		if open > 0 {
			nodes = append(nodes, node{text: p.in[p.pos : p.pos+open]})
		}
		p.pos += open + 1
		inside, err := p.inside()
		if err != nil {
			return nil, false, err
		}
		inside = strings.TrimSpace(inside)
		switch {
		case inside == "end":
			return nodes, true, nil
		case strings.HasPrefix(inside, "range"):
			path, err := parsePath(strings.TrimSpace(strings.TrimPrefix(inside, "range")))
			if err != nil {
				return nil, false, err
			}
			body, ended, err := p.nodes(true)
			if err != nil {
				return nil, false, err
			}
			if !ended {
				return nil, false, errors.New("unclosed range: {end} is missing")
			}
			nodes = append(nodes, node{path: path, body: body, loop: true})
		default:
			more, err := p.action(inside)
			if err != nil {
				return nil, false, err
			}
			nodes = append(nodes, more...)
		}
	}
	return nodes, false, nil
}

// inside returns what is between the brace before pos and its partner.
func (p *parser) inside() (string, error) {
	start := p.pos
	for p.pos < len(p.in) {
		switch c := p.in[p.pos]; c {
		case '}':
			p.pos++
			return p.in[start : p.pos-1], nil
		case '"', '\'':
			end, err := quoteEnd(p.in, p.pos)
			if err != nil {
				return "", err
			}
			p.pos = end
		default:
			p.pos++
		}
	}
	return "", errors.New("unclosed action")
}

// quoteEnd returns the place after the string that begins at i.
func quoteEnd(s string, i int) (int, error) {
	for j := i + 1; j < len(s); j++ {
		switch s[j] {
		case '\\':
			j++
		case s[i]:
			return j + 1, nil
		}
	}
	return 0, errors.New("unterminated quoted string")
}

// action reads what is between braces: a quoted string or a path.
func (p *parser) action(s string) ([]node, error) {
	if s == "" {
		return nil, nil
	}
	if s[0] == '"' || s[0] == '\'' {
		end, err := quoteEnd(s, 0)
		if err != nil {
			return nil, err
		}
		text, err := unquote(s[:end])
		if err != nil {
			return nil, err
		}
		rest, err := p.action(strings.TrimSpace(s[end:]))
		return append([]node{{text: text}}, rest...), err
	}
	path, err := parsePath(s)
	if err != nil {
		return nil, err
	}
	return []node{{path: path}}, nil
}

func unquote(s string) (string, error) {
	if len(s) < 2 || s[0] != '\'' && s[0] != '"' || s[len(s)-1] != s[0] {
		return "", fmt.Errorf("invalid quoted string %s", s)
	}
	if s[0] == '\'' {
		inner := strings.ReplaceAll(s[1:len(s)-1], `\'`, `'`)
		s = `"` + strings.ReplaceAll(inner, `"`, `\"`) + `"`
	}
	text, err := strconv.Unquote(s)
	if err != nil {
		return "", fmt.Errorf("invalid quoted string %s", s)
	}
	return text, nil
}

// parsePath reads .a.b[0]['c']..d[*][?(@.x==1)].
func parsePath(s string) ([]step, error) {
	path := []step{}
	for i := 0; i < len(s); {
		recursive := len(path) > 0 && path[len(path)-1].kind == byRecursion
		switch c := s[i]; {
		case c == '$' || c == '@':
			if i > 0 {
				return nil, fmt.Errorf("unexpected %q in a path", string(c))
			}
			if c == '$' {
				path = append(path, step{names: []string{"$"}})
			}
			i++
		case strings.HasPrefix(s[i:], ".."):
			path = append(path, step{kind: byRecursion})
			i++ // the second dot begins the next step
			if i+1 == len(s) {
				return nil, errors.New("nothing follows the two dots at the end of the path")
			}
		case c == '[':
			end, err := bracketEnd(s, i)
			if err != nil {
				return nil, err
			}
			st, err := parseBracket(s[i+1 : end-1])
			if err != nil {
				return nil, err
			}
			st.recursive = recursive
			path = append(path, st)
			i = end
		case c == '.' && i+1 < len(s) && s[i+1] == '[':
			i++
		case c == '.' && i+1 == len(s):
			i++ // "." is the value itself
		default:
			if c == '.' {
				i++
			}
			name, end := parseName(s, i)
			if end == i {
				return nil, fmt.Errorf("unrecognized character in action: %q", s[i:])
			}
			st := step{names: []string{name}, recursive: recursive}
			if name == "*" {
				st = step{kind: byWildcard}
			}
			path = append(path, st)
			i = end
		}
	}
	return path, nil
}

// parseName reads a key up to the next step; a backslash takes the special
// meaning from what follows it.
func parseName(s string, i int) (string, int) {
	var b strings.Builder
	for ; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
			continue
		case '.', '[', ']', ' ', '{', '}', '(', ')', '=', '<', '>', '!', '"', '\'', ',', '|':
			return b.String(), i
		}
		b.WriteByte(s[i])
	}
	return b.String(), i
}

// bracketEnd returns the place after the partner of the bracket at i.
func bracketEnd(s string, i int) (int, error) {
	depth := 0
	for j := i; j < len(s); j++ {
		switch s[j] {
		case '[':
			depth++
		case ']':
			if depth--; depth == 0 {
				return j + 1, nil
			}
		case '"', '\'':
			end, err := quoteEnd(s, j)
			if err != nil {
				return 0, err
			}
			j = end - 1
		}
	}
	return 0, errors.New("unterminated array")
}

func parseBracket(s string) (step, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "*":
		return step{kind: byWildcard}, nil
	case strings.HasPrefix(s, "?(") && strings.HasSuffix(s, ")"):
		f, err := parseFilter(s[2 : len(s)-1])
		return step{kind: byFilter, filter: f}, err
	case s != "" && (s[0] == '\'' || s[0] == '"'):
		var names []string
		for _, part := range splitOutside(s, ',') {
			name, err := unquote(strings.TrimSpace(part))
			if err != nil {
				return step{}, err
			}
			names = append(names, name)
		}
		return step{names: names}, nil
	case strings.Contains(s, ","):
		var indexes []int
		for part := range strings.SplitSeq(s, ",") {
			i, err := parseInt(part)
			if err != nil || i == nil {
				return step{}, fmt.Errorf("invalid array index %s", part)
			}
			indexes = append(indexes, *i)
		}
		return step{kind: byIndexes, indexes: indexes}, nil
	case strings.Contains(s, ":"):
		var index [3]*int
		parts := strings.Split(s, ":")
		if len(parts) > 3 {
			return step{}, fmt.Errorf("invalid array index %s", s)
		}
		for i, part := range parts {
			var err error
			if index[i], err = parseInt(part); err != nil {
				return step{}, err
			}
		}
		return step{kind: bySlice, index: index}, nil
	}
	i, err := parseInt(s)
	if err != nil || i == nil {
		return step{}, fmt.Errorf("invalid array index %s", s)
	}
	return step{kind: byIndexes, indexes: []int{*i}}, nil
}

// splitOutside splits s at sep where it is not in a quoted string.
func splitOutside(s string, sep byte) []string {
	var parts []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"', '\'':
			if end, err := quoteEnd(s, i); err == nil {
				i = end - 1
			}
		case sep:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

func parseFilter(s string) (*filter, error) {
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\'' {
			end, err := quoteEnd(s, i)
			if err != nil {
				return nil, err
			}
			i = end - 1
			continue
		}
		for _, op := range []string{"==", "!=", "<=", ">=", "<", ">"} {
			if !strings.HasPrefix(s[i:], op) {
				continue
			}
			left, err := parseOperand(s[:i])
			if err != nil {
				return nil, err
			}
			right, err := parseOperand(s[i+len(op):])
			if err != nil {
				return nil, err
			}
			return &filter{left: left, right: right, op: op}, nil
		}
	}
	left, err := parseOperand(s)
	return &filter{left: left}, err
}

func parseOperand(s string) (operand, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return operand{}, errors.New("unterminated filter")
	}
	switch {
	case s[0] == '@' || s[0] == '$':
		path, err := parsePath(s[1:])
		if path == nil {
			path = []step{}
		}
		return operand{path: path, root: s[0] == '$'}, err
	case s[0] == '"' || s[0] == '\'':
		text, err := unquote(s)
		return operand{literal: text}, err
	case s == "true" || s == "false":
		return operand{literal: s == "true"}, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return operand{}, fmt.Errorf("cannot convert %q to a number", s)
	}
	return operand{literal: f}, nil
}
