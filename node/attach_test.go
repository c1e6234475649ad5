package node

import "testing"

// TestDetachKeys: what only looks like the keys is passed on, however it comes
// in.
func TestDetachKeys(t *testing.T) {
	const keys = "\x10\x11" // ^P ^Q
	for _, tt := range []struct {
		name  string
		in    []string
		out   string
		typed bool
	}{
		{"none", []string{"hello"}, "hello", false},
		{"the keys", []string{keys}, "", true},
		{"after text", []string{"hello" + keys}, "hello", true},
		{"in two", []string{"\x10", "\x11"}, "", true},
		{"the first alone", []string{"\x10", "x"}, "\x10x", false},
		{"the first twice", []string{"\x10\x10\x11"}, "\x10", true},
		{"the first last", []string{"x\x10"}, "x\x10", false},
		{"the second alone", []string{"\x11"}, "\x11", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := detachKeys{keys: []byte(keys)}
			out, typed := "", false
			for i, in := range tt.in {
				p, done := d.filter([]byte(in), i == len(tt.in)-1)
				out, typed = out+string(p), typed || done
			}
			if out != tt.out || typed != tt.typed {
				t.Errorf("got %q, %v; want %q, %v", out, typed, tt.out, tt.typed)
			}
		})
	}
	d := detachKeys{}
	if p, typed := d.filter([]byte(keys), false); string(p) != keys || typed {
		t.Errorf("without keys: got %q, %v", p, typed)
	}
}
