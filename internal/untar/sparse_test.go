package untar_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Sparse files as GNU tar writes them, in each of its ways, keep their holes;
// one of them is larger than tar's octal sizes go.
func TestSparse(t *testing.T) {
	source := t.TempDir()
	const size = 9 << 30
	marks := map[int64]string{0: "begin", 5<<20 + 17: "middle", 8<<30 + 4097: "end"}
	f, err := os.Create(filepath.Join(source, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for at, text := range marks {
		if _, err := f.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, format := range [][]string{{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"}} {
		t.Run(format[len(format)-1], func(t *testing.T) {
			t.Parallel()
			data, err := exec.Command("tar", append(format, "--sparse", "-C", source, "-cf", "-", "sparse")...).Output()
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > 1<<20 {
				t.Fatalf("the tar has %d bytes", len(data))
			}
			to, _, err := apply(t, data, options())
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(to, "sparse")
			st := stat(t, path)
			if st.Size != size || st.Blocks*512 > 1<<20 {
				t.Errorf("got %d bytes, %d of them on disk", st.Size, st.Blocks*512)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			for at, text := range marks {
				b := make([]byte, len(text)+2)
				if _, err := f.ReadAt(b, at); err != nil || !bytes.HasPrefix(b, []byte(text)) {
					t.Errorf("at %d: got %q, %v", at, b, err)
				}
			}
		})
	}
}
