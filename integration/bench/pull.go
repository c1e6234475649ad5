package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// puller fetches the large image and unpacks it.
type puller struct {
	name    string
	version []string // a command that prints it
	// start, if set, starts what a pull needs to run and is not part of it.
	start func() error
	pull  func(compression string) []string
}

// pulling is one comparison of pullers. Each pull goes to an ext4 of its own,
// new and empty: what was removed from a file system lately makes ext4 slow
// where new files are made.
type pulling struct {
	m                        *meter
	user, stage, disk, image string
	registry                 string // its address
}

// benchPulls measures pulls of the large image by all tools in turns.
func benchPulls(runs int, user, stage string) error {
	m, err := newMeter(os.Getenv("BENCH_CGROUP"))
	if err != nil {
		return err
	}
	p := &pulling{m: m, user: user, stage: stage, disk: filepath.Join(stage, "disk"), image: filepath.Join(stage, "disk.img")}
	conf, err := os.ReadFile(os.Getenv("PODRUN_REGISTRIES_CONF"))
	if err != nil {
		return err
	}
	location := regexp.MustCompile(`location = "([^"]+)"`).FindSubmatch(conf)
	if location == nil {
		return errors.New("registries.conf has no location")
	}
	p.registry = string(location[1])
	tools := p.tools()
	t := &table{}
	for run := range runs + 1 {
		for _, compression := range []string{"gzip", "zstd"} {
			for _, tool := range tools {
				f, err := p.measure(tool, compression)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", tool.name, compression, err)
				}
				if run > 0 { // the first warms up
					t.add(tool.name, compression, "", f)
				}
			}
		}
	}
	t.printPulls(tools, runs)
	return nil
}

// asUser is a command that runs as the ordinary user.
func (p *pulling) asUser(args ...string) []string {
	return append([]string{"setpriv", "--reuid=" + p.user, "--regid=" + p.user, "--init-groups", "--", "env", "-i",
		"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "HOME=" + p.stage + "/home", "XDG_RUNTIME_DIR=" + p.stage + "/run", "TMPDIR=" + p.stage + "/tmp",
		"PODRUN_DATA=" + p.disk + "/podrun", "PODRUN_REGISTRIES_CONF=" + os.Getenv("PODRUN_REGISTRIES_CONF"),
		"CONTAINERS_REGISTRIES_CONF=" + os.Getenv("PODRUN_REGISTRIES_CONF")}, args...)
}

func (p *pulling) tools() []puller {
	socket := filepath.Join(p.stage, "containerd.sock")
	return []puller{
		{name: "podrun", version: []string{"podrun", "version", "--client"}, pull: func(c string) []string { return p.asUser("podrun", "pull", "-q", "large:"+c) }},
		{name: "podman", version: []string{"podman", "--version"}, pull: func(c string) []string {
			return p.asUser("podman", "--root", p.disk+"/podman", "pull", "-q", "docker.io/library/large:"+c)
		}},
		{name: "containerd", version: []string{"containerd", "--version"}, start: func() error { return p.startContainerd(socket) }, pull: func(c string) []string {
			return []string{"ctr", "-a", socket, "image", "pull", "--plain-http", "--snapshotter", "overlayfs", p.registry + "/library/large:" + c}
		}},
		{name: "curl, tar", version: []string{"curl", "--version"}, pull: func(c string) []string {
			unpack := "gunzip"
			if c == "zstd" {
				unpack = "zstd -dc"
			}
			digests, err := p.layers(c)
			if err != nil {
				return []string{"sh", "-c", "echo '" + err.Error() + "'; exit 1"}
			}
			return p.asUser("sh", "-ec", fmt.Sprintf("mkdir %[1]s/files; for d in %[2]s; do curl -sf http://%[3]s/v2/library/large/blobs/$d | %[4]s | tar -xf - -C %[1]s/files; done",
				p.disk, strings.Join(digests, " "), p.registry, unpack))
		}},
	}
}

// layers are the digests of the large image's.
func (p *pulling) layers(compression string) ([]string, error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+p.registry+"/v2/library/large/manifests/"+compression, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	var manifest struct{ Layers []struct{ Digest string } }
	if err := json.NewDecoder(answer.Body).Decode(&manifest); err != nil {
		return nil, err
	}
	var digests []string
	for _, l := range manifest.Layers {
		digests = append(digests, l.Digest)
	}
	if len(digests) == 0 {
		return nil, fmt.Errorf("the registry answered %s", answer.Status)
	}
	return digests, nil
}

// startContainerd runs a containerd of our own, as root, and waits for it. It
// ends with all else in the cgroup.
func (p *pulling) startContainerd(socket string) error {
	conf := filepath.Join(p.stage, "containerd.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = %q\n",
		p.disk+"/containerd", p.stage+"/containerd.state", socket)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(p.stage, "containerd.log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	command := exec.Command("containerd", "-c", conf)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return err
	}
	go func() { _ = command.Wait() }()
	for range 200 {
		if exec.Command("ctr", "-a", socket, "version").Run() == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	text2, _ := os.ReadFile(log.Name())
	return fmt.Errorf("containerd does not answer: %s", text2)
}

// measure makes an empty disk and measures one pull to it.
func (p *pulling) measure(tool puller, compression string) (f figure, err error) {
	if err := p.makeDisk(); err != nil {
		return figure{}, err
	}
	defer func() { err = errors.Join(err, p.removeDisk()) }()
	if tool.start != nil {
		if err := tool.start(); err != nil {
			return figure{}, err
		}
	}
	args := tool.pull(compression)
	unix.Sync() // what was before is not this one's to wait for
	return p.m.command(args)
}

func (p *pulling) makeDisk() error {
	if err := os.MkdirAll(p.disk, 0o755); err != nil {
		return err
	}
	const size = 4 << 30
	if err := os.WriteFile(p.image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(p.image, size); err != nil {
		return err
	}
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", p.image},
		{"mount", "-o", "loop", p.image, p.disk}, {"chown", p.user + ":", p.disk},
	} {
		if err := run(command); err != nil {
			return err
		}
	}
	return nil
}

// removeDisk ends all that runs in the cgroup but us, by pid, and takes the
// disk away.
func (p *pulling) removeDisk() error {
	for range 100 {
		pids := p.m.pids()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(pids) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	// A lower directory that was mounted may take a moment to be let go.
	var err error
	for range 50 {
		if err = run([]string{"umount", "-R", p.disk}); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	state, _ := filepath.Glob(p.stage + "/run/*")
	for _, path := range append(state, p.image, p.stage+"/containerd.state") {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// printPulls prints the table of pulls.
func (t *table) printPulls(tools []puller, runs int) {
	var versions []string
	for _, tool := range tools {
		out, _ := exec.Command(tool.version[0], tool.version[1:]...).CombinedOutput()
		version := regexp.MustCompile(`(?:: |v?\d+\.\d+)[\w.~+-]*`).FindString(string(out))
		versions = append(versions, strings.TrimSuffix(tool.name, ", tar")+" "+strings.TrimPrefix(version, ": "))
	}
	fmt.Printf("%s; an image of 6 layers, 15,000 files, 400 MB of tar, to an empty ext4, in turns; medians of %d runs. %s.\n\n", strings.Join(versions, ", "), runs, machine())
	fmt.Print("| |")
	for _, tool := range tools {
		fmt.Printf(" %s | cpu |", tool.name)
	}
	fmt.Print(" podman/podrun | containerd/podrun |\n|---|")
	for range tools {
		fmt.Print("---:|---:|")
	}
	fmt.Println("---:|---:|")
	wall := func(f figure) time.Duration { return f.wall }
	for _, r := range t.rows {
		fmt.Printf("| pull of %s |", r.name)
		for _, tool := range tools {
			fmt.Printf(" %s | %s |", short(median(r.by[tool.name], wall)), short(median(r.by[tool.name], func(f figure) time.Duration { return f.cpu })))
		}
		ours := float64(median(r.by["podrun"], wall))
		fmt.Printf(" %.1f | %.1f |\n", float64(median(r.by["podman"], wall))/ours, float64(median(r.by["containerd"], wall))/ours)
	}
}
