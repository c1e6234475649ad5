package sandbox

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// /etc/passwd and /etc/group are the image's. A number needs neither, and a name
// that none of them has is nobody.
func FuzzUser(f *testing.F) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\nu:x:1000:100::/:\n"
	const group = "root:x:0:\nusers:x:100:\nw:x:10:u,root\n"
	for _, spec := range []string{"", "0", "u", "u:w", "1000:w", ":w", "u:", "4294967296", "-1", "u:4294967295", "nobody"} {
		f.Add(spec, passwd, group)
		f.Add(spec, "u:x:99999999999:-7::\nu\n:::::\n\xff", "w:x::u\nw:x:-1:u\n")
	}
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		for name, text := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		id, err := lookUpUser(dir, spec)
		if err != nil {
			return
		}
		user, _, _ := strings.Cut(spec, ":")
		n, err := strconv.Atoi(user)
		switch {
		case user == "":
		case err == nil && !strings.Contains(passwd, user) && id.UID != n:
			t.Errorf("user %q is %d", spec, id.UID)
		case err != nil && !strings.Contains(passwd, user):
			t.Errorf("user %q, of whom nobody has heard, is %d", spec, id.UID)
		}
		// What is no ID is mapped nowhere.
		everyone := idMap{{0, 1 << 32}}
		for _, number := range append([]int{id.UID, id.GID}, id.Groups...) {
			if everyone.has(number) != (number >= 0 && number < 1<<32) {
				t.Errorf("%d is an ID", number)
			}
		}
	})
}
