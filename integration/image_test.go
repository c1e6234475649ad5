package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/integration/registry"
)

// skopeo runs skopeo, which other tools' users have, in e's home.
func (e *env) skopeo(args ...string) string {
	e.t.Helper()
	command := exec.Command("skopeo", append([]string{"--tmpdir", e.home, "--insecure-policy"}, args...)...)
	command.Env, command.Dir = e.environ(), e.home
	out, err := command.CombinedOutput()
	if err != nil {
		e.t.Fatalf("skopeo %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// runsImage starts a pod of an image that must be here, and returns what its
// shell prints for script.
func (e *env) runsImage(image, script string) string {
	e.t.Helper()
	manifest := strings.Replace(podYAML("p", "restartPolicy: Never", "c="+script), "image: busybox", "image: \""+image+"\", imagePullPolicy: Never", 1)
	e.apply(manifest)
	e.ok("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/p")
	out := e.ok("logs", "p")
	e.ok("delete", "pod", "p", "--now")
	return out
}

// TestImageArchives: what podrun saves skopeo reads, in each format, and what
// skopeo writes podrun loads; the bytes of the image stay the same.
func TestImageArchives(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.ok("pull", "-q", "busybox", "app")
	id := strings.TrimSpace(e.ok("images", "-q", "--no-trunc", "busybox"))
	manifest := strings.TrimSpace(e.ok("image", "inspect", "-f", "{{.Content.Manifest}}", "busybox"))

	e.ok("save", "-o", "docker.tar", "busybox", "app")
	e.ok("save", "--format", "oci-archive", "-o", "oci.tar", "busybox")
	e.ok("save", "--format", "oci-dir", "-o", "oci", "busybox")
	mustContain(t, e.fails(1, "save", "--format", "oci-dir", "-o", "oci", "busybox"), "oci is not empty")
	mustContain(t, e.fails(1, "save", "-o", "x.tar", "nosuch"), "nosuch: no such image")
	mustContain(t, e.fails(1, "save", "--format", "oci-dir", "-o", "x", "nosuch"), "nosuch: no such image")
	same(t, e.fails(1, "save", "-o", "nosuch/x.tar", "busybox"), "podrun: cannot save images: nosuch/x.tar: no such file or directory\n")
	same(t, e.fails(1, "save", "-o", e.home, "busybox"), "podrun: cannot save images: "+e.home+" is a directory\n")
	for _, name := range []string{"x.tar", "x"} {
		if _, err := os.Stat(filepath.Join(e.home, name)); err == nil {
			t.Errorf("a save that failed left %s", name)
		}
	}
	if info, err := os.Stat(filepath.Join(e.home, "docker.tar")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a saved file: %v, %v", info.Mode(), err)
	}
	for _, source := range []string{"docker-archive:docker.tar:busybox:latest", "docker-archive:docker.tar:docker.io/library/app:latest", "oci-archive:oci.tar", "oci-archive:oci.tar:docker.io/library/busybox:latest", "oci:oci"} {
		mustContain(t, e.skopeo("inspect", source), `"Architecture"`)
	}
	e.skopeo("copy", "-q", "docker-archive:docker.tar:busybox:latest", "docker-archive:old.tar:quay.io/a/old:v1")
	e.skopeo("copy", "-q", "oci-archive:oci.tar", "oci-archive:new.tar:quay.io/a/new:v1")
	e.skopeo("copy", "-q", "oci:oci", "oci:dir:quay.io/a/dir:v1")
	e.skopeo("copy", "-q", "--dest-compress", "--dest-compress-format", "zstd", "docker-archive:docker.tar:busybox:latest", "oci:zstd:quay.io/a/zstd:v1")

	e.ok("rmi", "busybox", "app")
	for _, tt := range []struct{ file, want string }{
		{"docker.tar", "Loaded image: busybox:latest\nLoaded image: app:latest\n"},
		{"old.tar", "Loaded image: quay.io/a/old:v1\n"},
		{"new.tar", "Loaded image: quay.io/a/new:v1\n"},
		{"dir", "Loaded image: quay.io/a/dir:v1\n"},
		{"zstd", "Loaded image: quay.io/a/zstd:v1\n"},
	} {
		e.ok("image", "prune", "-a", "-f")
		same(t, e.ok("load", "-i", tt.file), tt.want)
		name := strings.Fields(tt.want)[2]
		same(t, e.runsImage(name, "echo it runs"), "it runs\n")
		if tt.file == "docker.tar" {
			same(t, e.ok("images", "-q", "--no-trunc", "busybox"), id+"\n")
			same(t, e.ok("image", "inspect", "-f", "{{.Content.Manifest}}", "busybox"), manifest+"\n")
		}
	}
	// By pipes, compressed.
	command := exec.Command("sh", "-c", "podrun load -i docker.tar >/dev/null; podrun save busybox | gzip | podrun load")
	command.Env, command.Dir = e.environ(), e.home
	if out, err := command.CombinedOutput(); err != nil || string(out) != "Loaded image: busybox:latest\n" {
		t.Errorf("%v: %s", err, out)
	}
	mustContain(t, e.fails(1, "load", "-i", "/etc/passwd"), `cannot load "/etc/passwd": it is neither an OCI image layout nor an archive of "docker save"`)
	mustContain(t, e.fails(1, "load", "-i", "nosuch"), `cannot load "nosuch": no such file or directory`)
}

// TestImageImport: a root filesystem becomes an image that runs, and says what
// it was told to.
func TestImageImport(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	command := exec.Command("sh", "-c", "mkdir -p root/bin && cp /bin/busybox root/bin/ && ln -s busybox root/bin/sh && ln -s busybox root/bin/cat && echo hello >root/file && tar -C root -czf root.tgz .")
	command.Dir = e.home
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	id := strings.TrimSpace(e.ok("image", "import", "-c", `CMD ["cat", "/file"]`, "-c", "ENV A=b", "-m", "by hand", "root.tgz", "mine:v1"))
	same(t, e.ok("images", "-q", "--no-trunc", "mine:v1"), id+"\n")
	same(t, e.runsImage("mine:v1", "cat /file; echo $A"), "hello\nb\n")
	mustContain(t, e.ok("image", "history", "mine:v1"), "by hand")
	mustContain(t, e.fails(1, "image", "import", "-c", "RUN x", "root.tgz"), `cannot import "root.tgz": change "RUN x"`)
	mustContain(t, e.fails(1, "image", "import", "root"), "it is a directory; pack it with tar")
	e.stdin = "no archive"
	mustContain(t, e.fails(1, "image", "import", "-"), "cannot import an image")
}

// TestManyLayers: an image with more layers than fit into the options of
// mount(2) runs.
func TestManyLayers(t *testing.T) {
	t.Parallel()
	const n = 80
	base, err := registry.Part(v1.Config{})
	if err != nil {
		t.Fatal(err)
	}
	layers, err := base.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		l, err := registry.Layer(registry.File{Name: fmt.Sprint("layer", i), Mode: 0o644})
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	pushImage(t, "library/manylayers", layers...)
	e := newEnv(t)
	var name unix.Utsname
	var major, minor int
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major < 6 || major == 6 && minor < 8 {
		mustContain(t, e.refused("manylayers"), "podrun takes up to 60, and 500 from Linux 6.8 on")
		return
	}
	e.ok("pull", "-q", "manylayers")
	same(t, e.runsImage("manylayers", "ls / | grep -c layer"), fmt.Sprintln(n))
}

// TestImageVerbs: what docker's users type and see.
func TestImageVerbs(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.ok("pull", "-q", "busybox", "app")
	e.ok("tag", "busybox", "reg.example:5000/team/box:v2")
	e.ok("image", "tag", "app", "busybox") // which leaves one without a name but its other
	same(t, e.ok("images", "--format", "{{.Repository}}:{{.Tag}}", "busybox"), "busybox:latest\n")
	same(t, e.ok("images", "--format", "{{.Repository}}", "--filter", "reference=reg.example:5000/*/box"), "reg.example:5000/team/box\n")
	e.ok("tag", "app", "reg.example:5000/team/box:v2")
	same(t, e.ok("images", "--filter", "dangling=true", "--format", "table {{.Repository}}\t{{.Tag}}"), "REPOSITORY   TAG\n<none>       <none>\n")
	var line struct{ Repository, Tag, ID, Digest string }
	if err := json.Unmarshal([]byte(e.ok("images", "--format", "json", "app")), &line); err != nil || line.Repository != "app" || len(line.ID) != 12 || !strings.HasPrefix(line.Digest, "sha256:") {
		t.Errorf("a line of JSON: %+v, %v", line, err)
	}
	var all []struct {
		ID       string `json:"Id"`
		RepoTags []string
		Config   struct{ Cmd []string }
		RootFS   struct{ Layers []string }
	}
	out := e.ok("image", "inspect", "app")
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 || len(all[0].RepoTags) != 3 || len(all[0].RootFS.Layers) != 2 || all[0].Config.Cmd[0] != "sh" {
		t.Errorf("inspect: %+v, %v", all, err)
	}
	same(t, e.ok("image", "inspect", "-f", "{{index .RepoTags 0}} {{json .Config.Cmd}} {{len .RootFS.Layers}}", "app"), "app:latest [\"sh\"] 2\n")
	mustContain(t, e.run("image", "inspect", "nosuch").err, `cannot inspect image "nosuch": no such image`)
	mustContain(t, e.run("image", "history", "nosuch").err, `cannot show the history of image "nosuch": no such image`)
	same(t, e.ok("image", "history", "--human=false", "--format", "{{.CreatedSince}}", "busybox"), "N/A\nN/A\n")
	mustContain(t, e.run("pull", "--platform", "foo", "busybox").err, `cannot pull "busybox": `, `unknown architecture "foo"`, "amd64")
	mustContain(t, e.fails(2, "images", "--format", "{{range .}}"), "podrun does not know {{range .}}")
	mustContain(t, e.fails(2, "images", "--filter", "colour=red"), `unknown filter "colour"`)

	e.stdin = "n\n"
	mustContain(t, e.ok("image", "prune"), "WARNING! This will remove all dangling images.")
	e.stdin = "y\n"
	mustContain(t, e.ok("image", "prune"), "Deleted Images:\ndeleted: sha256:", "Total reclaimed space: ")
	same(t, e.ok("images", "--filter", "dangling=true", "-q"), "")
	// An image that a pod uses stays, whatever its names.
	e.start(strings.Replace(podYAML("p", "", "c=exec sleep 3600"), "image: busybox", "image: app", 1), "p")
	mustContain(t, e.ok("image", "prune", "-a", "-f"), "Total reclaimed space: 0B")
	mustContain(t, e.fails(1, "rmi", "-f", strings.TrimPrefix(all[0].ID, "sha256:")[:12]), "in use by container c of pod default/p; delete the pod first")
	mustContain(t, e.ok("system", "df"), "TYPE", "Images", "Containers", "Local Volumes")
	mustContain(t, e.ok("system", "df", "-v"), "SHARED SIZE", "app", "busybox", "default/p")
	e.ok("delete", "pod", "p", "--now")
	mustContain(t, e.ok("image", "prune", "-a", "-f"), "untagged: app:latest\n", "untagged: busybox:latest\n")
	same(t, e.ok("images", "-q"), "")
	for _, dir := range []string{"layers", "blobs/sha256", "tmp"} {
		if entries, err := os.ReadDir(filepath.Join(e.data, "images", dir)); err != nil || len(entries) > 0 {
			t.Errorf("images/%s: %v, %v", dir, entries, err)
		}
	}
}

// TestPushAndLogin: an image goes to a registry that wants a password, which a
// login has stored, by docker's file and by a credential helper.
func TestPushAndLogin(t *testing.T) {
	t.Parallel()
	own, err := registry.Start(t.TempDir(), registry.Options{User: "ann", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Stop()
	e := newEnv(t)
	name := own.Address + "/team/box:v1"
	e.ok("pull", "-q", "busybox")
	e.ok("tag", "busybox", name)
	mustContain(t, e.run("push", name).err, "cannot push", "401", "podrun login "+own.Address)

	e.stdin = "wrong\n"
	text := e.fails(1, "login", "-u", "ann", "--password-stdin", own.Address)
	same(t, text, "podrun: cannot log in to "+own.Address+": registry "+own.Address+" does not take this user name and password; check both\n")
	mustContain(t, e.fails(2, "login", own.Address), "login needs --username and --password-stdin")
	mustContain(t, e.fails(1, "login", "--get-login", own.Address), "not logged in to "+own.Address)
	e.stdin = "secret\n"
	same(t, e.ok("login", "-u", "ann", "--password-stdin", own.Address), "Login Succeeded\n")
	same(t, e.ok("login", "--get-login", own.Address), "ann\n")
	mustContain(t, e.ok("login", own.Address), "Authenticating with existing credentials", "Login Succeeded")

	out := e.ok("push", name)
	mustContain(t, out, "The push refers to repository ["+own.Address+"/team/box]\n", ": Pushed\n", "v1: digest: sha256:")
	e.ok("tag", name, own.Address+"/other/box:v1") // is mounted from there
	mustContain(t, e.ok("push", own.Address+"/other/box:v1"), ": Layer already exists\n")
	same(t, e.ok("push", "-q", name), name+"\n")
	// skopeo finds the same credentials, where docker and podman look.
	mustContain(t, e.skopeo("inspect", "--tls-verify=false", "docker://"+name), `"Architecture"`)
	e.ok("image", "prune", "-a", "-f")
	e.ok("pull", "-q", name)
	same(t, e.runsImage(name, "echo it runs"), "it runs\n")

	same(t, e.ok("logout", own.Address), "Removing login credentials for "+own.Address+"\n")
	same(t, e.ok("logout", own.Address), "Not logged in to "+own.Address+"\n")
	mustContain(t, e.run("push", name).err, "401")
	// A file of one's own.
	e.stdin = "secret"
	e.ok("login", "--authfile", "own.json", "-u", "ann", "--password-stdin", own.Address)
	mustContain(t, e.run("push", name).err, "401")
	e.ok("push", "-q", "--authfile", "own.json", name)
	e.ok("pull", "-q", "--authfile", "own.json", name)
}

// TestImageCollection: on a disk that counts as full what no pod uses goes, and
// what a pod uses stays.
func TestImageCollection(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "PODRUN_IMAGE_GC_HIGH_THRESHOLD=1", "PODRUN_IMAGE_GC_LOW_THRESHOLD=0", "PODRUN_IMAGE_MINIMUM_GC_AGE=1ms", "PODRUN_IMAGE_GC_PERIOD=300ms")
	e.start(waiting("p", ""), "p")
	e.ok("pull", "-q", "app")
	e.eventually("collection of app", func() string {
		if out := e.ok("images", "--format", "{{.Repository}}"); out != "busybox\n" {
			return out
		}
		return ""
	})
	mustContain(t, e.nodeLog(), "image collected", "docker.io/library/app:latest", "disk is full")
	e.eventually("the events", func() string {
		out := e.ok("events")
		for _, want := range []string{"Node/", "ImagesCollected", "image app:latest", "FreeDiskSpaceFailed"} {
			if !strings.Contains(out, want) {
				return out
			}
		}
		return ""
	})
	// Its compressed layers went first: it runs without, and a restart needs none.
	mustContain(t, e.fails(1, "save", "-o", "x.tar", "busybox"), "its content is not kept here", `pull it again with "podrun pull busybox:latest"`)
	e.end("p", "one", 1)
	e.restarted("p", 1)
}
