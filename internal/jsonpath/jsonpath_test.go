package jsonpath_test

import (
	"encoding/json"
	"strings"
	"testing"

	"get.podrun.dev/podrun/internal/jsonpath"
)

const sample = `{"kind":"List","items":[
 {"metadata":{"name":"a","labels":{"app.kubernetes.io/name":"x"}},"n":1,"ok":true,"ports":[80,81,82]},
 {"metadata":{"name":"b"},"n":2,"ok":false,"ports":[90]}]}`

func TestTemplates(t *testing.T) {
	var data any
	if err := json.Unmarshal([]byte(sample), &data); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ template, want string }{
		{`{.kind}`, "List"},
		{`kind is {.kind}!`, "kind is List!"},
		{`{.items[*].metadata.name}`, "a b"},
		{`{$.items[0].metadata.name}`, "a"},
		{`{.items[-1].metadata.name}`, "b"},
		{`{.items[0].ports[0:2]}`, "80 81"},
		{`{.items[0].ports[::2]}`, "80 82"},
		{`{.items[0].ports[0,2]}`, "80 82"},
		{`{.items[0]['n','ok']}`, "1 true"},
		{`{.items[0].metadata.labels.app\.kubernetes\.io/name}`, "x"},
		{`{.items[0].metadata.labels['app.kubernetes.io/name']}`, "x"},
		{`{range .items[*]}{.metadata.name}{"\t"}{.n}{"\n"}{end}`, "a\t1\nb\t2\n"},
		{`{.items[?(@.n>1)].metadata.name}`, "b"},
		{`{.items[?(@.metadata.name=="a")].n}`, "1"},
		{`{.items[?(@.metadata.name!='a')].n}`, "2"},
		{`{.items[?(@.metadata.labels)].n}`, "1"},
		{`{.items[?(@.ok==true)].n}`, "1"},
		{`{..name}`, "a b"},
		{`{.items[*].ports}`, "[80,81,82] [90]"},
		{`{.items[0].metadata}`, `{"labels":{"app.kubernetes.io/name":"x"},"name":"a"}`},
		{`{.items[?(@.n<=1)].ports[*]}`, "80 81 82"},
		{`{@.kind}`, "List"},
		{``, ""},
	} {
		t.Run(c.template, func(t *testing.T) {
			parsed, err := jsonpath.Parse(c.template)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := parsed.Execute(&b, data); err != nil {
				t.Fatal(err)
			}
			if b.String() != c.want {
				t.Errorf("got %q, want %q", b.String(), c.want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	for _, template := range []string{`{.a`, `{range .a}x`, `{end}`, `{.a[}`, `{.a[x]}`, `{"x}`, `{.a[?(@.b==)]}`, `{.a..}`} {
		if _, err := jsonpath.Parse(template); err == nil {
			t.Errorf("Parse(%q) succeeded", template)
		}
	}
	missing, err := jsonpath.Parse(`{.nope}`)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := missing.Execute(&b, map[string]any{}); err == nil || err.Error() != "nope is not found" {
		t.Errorf("a missing key: %v, want %q", err, "nope is not found")
	}
	missing.AllowMissing = true
	if err := missing.Execute(&b, map[string]any{}); err != nil || b.String() != "" {
		t.Errorf("a missing key that may be missing: %v, %q", err, b.String())
	}
	outside, err := jsonpath.Parse(`{.a[3]}`)
	if err != nil {
		t.Fatal(err)
	}
	if err := outside.Execute(&b, map[string]any{"a": []any{1}}); err == nil {
		t.Error("an index out of bounds is no error")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{.a.b[0]}`, `{range .a[*]}{.b}{"\n"}{end}`, `{.a[?(@.b=="c")]}`, `{..a}`, `{.a['b','c']}`, `{.a[1:2:3]}`, "{\"", `{.a\.b}`} {
		f.Add(s)
	}
	var data any
	if err := json.Unmarshal([]byte(sample), &data); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parsed, err := jsonpath.Parse(s)
		if err != nil {
			return
		}
		var b strings.Builder
		_ = parsed.Execute(&b, data)
	})
}
