package object

import (
	"encoding/json"
	"reflect"
	"testing"
)

func decoded(t *testing.T, s string) map[string]any {
	t.Helper()
	if s == "" {
		return nil
	}
	m, err := decodeMap([]byte(s))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return m
}

func TestMerge(t *testing.T) {
	for _, tt := range []struct{ name, before, want, live, merged string }{
		{"first apply", "", `{"a":1}`, `{"b":2}`, `{"a":1,"b":2}`},
		{"change", `{"a":1}`, `{"a":2}`, `{"a":1}`, `{"a":2}`},
		{"drop", `{"a":1,"b":1}`, `{"a":1}`, `{"a":1,"b":1,"c":1}`, `{"a":1,"c":1}`},
		{"drop what is gone", `{"a":1}`, `{}`, `{}`, `{}`},
		{"drop a map", `{"m":{"a":1}}`, `{}`, `{"m":{"a":1}}`, `{}`},
		{"drop a map that others use", `{"m":{"a":1}}`, `{}`, `{"m":{"a":1,"b":2}}`, `{"m":{"b":2}}`},
		{"drop in a map", `{"m":{"a":1,"b":1}}`, `{"m":{"a":2}}`, `{"m":{"a":1,"b":1,"c":1}}`, `{"m":{"a":2,"c":1}}`},
		{"lists are wholes", `{"l":[1,2]}`, `{"l":[3]}`, `{"l":[1,2,4]}`, `{"l":[3]}`},
		{"a map for a value", `{"a":1}`, `{"a":{"b":1}}`, `{"a":1}`, `{"a":{"b":1}}`},
		{"a value for a map", `{"a":{"b":1}}`, `{"a":1}`, `{"a":{"b":1}}`, `{"a":1}`},
		{"large numbers", "", `{"n":9007199254740993}`, `{}`, `{"n":9007199254740993}`},
	} {
		live := decoded(t, tt.live)
		got := merge(decoded(t, tt.before), decoded(t, tt.want), live)
		if !reflect.DeepEqual(got, decoded(t, tt.merged)) {
			text, _ := json.Marshal(got)
			t.Errorf("%s: got %s, want %s", tt.name, text, tt.merged)
		}
		if !reflect.DeepEqual(live, decoded(t, tt.live)) {
			t.Errorf("%s: the live object was changed", tt.name)
		}
	}
}

// The examples of RFC 7386 whose target and patch are objects.
func TestMergePatch(t *testing.T) {
	for _, tt := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		got := mergePatch(decoded(t, tt.target), decoded(t, tt.patch))
		if !reflect.DeepEqual(got, decoded(t, tt.want)) {
			text, _ := json.Marshal(got)
			t.Errorf("%s with %s: got %s, want %s", tt.target, tt.patch, text, tt.want)
		}
	}
}
