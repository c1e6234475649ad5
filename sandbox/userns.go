package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/internal/linux"
)

// Real root's sandboxes may have users of their own: a user namespace, made by
// the pause, whose 65536 IDs are no other sandbox's. Root in it is nobody on the
// host. Image layers and volumes are shown in it with their owners mapped
// (idmapped mounts), so that no file changes its owner on disk; only what a
// container writes to its own layer belongs to the IDs of its sandbox, and goes
// with it.

// idsPerSandbox is how many IDs a sandbox with users of its own has, as
// Kubernetes gives each pod.
const idsPerSandbox = 1 << 16

// The IDs that sandboxes get where /etc/subuid and /etc/subgid give none to
// root: what systemd's table of IDs has as unused
// (https://systemd.io/UIDS-GIDS/), 1024 sandboxes' worth.
const (
	defaultFirstID  = 0x7000_0000
	defaultIDBlocks = 1024
)

// subIDOwners are those whose ranges in /etc/subuid and /etc/subgid are for
// containers of root: the first of them that has any.
var subIDOwners = []string{"root", "0", "containers", "kubelet"}

// ownUsers is what sandboxes with users of their own share.
type ownUsers struct {
	// dir holds the root filesystems of such sandboxes: their roots have to be
	// able to enter it, and so everybody is.
	dir    string
	taking sync.Mutex // one sandbox takes its IDs at a time
}

// OwnUsers tells why sandboxes cannot have users of their own, nil when they
// can as far as is known before one is made.
func (r *Runtime) OwnUsers() error {
	if r.rootless {
		return errors.New("the node is in a user namespace itself")
	}
	if err := linux.HasIDMappedMounts(); err != nil {
		return fmt.Errorf("the kernel has no idmapped mounts: %w", err)
	}
	if _, err := idBlocks("/etc/subuid", "/etc/subgid"); err != nil {
		return err
	}
	return enterable(r.own.dir)
}

// enterable tells which directory above dir others may not enter.
func enterable(dir string) error {
	for dir != "/" {
		dir = filepath.Dir(dir)
		info, err := os.Stat(dir)
		if err == nil && info.Mode()&0o001 == 0 {
			err = fmt.Errorf("others than root may not enter %s (mode %04o)", dir, info.Mode().Perm())
			return hint.Wrap(err, "set PODRUN_STATE to a directory below one that they may enter, such as /run/podrun")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// takeIDs gives s the lowest block of IDs that no other sandbox has, and writes
// it down.
func (s *Sandbox) takeIDs() error {
	blocks, err := idBlocks("/etc/subuid", "/etc/subgid")
	if err != nil {
		return err
	}
	s.r.own.taking.Lock()
	defer s.r.own.taking.Unlock()
	ids, err := s.r.Sandboxes()
	if err != nil {
		return err
	}
	used := map[int64]bool{}
	for _, id := range ids {
		var state sandboxState
		// What cannot be read was not written to its end, before any process.
		if load(filepath.Join(s.r.dir, id, "sandbox.json"), &state) == nil {
			used[state.FirstID] = true
		}
	}
	for _, first := range blocks {
		if !used[first] {
			s.state.FirstID = first
			return s.save()
		}
	}
	return hint.Wrap(fmt.Errorf("all %d blocks of %d IDs are in use", len(blocks), idsPerSandbox), "give root a longer range in /etc/subuid and /etc/subgid")
}

// idBlocks returns the first IDs of the blocks that sandboxes may have: what
// both files give to root's containers, or the default range without what they
// give to others.
func idBlocks(subuid, subgid string) ([]int64, error) {
	users, err := readSubIDs(subuid)
	if err != nil {
		return nil, err
	}
	groups, err := readSubIDs(subgid)
	if err != nil {
		return nil, err
	}
	for _, owner := range subIDOwners {
		if len(users[owner]) == 0 && len(groups[owner]) == 0 {
			continue
		}
		var blocks []int64
		for _, r := range users[owner] {
			for first := r.first; first+idsPerSandbox <= r.first+r.count; first += idsPerSandbox {
				if first >= idsPerSandbox && idMap(groups[owner]).hasAll(first, idsPerSandbox) {
					blocks = append(blocks, first)
				}
			}
		}
		if len(blocks) == 0 {
			err := fmt.Errorf("%s and %s have no %d IDs in a row, from %[3]d on, that are %s's in both", subuid, subgid, idsPerSandbox, owner)
			return nil, hint.Wrap(err, fmt.Sprintf("give %s the same range in both, such as %s:%d:%d", owner, owner, defaultFirstID, defaultIDBlocks*idsPerSandbox))
		}
		return blocks, nil
	}
	var blocks []int64
	for i := range int64(defaultIDBlocks) {
		first := defaultFirstID + i*idsPerSandbox
		if !overlaps(users, first) && !overlaps(groups, first) {
			blocks = append(blocks, first)
		}
	}
	return blocks, nil
}

func overlaps(owners map[string][]idRange, first int64) bool {
	for _, ranges := range owners {
		for _, r := range ranges {
			if r.first < first+idsPerSandbox && first < r.first+r.count {
				return true
			}
		}
	}
	return false
}

// hasAll tells whether one range has all of the IDs.
func (m idMap) hasAll(first, count int64) bool {
	for _, r := range m {
		if first >= r.first && first+count <= r.first+r.count {
			return true
		}
	}
	return false
}

// readSubIDs reads a file of subuid(5)'s form, by owner. Lines of another form
// are nobody's, and a file that is not there is empty.
func readSubIDs(file string) (map[string][]idRange, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	owners := map[string][]idRange{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 {
			continue
		}
		first, err := strconv.ParseUint(fields[1], 10, 32)
		count, cerr := strconv.ParseUint(fields[2], 10, 32)
		if err == nil && cerr == nil {
			owners[fields[0]] = append(owners[fields[0]], idRange{int64(first), int64(count)})
		}
	}
	return owners, lines.Err()
}

// ids are the IDs that containers of the sandbox can have.
func (s *Sandbox) ids() (uids, gids idMap) {
	if s.state.OwnUsers {
		all := idMap{{0, idsPerSandbox}}
		return all, all
	}
	return s.r.uids, s.r.gids
}

// mapping is that of the sandbox's own users, nil when it has none.
func (s *Sandbox) mapping() []configs.IDMap {
	if !s.state.OwnUsers {
		return nil
	}
	return []configs.IDMap{{ContainerID: 0, HostID: s.state.FirstID, Size: idsPerSandbox}}
}

// rootfsDir holds the root filesystems of the sandbox's containers, "" when
// they are mounted in the containers' own directories.
func (s *Sandbox) rootfsDir() string {
	if !s.state.OwnUsers {
		return ""
	}
	return filepath.Join(s.r.own.dir, s.state.ID)
}

// makeRootfsDir makes it for the root of the sandbox to enter, and for nobody
// else.
func (s *Sandbox) makeRootfsDir() error {
	if err := enterable(s.r.own.dir); err != nil {
		return err
	}
	if err := os.Mkdir(s.r.own.dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Whatever the umask.
	if err := os.Chmod(s.r.own.dir, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(s.rootfsDir(), 0o710); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(os.Chown(s.rootfsDir(), 0, int(s.state.FirstID)), os.Chmod(s.rootfsDir(), 0o710))
}

// removeRootfsDir removes it when the containers' root filesystems are
// unmounted.
func (s *Sandbox) removeRootfsDir() error {
	if !s.state.OwnUsers {
		return nil
	}
	return linux.UnmountBelow(s.rootfsDir())
}

// mountMapped mounts the container's root filesystem for the users of its
// sandbox.
func (c *Container) mountMapped(m linux.Mount) (err error) {
	users, err := os.Open(c.s.namespace("user"))
	if err != nil {
		return err
	}
	defer func() { _ = users.Close() }()
	layers := c.layersDir()
	defer func() { err = errors.Join(err, linux.UnmountBelow(layers)) }()
	if err := os.Mkdir(layers, 0o700); err != nil {
		return err
	}
	first := int(c.s.state.FirstID)
	if upper := m.Upper(); upper != "" {
		if err := os.Chown(upper, first, first); err != nil {
			return err
		}
	}
	if m, err = m.IDMapped(users, layers); err != nil {
		return err
	}
	if err := fault.Point("container.mapped"); err != nil {
		return err
	}
	return m.Mount()
}

// layersDir is where the layers of a root filesystem are while it is mounted.
func (c *Container) layersDir() string { return filepath.Join(c.dir(), "layers") }

// mapOwners has the files of the caller's mounts belong to the users of the
// sandbox that have the same numbers. A read-only overlay, such as an image's,
// cannot be mapped: its files belong to nobody then, and can be read by who may
// read others'.
func (s *Sandbox) mapOwners(mounts []*configs.Mount) {
	for _, m := range mounts {
		if m.Device != "bind" || m.Source == s.shm() || strings.HasPrefix(m.Source, "/dev/") {
			continue
		}
		var st unix.Statfs_t
		if m.Flags&unix.MS_RDONLY != 0 && unix.Statfs(m.Source, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC {
			continue
		}
		m.IDMapping = &configs.MountIDMapping{UserNSPath: s.namespace("user")}
	}
}
