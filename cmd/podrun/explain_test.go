package main

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// docs collects the documentation of types.
type docs struct {
	t     *testing.T
	types map[string]reflect.Type
	out   map[string]typeDoc
}

// optional are fields that are not required though their tags do not say so.
var optional = map[string]bool{"Event.reportingComponent": true, "Event.reportingInstance": true}

func (d *docs) add(t reflect.Type) {
	if known, ok := d.types[t.Name()]; ok {
		if known != t {
			d.t.Errorf("two types are named %s: %s and %s", t.Name(), known.PkgPath(), t.PkgPath())
		}
		return
	}
	d.types[t.Name()] = t
	doc := typeDoc{Name: t.Name(), Doc: swagger(t)[""]}
	d.fields(&doc, t)
	slices.SortFunc(doc.Fields, func(a, b fieldDoc) int { return strings.Compare(a.Name, b.Name) })
	d.out[t.Name()] = doc
}

func (d *docs) fields(doc *typeDoc, t reflect.Type) {
	about := swagger(t)
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "" && f.Type.Kind() == reflect.Struct:
			d.fields(doc, f.Type)
		case name != "" && name != "-":
			shown, of := d.guess(f.Type)
			doc.Fields = append(doc.Fields, fieldDoc{
				Name: name, Type: shown, Of: of, Doc: about[name],
				Required: !strings.Contains(options, "omit") && f.Type.Kind() != reflect.Pointer && !optional[doc.Name+"."+name],
			})
		}
	}
}

// guess is how kubectl shows a type, and the type whose fields are below it.
func (d *docs) guess(t reflect.Type) (shown, of string) {
	switch t.Kind() {
	case reflect.Pointer:
		return d.guess(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "string", ""
		}
		shown, of = d.guess(t.Elem())
		return "[]" + shown, of
	case reflect.Map:
		shown, of = d.guess(t.Elem())
		return "map[string]" + shown, of
	case reflect.Struct:
		switch t.Name() {
		case "Time", "MicroTime":
			return "string", ""
		case "Quantity", "IntOrString", "FieldsV1":
			return t.Name(), ""
		}
		d.add(t)
		return t.Name(), t.Name()
	case reflect.String:
		return "string", ""
	case reflect.Bool:
		return "boolean", ""
	case reflect.Float32, reflect.Float64:
		return "number", ""
	}
	return "integer", ""
}

func swagger(t reflect.Type) map[string]string {
	if s, ok := reflect.New(t).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
		return s.SwaggerDoc()
	}
	return nil
}

// TestExplainTypes: explain.jsonl is what the packages say.
func TestExplainTypes(t *testing.T) {
	d := &docs{t: t, types: map[string]reflect.Type{}, out: map[string]typeDoc{}}
	for _, k := range kinds {
		d.add(reflect.TypeOf(k.New()).Elem())
	}
	var names []string
	for name := range d.out {
		names = append(names, name)
	}
	slices.Sort(names)
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	for _, name := range names {
		if err := encoder.Encode(d.out[name]); err != nil {
			t.Fatal(err)
		}
	}
	if *update {
		if err := os.WriteFile("explain.jsonl", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if b.String() != explainTypes {
		t.Error("explain.jsonl is stale: go generate ./cmd/podrun")
	}
}

// TestExplain: kubectl's layout, and what podrun does with a field.
func TestExplain(t *testing.T) {
	for name, path := range map[string][]string{
		"explain-pod.txt": nil, "explain-resources.txt": {"spec", "containers", "resources"},
		"explain-leaf.txt": {"spec", "serviceAccountName"}, "explain-refused.txt": {"spec", "volumes", "awsElasticBlockStore"},
	} {
		var b bytes.Buffer
		if err := explain(&b, podKind, path, false); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.String())
	}
	var b bytes.Buffer
	if err := explain(&b, configMapKind, nil, true); err != nil {
		t.Fatal(err)
	}
	golden(t, "explain-recursive.txt", b.String())
}
