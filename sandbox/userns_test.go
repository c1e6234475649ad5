package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIDBlocks(t *testing.T) {
	const block = idsPerSandbox
	write := func(text string) string {
		name := filepath.Join(t.TempDir(), "subid")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, c := range []struct {
		name, uids, gids string
		first            int64 // of the first block; 0 for none
		count            int
		err              string
	}{
		{"nobody has any", "", "", defaultFirstID, defaultIDBlocks, ""},
		{"others have some", "me:100000:65536\n", "me:100000:65536\n", defaultFirstID, defaultIDBlocks, ""},
		{"others have some of the default", "me:1879048192:1\n", "you:1879113728:131072\n", defaultFirstID + 3*block, defaultIDBlocks - 3, ""},
		{"root's", "root:200000:131072\n", "root:200000:131072\n", 200000, 2, ""},
		{"root's by number", "0:200000:131071\n", "0:200000:131072\n", 200000, 1, ""},
		{"root's before others'", "containers:500000:65536\nroot:200000:65536\n", "root:200000:65536\ncontainers:500000:65536\n", 200000, 1, ""},
		{"containers'", "containers:500000:65536\n", "containers:500000:65536\n", 500000, 1, ""},
		{"kubelet's in two lines", "kubelet:65536:65536\nkubelet:196608:65536\n", "kubelet:65536:65536\nkubelet:196608:65536\n", 65536, 2, ""},
		{"too few", "root:200000:1000\n", "root:200000:1000\n", 0, 0, "no 65536 IDs in a row"},
		{"users alone", "root:200000:65536\n", "", 0, 0, "no 65536 IDs in a row"},
		{"apart", "root:200000:65536\n", "root:400000:65536\n", 0, 0, "no 65536 IDs in a row"},
		{"the host's own", "root:0:65536\n", "root:0:65536\n", 0, 0, "no 65536 IDs in a row"},
		{"rubbish", "root\nroot:a:b\nroot:-1:65536\n# root:1:1\n", "", defaultFirstID, defaultIDBlocks, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			blocks, err := idBlocks(write(c.uids), write(c.gids))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, %v, want %q", blocks, err, c.err)
				}
				return
			}
			if err != nil || len(blocks) != c.count || blocks[0] != c.first {
				t.Errorf("got %d blocks %.3d, %v, want %d from %d on", len(blocks), blocks, err, c.count, c.first)
			}
		})
	}
	if blocks, err := idBlocks("/no/such/file", "/no/such/file"); err != nil || len(blocks) != defaultIDBlocks {
		t.Errorf("without files: %v, %v", blocks, err)
	}
}
