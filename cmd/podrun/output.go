package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"get.podrun.dev/podrun/internal/jsonpath"
	"get.podrun.dev/podrun/pod"
)

// outputHelp is the help of the flag -o of the verbs that print objects.
const outputHelp = "output format: json|yaml|name|wide|jsonpath=TEMPLATE|jsonpath-file=FILE|custom-columns=NAME:PATH,...|custom-columns-file=FILE"

// none is what kubectl prints for a value that is not there.
const none = "<none>"

// grid is rows of cells under headers.
type grid struct {
	headers []string
	rows    [][]string
}

// kubectlTable prints t as kubectl does: three spaces between columns.
func kubectlTable(out io.Writer, t grid, headers bool) error {
	return t.print(tabwriter.NewWriter(harmless(out), 6, 4, 3, ' ', 0), headers)
}

// dockerTable prints t as docker does.
func dockerTable(out io.Writer, t grid, headers bool) error {
	return t.print(tabwriter.NewWriter(harmless(out), 10, 1, 3, ' ', 0), headers)
}

func (t grid) print(w *tabwriter.Writer, headers bool) error {
	if headers {
		fmt.Fprintln(w, strings.Join(t.headers, "\t"))
	}
	for _, row := range t.rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// lines prints tables one after the other as if they were one: a column keeps
// the width it had.
type lines struct {
	out     io.Writer
	headers bool // still to be printed
	widths  []int
}

func newLines(out io.Writer, headers bool) *lines {
	return &lines{out: harmless(out), headers: headers}
}

// seen takes up the widths of a table that was printed otherwise.
func (l *lines) seen(t grid) {
	l.headers = false
	for _, row := range append([][]string{t.headers}, t.rows...) {
		l.widen(row)
	}
}

func (l *lines) widen(row []string) {
	for len(l.widths) < len(row) {
		l.widths = append(l.widths, 0)
	}
	for i, cell := range row {
		l.widths[i] = max(l.widths[i], len(cell))
	}
}

func (l *lines) print(t grid) error {
	rows := t.rows
	if l.headers {
		l.headers = false
		rows = append([][]string{t.headers}, rows...)
	}
	for _, row := range rows {
		l.widen(row)
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", l.widths[i]-len(cell)+3))
			}
		}
		if _, err := fmt.Fprintln(l.out, b.String()); err != nil {
			return err
		}
	}
	return nil
}

// age is how long ago t was, in kubectl's short form.
func age(t, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t))
}

// object is an object as decoded JSON, as jsonpath and the like see it.
type object = map[string]any

// toObject decodes a typed object. kind and apiVersion are what the API leaves
// out of the items of a list.
func toObject(v any, kind string) (object, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var o object
	if err := d.Decode(&o); err != nil {
		return nil, err
	}
	o["kind"], o["apiVersion"] = kind, "v1"
	return o, nil
}

// listOf wraps objects as kubectl does for -o json|yaml|jsonpath.
func listOf(items []object) object {
	list := make([]any, len(items))
	for i, o := range items {
		list[i] = o
	}
	return object{"apiVersion": "v1", "kind": "List", "items": list, "metadata": object{"resourceVersion": ""}}
}

// formatted tells whether -o asks for something else than a table.
func formatted(output string) bool { return output != "" && output != "wide" }

// printFormatted prints objects as -o says; single tells that one object was
// asked for by name, which is printed without a list around it.
func printFormatted(out io.Writer, items []object, single bool, output string, headers bool) error {
	format, argument, hasArgument := strings.Cut(output, "=")
	if path, ok := strings.CutSuffix(format, "-file"); ok && hasArgument {
		data, err := os.ReadFile(argument)
		if err != nil {
			return plainf("error reading --template %s, %v", argument, err)
		}
		format, argument = path, string(data)
	}
	whole := func() object {
		if single && len(items) == 1 {
			return items[0]
		}
		return listOf(items)
	}
	switch format {
	case "json":
		data, err := json.MarshalIndent(whole(), "", "    ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s\n", data)
		return err
	case "yaml":
		data, err := yaml.Marshal(whole())
		if err != nil {
			return err
		}
		_, err = out.Write(data)
		return err
	case "name":
		for _, o := range items {
			fmt.Fprintf(out, "%s/%s\n", strings.ToLower(fmt.Sprint(o["kind"])), jsonpath.Text(lookup(o, "metadata", "name")))
		}
		return nil
	case "jsonpath", "jsonpath-as-json":
		if argument == "" {
			return plainf("template format specified but no template given")
		}
		return printJSONPath(out, whole(), argument, format == "jsonpath-as-json")
	case "custom-columns":
		if argument == "" {
			return plainf("custom-columns format specified but no custom columns given")
		}
		t, err := customColumns(items, argument)
		if err != nil {
			return err
		}
		return kubectlTable(out, t, headers)
	}
	return plainf("unable to match a printer suitable for the output format %q, allowed formats are: custom-columns,custom-columns-file,json,jsonpath,jsonpath-as-json,jsonpath-file,name,wide,yaml", output)
}

func printJSONPath(out io.Writer, o object, template string, asJSON bool) error {
	t, err := jsonpath.Parse(braced(template))
	if err != nil {
		return plainError(err.Error())
	}
	t.AllowMissing = true
	if asJSON {
		values, err := t.Find(o)
		if err != nil {
			return plainError(err.Error())
		}
		data, err := json.MarshalIndent(values, "", "    ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s\n", data)
		return err
	}
	if err := t.Execute(out, o); err != nil {
		return plainf("error executing jsonpath %q: %v", template, err)
	}
	return nil
}

// braced gives a path without braces the ones that kubectl lets people leave
// out.
func braced(template string) string {
	if strings.Contains(template, "{") {
		return template
	}
	if !strings.HasPrefix(template, ".") && !strings.HasPrefix(template, "$") && !strings.HasPrefix(template, "@") && !strings.HasPrefix(template, "[") {
		template = "." + template
	}
	return "{" + template + "}"
}

func lookup(o object, keys ...string) any {
	var v any = o
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

// customColumns makes a table of NAME:PATH,... .
func customColumns(items []object, spec string) (grid, error) {
	var t grid
	var paths []*jsonpath.Template
	for column := range strings.SplitSeq(strings.TrimSpace(spec), ",") {
		name, path, ok := strings.Cut(column, ":")
		if !ok || name == "" || path == "" {
			return t, plainf("unexpected custom-columns spec: %s, expected <header>:<json-path-expr>", column)
		}
		parsed, err := jsonpath.Parse(braced(strings.TrimSpace(path)))
		if err != nil {
			return t, plainError(err.Error())
		}
		parsed.AllowMissing = true
		t.headers = append(t.headers, strings.TrimSpace(name))
		paths = append(paths, parsed)
	}
	for _, o := range items {
		var row []string
		for _, p := range paths {
			values, err := p.Find(o)
			if err != nil {
				return t, plainError(err.Error())
			}
			var cells []string
			for _, v := range values {
				cells = append(cells, jsonpath.Text(v))
			}
			if len(cells) == 0 {
				cells = []string{none}
			}
			row = append(row, strings.Join(cells, ","))
		}
		t.rows = append(t.rows, row)
	}
	return t, nil
}

// sortBy orders items by what a path selects of each, as kubectl --sort-by
// does: what has nothing there goes first.
func sortBy(items []object, path string) error {
	t, err := jsonpath.Parse(braced(path))
	if err != nil {
		return plainError(err.Error())
	}
	t.AllowMissing = true
	keys := map[string]any{}
	found := false
	for _, o := range items {
		values, err := t.Find(o)
		if err != nil {
			return plainError(err.Error())
		}
		if len(values) > 0 {
			keys[objectKey(o)], found = values[0], true
		}
	}
	if !found && len(items) > 0 {
		return plainf("couldn't find any field with path %q in the list of objects", braced(path))
	}
	slices.SortStableFunc(items, func(a, b object) int {
		x, y := keys[objectKey(a)], keys[objectKey(b)]
		if order, ok := jsonpath.Compare(x, y); ok {
			return order
		}
		switch {
		case x == nil && y == nil:
			return 0
		case x == nil:
			return -1
		case y == nil:
			return 1
		}
		return strings.Compare(jsonpath.Text(x), jsonpath.Text(y))
	})
	return nil
}

// printObjects prints objects that a verb has changed, as -o says.
func (c *cli) printObjects(objects []pod.Value, output string) error {
	if !formatted(output) {
		var groups []found
		for _, v := range objects {
			k := kindOfValue(v)
			if n := len(groups); n == 0 || groups[n-1].kind != k {
				groups = append(groups, found{kind: k})
			}
			last := &groups[len(groups)-1]
			last.objects = append(last.objects, v)
		}
		return c.printFound(groups, false, true, c.ns(), getFlags{output: output, titles: len(groups) > 1})
	}
	items, err := toObjects(objects)
	if err != nil {
		return err
	}
	return printFormatted(c.out, items, len(objects) == 1, output, true)
}

func toObjects(values []pod.Value) ([]object, error) {
	items := make([]object, len(values))
	for i, v := range values {
		var err error
		if items[i], err = toObject(v, pod.KindOf(v).Name); err != nil {
			return nil, err
		}
	}
	return items, nil
}

// objectKey tells objects of one answer apart.
func objectKey(o object) string {
	return fmt.Sprint(o["kind"], "/", lookup(o, "metadata", "namespace"), "/", lookup(o, "metadata", "name"))
}
