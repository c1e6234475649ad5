package image_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"get.podrun.dev/podrun/image"
)

// helperScript is a credential helper that keeps one file for each server.
const helperScript = `#!/bin/sh
dir=$(dirname "$0")/secrets; mkdir -p "$dir"
case $1 in
get) read -r server || true; f=$dir/$(echo "$server" | tr '/:' __)
	[ -f "$f" ] || { echo "credentials not found in native keychain"; exit 1; }; cat "$f";;
store) in=$(cat); server=$(echo "$in" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/'); echo "$in" > "$dir/$(echo "$server" | tr '/:' __)";;
erase) read -r server || true; rm "$dir/$(echo "$server" | tr '/:' __)";;
esac
`

// credentialHome is a home without credentials, and with a credential helper
// "test" in $PATH.
func credentialHome(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(home, "run"))
	t.Setenv("DOCKER_CONFIG", "")
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("PATH", home+"/bin:"+os.Getenv("PATH"))
	putFile(t, home+"/bin/docker-credential-test", helperScript, 0o755)
	return home
}

func putFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// auths are what a file has, without what else is in it.
func auths(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Auths json.RawMessage }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatalf("%s: %v: %s", path, err, data)
	}
	out, _ := json.Marshal(file.Auths)
	return string(out)
}

func TestLoginFiles(t *testing.T) {
	ctx := context.Background()
	home := credentialHome(t)
	docker, podman := home+"/.docker/config.json", home+"/run/containers/auth.json"
	save := func(registry, user string) string {
		t.Helper()
		where, _, err := image.SaveLogin(ctx, "", registry, user, "pw")
		if err != nil {
			t.Fatal(err)
		}
		return where
	}
	stored := func(registry, want string) {
		t.Helper()
		user, password, err := image.StoredLogin(ctx, "", registry)
		if err != nil || user != want || want != "" && password != "pw" {
			t.Errorf("stored for %s: %q %q, %v; want %q", registry, user, password, err, want)
		}
	}
	// A new login is docker's file, which has it as docker writes it.
	if where := save("docker.io", "a"); where != docker {
		t.Errorf("stored in %s, want %s", where, docker)
	}
	save("reg.example:5000", "b")
	if got, want := auths(t, docker), `{"https://index.docker.io/v1/":{"auth":"YTpwdw=="},"reg.example:5000":{"auth":"Yjpwdw=="}}`; got != want {
		t.Errorf("docker's file has %s\nwant %s", got, want)
	}
	if info, err := os.Stat(docker); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of %s: %v, %v", docker, info.Mode(), err)
	}
	stored("docker.io", "a")
	stored("index.docker.io", "a")
	stored("reg.example:5000", "b")
	stored("reg.example", "")
	// What podman has comes first, so that it is what a login replaces.
	putFile(t, podman, `{"auths": {"reg.example:5000": {"auth": "cDpwdw=="}}}`, 0o600)
	stored("reg.example:5000", "p")
	if where := save("reg.example:5000", "q"); where != podman {
		t.Errorf("stored in %s, want %s", where, podman)
	}
	stored("reg.example:5000", "q")
	// The rest of a file is left alone, and a link stays one.
	putFile(t, home+"/real.json", `{"psFormat": "x", "auths": {"other": {"auth": "eDp5", "email": "e"}}}`, 0o600)
	if err := os.Remove(docker); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../real.json", docker); err != nil {
		t.Fatal(err)
	}
	save("docker.io", "c")
	data, err := os.ReadFile(home + "/real.json")
	if err != nil || !strings.Contains(string(data), `"psFormat": "x"`) || !strings.Contains(string(data), `"email": "e"`) {
		t.Errorf("changed file: %s, %v", data, err)
	}
	if info, err := os.Lstat(docker); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
	// A logout removes all there is.
	putFile(t, home+"/.config/containers/auth.json", `{"auths": {"https://reg.example:5000/": {"auth": "cDpwdw=="}}}`, 0o600)
	if removed, err := image.RemoveLogin(ctx, "", "reg.example:5000"); err != nil || !removed {
		t.Errorf("removed: %v, %v", removed, err)
	}
	stored("reg.example:5000", "")
	if removed, err := image.RemoveLogin(ctx, "", "reg.example:5000"); err != nil || removed {
		t.Errorf("removed again: %v, %v", removed, err)
	}
	stored("docker.io", "c")
	// A file of one's own is the only one.
	own := home + "/own.json"
	if where, _, err := image.SaveLogin(ctx, own, "docker.io", "o", "pw"); err != nil || where != own {
		t.Errorf("stored in %s, %v", where, err)
	}
	if user, _, err := image.StoredLogin(ctx, own, "docker.io"); err != nil || user != "o" {
		t.Errorf("stored in a file of one's own: %q, %v", user, err)
	}
	stored("docker.io", "c")
	t.Setenv("REGISTRY_AUTH_FILE", own)
	stored("docker.io", "o")
	if where := save("new.example", "n"); where != own {
		t.Errorf("stored in %s, want $REGISTRY_AUTH_FILE", where)
	}
	putFile(t, own, "{", 0o600)
	if _, _, err := image.StoredLogin(ctx, "", "docker.io"); err == nil || !strings.Contains(err.Error(), own) {
		t.Errorf("a broken file: %v", err)
	}
}

func TestCredentialHelpers(t *testing.T) {
	ctx := context.Background()
	home := credentialHome(t)
	docker := home + "/.docker/config.json"
	putFile(t, docker, `{"credHelpers": {"reg.example:5000": "test"}, "auths": {"other": {"auth": "eDp5"}}}`, 0o600)
	where, helper, err := image.SaveLogin(ctx, "", "reg.example:5000", "u", "s3cret")
	if err != nil || where != docker || helper != "test" {
		t.Fatalf("stored in %s by %q, %v", where, helper, err)
	}
	if got := auths(t, docker); strings.Contains(got, "s3cret") || got != `{"other":{"auth":"eDp5"},"reg.example:5000":{}}` {
		t.Errorf("the file has %s", got)
	}
	if user, password, err := image.StoredLogin(ctx, "", "reg.example:5000"); err != nil || user != "u" || password != "s3cret" {
		t.Errorf("stored: %q %q, %v", user, password, err)
	}
	if user, _, err := image.StoredLogin(ctx, "", "other"); err != nil || user != "x" {
		t.Errorf("stored without a helper: %q, %v", user, err)
	}
	if removed, err := image.RemoveLogin(ctx, "", "reg.example:5000"); err != nil || !removed {
		t.Errorf("removed: %v, %v", removed, err)
	}
	if user, _, err := image.StoredLogin(ctx, "", "reg.example:5000"); err != nil || user != "" {
		t.Errorf("stored after the logout: %q, %v", user, err)
	}
	// credsStore is for all registries.
	putFile(t, docker, `{"credsStore": "test"}`, 0o600)
	if _, helper, err := image.SaveLogin(ctx, "", "docker.io", "hub", "pw"); err != nil || helper != "test" {
		t.Errorf("stored by %q, %v", helper, err)
	}
	if user, _, err := image.StoredLogin(ctx, "", "docker.io"); err != nil || user != "hub" {
		t.Errorf("stored: %q, %v", user, err)
	}
	// One that is not there is named.
	putFile(t, docker, `{"credsStore": "gone"}`, 0o600)
	if _, _, err := image.StoredLogin(ctx, "", "docker.io"); err == nil || !strings.Contains(err.Error(), "docker-credential-gone") {
		t.Errorf("a helper that is not there: %v", err)
	}
	// What it says when it fails is passed on.
	putFile(t, home+"/bin/docker-credential-locked", "#!/bin/sh\necho the keyring is locked\nexit 2\n", 0o755)
	putFile(t, docker, `{"credsStore": "locked"}`, 0o600)
	if _, _, err := image.StoredLogin(ctx, "", "docker.io"); err == nil || !strings.Contains(err.Error(), "the keyring is locked") {
		t.Errorf("a helper that fails: %v", err)
	}
}

// A pull has what helpers keep.
func TestPullWithHelper(t *testing.T) {
	home := credentialHome(t)
	srv := newServer(t)
	srv.push(t, "a", imageOf(t, tarOf(t, entry{name: "f"})))
	srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if user, password, _ := r.BasicAuth(); user == "u" && password == "pw" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	s := openStore(t, t.TempDir())
	if _, err := s.Pull(t.Context(), parse(t, srv.host+"/a"), image.PullOptions{}); err == nil {
		t.Fatal("pulled without credentials")
	}
	if err := s.Login(t.Context(), srv.host, "u", "wrong"); err == nil || !strings.Contains(err.Error(), "does not take this user name and password") {
		t.Errorf("login with a wrong password: %v", err)
	}
	if err := s.Login(t.Context(), srv.host, "u", "pw"); err != nil {
		t.Errorf("login: %v", err)
	}
	putFile(t, home+"/.docker/config.json", fmt.Sprintf(`{"credHelpers": {%q: "test"}}`, srv.host), 0o600)
	if _, _, err := image.SaveLogin(t.Context(), "", srv.host, "u", "pw"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), parse(t, srv.host+"/a"), image.PullOptions{}); err != nil {
		t.Errorf("pull: %v", err)
	}
}
