package pod

import (
	"runtime"
	"strings"
	"testing"
)

// A container can write a file whose only value is all of it, and that is all
// lines: it is read in one go.
func TestEnvFileOfOneValue(t *testing.T) {
	text := "A='" + strings.Repeat("\n", maxEnvFile-4) + "'"
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	value, err := envFileValue(strings.NewReader(text), "A")
	if err != nil || len(value) != maxEnvFile-4 {
		t.Errorf("got %d bytes, %v; want %d", len(value), err, maxEnvFile-4)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 256*maxEnvFile {
		t.Errorf("it took %d MB of memory for %d bytes", took>>20, maxEnvFile)
	}
}

// A value of an environment file is a part of the file.
func FuzzEnvFile(f *testing.F) {
	for _, s := range []string{"A='1'\n", "# c\n\nB='x'\nA='a\nb' # c\r\n", "A= '1'", "A=", "A='", "=''", "A ='1'", "A='1'x", "\tA=''"} {
		f.Add(s, "A")
	}
	f.Fuzz(func(t *testing.T, text, key string) {
		value, err := envFileValue(strings.NewReader(text), key)
		if err != nil && value != "" {
			t.Errorf("%q beside %v", value, err)
		}
		if !strings.Contains(strings.ReplaceAll(text, "\r", ""), strings.ReplaceAll(value, "\r", "")) || strings.Contains(value, "'") {
			t.Errorf("%q is not of %q", value, text)
		}
	})
}
