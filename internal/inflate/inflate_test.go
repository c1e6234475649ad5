package inflate_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"get.podrun.dev/podrun/internal/inflate"
)

// packed compresses data, each part as a member.
func packed(t testing.TB, level int, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, p := range parts {
		w, err := gzip.NewWriterLevel(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		w.Name, w.Comment, w.Extra = "a name", "a comment", []byte("extra")
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// samples are data of all kinds, some larger than the buffers.
func samples() map[string][]byte {
	random := rand.New(rand.NewChaCha8([32]byte{1}))
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	var text strings.Builder
	for text.Len() < 750_000 {
		fmt.Fprintf(&text, "line %d of %d\n", random.IntN(1000), random.IntN(1<<uint(random.IntN(20))))
	}
	skewed := make([]byte, 300_000) // codes of all lengths
	for i := range skewed {
		for skewed[i] < 255 && random.IntN(16) > 2 {
			skewed[i]++
		}
	}
	fibonacci := []byte{}
	for i, a, b := 0, 1, 1; i < 22; i, a, b = i+1, b, a+b { // the longest codes there are
		fibonacci = append(fibonacci, bytes.Repeat([]byte{byte(i * 7)}, a)...)
	}
	random.Shuffle(len(fibonacci), func(i, j int) { fibonacci[i], fibonacci[j] = fibonacci[j], fibonacci[i] })
	far := append(append(bytes.Clone(noise[:32<<10]), noise[:32<<10]...), noise[:300]...)
	return map[string][]byte{
		"nothing": nil, "a byte": {'x'}, "zeros": make([]byte, 600_000), "noise": noise, "text": []byte(text.String()),
		"skewed": skewed, "fibonacci": fibonacci, "the farthest match": far, "mixed": append(append(bytes.Clone(noise[:100_000]), text.String()[:700_000]...), noise[:70_000]...),
	}
}

func TestRead(t *testing.T) {
	for name, data := range samples() {
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 6, 9} {
			z := packed(t, level, data)
			got, err := io.ReadAll(inflate.NewReader(bytes.NewReader(z)))
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, level %d: got %d bytes, want %d: %v", name, level, len(got), len(data), err)
			}
		}
		z := packed(t, flate.DefaultCompression, data, data, []byte("end"))
		want := append(append(bytes.Clone(data), data...), "end"...)
		for way, source := range map[string]io.Reader{"halves": iotest.HalfReader(bytes.NewReader(z)), "end with data": iotest.DataErrReader(bytes.NewReader(z))} {
			if got, err := io.ReadAll(inflate.NewReader(source)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, three members, %s: got %d bytes, want %d: %v", name, way, len(got), len(want), err)
			}
		}
	}
	z := packed(t, flate.DefaultCompression, []byte(strings.Repeat("one byte at a time ", 1000)))
	if _, err := io.ReadAll(inflate.NewReader(iotest.OneByteReader(bytes.NewReader(z)))); err != nil {
		t.Error(err)
	}
}

// Whatever is missing or changed is found.
func TestBroken(t *testing.T) {
	data := samples()["mixed"][90_000:130_000]
	z := packed(t, flate.DefaultCompression, data)
	for n := range z {
		if n > 100 && n < len(z)-100 && n%97 != 0 {
			continue
		}
		_, err := io.ReadAll(inflate.NewReader(bytes.NewReader(z[:n])))
		if n > 0 && err == nil {
			t.Errorf("%d of %d bytes are taken for all of it", n, len(z))
		}
		if n < 40 || n > len(z)-14 && n < len(z)-8 { // the header's name may be anything, and some bits of the last block
			continue
		}
		b := bytes.Clone(z)
		b[n] ^= 0x10
		if _, err := io.ReadAll(inflate.NewReader(bytes.NewReader(b))); err == nil {
			t.Errorf("a changed bit in byte %d is not found", n)
		}
	}
	broken := errors.New("broken")
	if _, err := io.ReadAll(inflate.NewReader(io.MultiReader(bytes.NewReader(z[:5000]), iotest.ErrReader(broken)))); !errors.Is(err, broken) {
		t.Errorf("the source's error became %v", err)
	}
}

// FuzzRead compares with compress/gzip.
func FuzzRead(f *testing.F) {
	for _, data := range samples() {
		data = data[:min(len(data), 3000)]
		for _, level := range []int{0, 1, 6, flate.HuffmanOnly} {
			f.Add(packed(f, level, data))
		}
	}
	f.Add(packed(f, 6, []byte("one"), []byte("two")))
	f.Fuzz(func(t *testing.T, z []byte) {
		z = checked(z)
		const most = 8 << 20
		got, err := io.ReadAll(io.LimitReader(inflate.NewReader(bytes.NewReader(z)), most))
		var want []byte
		theirs, wantErr := gzip.NewReader(bytes.NewReader(z))
		if wantErr == nil {
			want, wantErr = io.ReadAll(io.LimitReader(theirs, most))
		}
		if errors.Is(wantErr, io.EOF) { // of no member at all
			wantErr = nil
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("got %v, compress/gzip says %v", err, wantErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, compress/gzip has %d", len(got), len(want))
		}
	})
}

// checked gives a single member the checksum that its data has: without it no
// change would get through.
func checked(z []byte) []byte {
	if len(z) < 18 || !bytes.HasPrefix(z, []byte{0x1f, 0x8b, 8, 0}) {
		return z
	}
	data, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(z[10:])), 1<<20))
	if err != nil {
		return z
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return append(bytes.Clone(z[:len(z)-8]), b.Bytes()[b.Len()-8:]...)
}

func BenchmarkRead(b *testing.B) {
	z := packed(b, flate.DefaultCompression, samples()["text"])
	b.SetBytes(int64(len(samples()["text"])))
	for b.Loop() {
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{inflate.NewReader(bytes.NewReader(z))}); err != nil {
			b.Fatal(err)
		}
	}
}
