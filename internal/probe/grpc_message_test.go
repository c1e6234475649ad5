package probe

import "testing"

func FuzzHealthResponse(f *testing.F) {
	for _, seed := range []string{"", "\x00\x00\x00\x00\x02\x08\x01", "\x00\x00\x00\x00\x06\x12\x02AB\x08\x01", "\x00\x00\x00\x00\x03\x12\xff\x01", "\x01\x00\x00\x00\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if status, err := healthResponse(frame); err == nil && len(frame) < frameHead {
			t.Errorf("got status %d of %q, want an error", status, frame)
		}
	})
}
