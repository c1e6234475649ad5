package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// formatHelp is the help of docker's flag --format.
const formatHelp = `output format: json, table, or a template such as "{{.ID}} {{.Size}}" or "table {{.ID}}\t{{.Size}}"`

// template is what --format takes of Go's templates: text with {{.Field.Sub}},
// {{json .Field}}, {{index .Field KEY...}}, {{len .Field}}, {{join .Field SEP}},
// {{upper .Field}} and {{lower .Field}}. All of text/template would cost every
// start of podrun what the linker can leave out now.
type template []part

// part is text, or a function with its arguments.
type part struct {
	text string
	call []string // function, path, other arguments; nil: text
}

func parseTemplate(text string) (template, error) {
	var t template
	for text != "" {
		before, rest, ok := strings.Cut(text, "{{")
		if before != "" {
			t = append(t, part{text: strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(before)})
		}
		if !ok {
			break
		}
		action, after, ok := strings.Cut(rest, "}}")
		if !ok {
			return nil, usagef("template: {{ without }}")
		}
		call, err := parseAction(action)
		if err != nil {
			return nil, err
		}
		t = append(t, part{call: call})
		text = after
	}
	return t, nil
}

func parseAction(action string) ([]string, error) {
	var words []string
	for rest := strings.TrimSpace(strings.Trim(strings.TrimSpace(action), "-")); rest != ""; rest = strings.TrimSpace(rest) {
		if rest[0] == '"' {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, usagef("template: a string is not closed in {{%s}}", action)
			}
			rest = rest[len(quoted):]
			words = append(words, quoted)
			continue
		}
		end := strings.IndexAny(rest, " \t")
		if end < 0 {
			end = len(rest)
		}
		words = append(words, rest[:end])
		rest = rest[end:]
	}
	if len(words) == 1 && strings.HasPrefix(words[0], ".") {
		words = []string{"", words[0]}
	}
	arguments := map[string][2]int{"": {1, 1}, "json": {1, 1}, "len": {1, 1}, "upper": {1, 1}, "lower": {1, 1}, "join": {2, 2}, "index": {2, 9}}
	if len(words) > 1 && strings.HasPrefix(words[1], ".") {
		if n, ok := arguments[words[0]]; ok && len(words)-1 >= n[0] && len(words)-1 <= n[1] {
			return words, nil
		}
	}
	return nil, usagef("template: podrun does not know {{%s}}; it knows {{.Field}}, and of its functions json, index, len, join, upper and lower", action)
}

// execute writes v, decoded JSON, as t says.
func (t template) execute(w io.Writer, v any) error {
	for _, p := range t {
		text := p.text
		if p.call != nil {
			var err error
			if text, err = evaluate(p.call, v); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

func evaluate(call []string, v any) (string, error) {
	for _, name := range strings.Split(strings.Trim(call[1], "."), ".") {
		if name == "" {
			continue
		}
		m, ok := v.(object)
		if !ok {
			if v == nil {
				break
			}
			return "", plainTemplate("%s: there is no field %s", call[1], name)
		}
		if v, ok = m[name]; !ok {
			return "", plainTemplate("there is no field %s", call[1])
		}
	}
	switch call[0] {
	case "json":
		data, err := json.Marshal(v)
		return string(data), err
	case "len":
		switch v := v.(type) {
		case []any:
			return strconv.Itoa(len(v)), nil
		case object:
			return strconv.Itoa(len(v)), nil
		case nil:
			return "0", nil
		}
		return strconv.Itoa(len(goText(v))), nil
	case "upper":
		return strings.ToUpper(goText(v)), nil
	case "lower":
		return strings.ToLower(goText(v)), nil
	case "join":
		list, _ := v.([]any)
		words := make([]string, len(list))
		for i, e := range list {
			words[i] = goText(e)
		}
		return strings.Join(words, unquote(call[2])), nil
	case "index":
		for _, key := range call[2:] {
			switch of := v.(type) {
			case []any:
				i, err := strconv.Atoi(key)
				if err != nil || i < 0 || i >= len(of) {
					return "", plainTemplate("%s has no element %s", call[1], key)
				}
				v = of[i]
			case object:
				v = of[unquote(key)]
			default:
				return "", plainTemplate("%s has no elements", call[1])
			}
		}
	}
	return goText(v), nil
}

func plainTemplate(format string, args ...any) error {
	return fmt.Errorf("template: "+format, args...)
}

func unquote(s string) string {
	if text, err := strconv.Unquote(s); err == nil {
		return text
	}
	return s
}

// goText is a value as Go's templates print it.
func goText(v any) string {
	switch v := v.(type) {
	case nil:
		return "<no value>"
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any:
		words := make([]string, len(v))
		for i, e := range v {
			words[i] = goText(e)
		}
		return "[" + strings.Join(words, " ") + "]"
	}
	return fmt.Sprint(v)
}

// records are rows by the names of their fields, for docker's --format. headers
// are what a table has above a field.
type records struct {
	headers map[string]string
	rows    []object
}

// print prints records as format says: "json", "table TEMPLATE" or TEMPLATE.
func (r records) print(out io.Writer, format string) error {
	if format == "json" {
		for _, row := range r.rows {
			data, err := json.Marshal(row)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%s\n", data)
		}
		return nil
	}
	text, table := strings.CutPrefix(format, "table ")
	t, err := parseTemplate(text)
	if err != nil {
		return err
	}
	var lines []string
	for _, row := range r.rows {
		var b strings.Builder
		if err := t.execute(&b, row); err != nil {
			return err
		}
		lines = append(lines, b.String())
	}
	if !table {
		for _, line := range lines {
			fmt.Fprintln(out, line)
		}
		return nil
	}
	var head strings.Builder
	headers := object{}
	for name, h := range r.headers {
		headers[name] = h
	}
	if err := t.execute(&head, headers); err != nil {
		return err
	}
	g := grid{headers: strings.Split(head.String(), "\t")}
	for _, line := range lines {
		g.rows = append(g.rows, strings.Split(line, "\t"))
	}
	return dockerTable(out, g, true)
}
