package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
)

// identity is who a process runs as, in numbers.
type identity struct {
	UID, GID int
	Groups   []int
}

// UserError is a user or group that a container cannot run as.
type UserError struct {
	User string // as asked for
	Err  error
}

func (e *UserError) Error() string { return fmt.Sprintf("user %q: %v", e.User, e.Err) }
func (e *UserError) Unwrap() error { return e.Err }

// resolveUser turns "", "uid", "uid:gid", "name" or "name:group" into numbers
// by the /etc/passwd and /etc/group of the root filesystem at rootfs, which
// whoever made the image or runs in the container controls. All groups that
// list the user as a member count, as with containerd; with config.StrictGroups
// only those that are asked for do.
func (s *Sandbox) resolveUser(rootfs string, config *ContainerConfig) (identity, error) {
	uids, gids := s.ids()
	spec, supplemental := config.User, config.SupplementalGroups
	id, err := lookUpUser(rootfs, spec)
	if err != nil {
		return identity{}, &UserError{spec, err}
	}
	if name, _, grouped := strings.Cut(spec, ":"); config.StrictGroups {
		id.Groups = nil
	} else if grouped {
		// With a group given, those of the user were not looked for.
		if alone, err := lookUpUser(rootfs, name); err == nil {
			id.Groups = alone.Groups
		}
	}
	// The primary group, too, as containerd has it: else a file's group could
	// be denied what all others are allowed, and dropping the primary group
	// would get round it (CVE-2022-36109).
	for _, g := range append([]int{id.GID}, supplemental...) {
		if !slices.Contains(id.Groups, g) {
			id.Groups = append(id.Groups, g)
		}
	}
	mend := `give the user more IDs in /etc/subuid and /etc/subgid, and install newuidmap and newgidmap (package uidmap); see "podrun doctor"`
	if s.state.OwnUsers {
		mend = fmt.Sprintf("a pod with users of its own has those up to %d", idsPerSandbox-1)
	}
	if !uids.has(id.UID) {
		return identity{}, hint.Wrap(&UserError{spec, fmt.Errorf("user ID %d is not mapped in the user namespace", id.UID)}, mend)
	}
	if !gids.has(id.GID) {
		return identity{}, hint.Wrap(&UserError{spec, fmt.Errorf("group ID %d is not mapped in the user namespace", id.GID)}, mend)
	}
	// What an image lists and the kernel cannot give is no reason to stop, but
	// what was asked for is.
	for _, g := range supplemental {
		if !gids.has(g) {
			return identity{}, hint.Wrap(&UserError{spec, fmt.Errorf("supplemental group ID %d is not mapped in the user namespace", g)}, mend)
		}
	}
	id.Groups = slices.DeleteFunc(id.Groups, func(g int) bool { return !gids.has(g) })
	return id, nil
}

func lookUpUser(rootfs, spec string) (identity, error) {
	root, err := os.OpenFile(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return identity{}, err
	}
	defer func() { _ = root.Close() }()
	// A nil io.Reader is a file that is not there.
	var passwd, group io.Reader
	for _, f := range []struct {
		name string
		to   *io.Reader
	}{{"etc/passwd", &passwd}, {"etc/group", &group}} {
		file, err := openInRoot(root, f.name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return identity{}, err
		}
		defer func() { _ = file.Close() }()
		const limit = 8 << 20
		*f.to = io.LimitReader(file, limit)
	}
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return identity{}, err
	}
	return identity{UID: u.Uid, GID: u.Gid, Groups: u.Sgids}, nil
}

// openInRoot opens a regular file for reading with every link on the way
// taken inside root, whatever a container does to the tree meanwhile.
func openInRoot(root *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
		// Not blocking: a FIFO in its place must not hold us up.
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// idMap is what /proc/self/uid_map says is there inside.
type idMap []idRange

type idRange struct {
	first, count int64
}

func readIDMap(name string) (idMap, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var m idMap
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r idRange
		var outside int64
		if _, err := fmt.Sscan(lines.Text(), &r.first, &outside, &r.count); err != nil {
			return nil, fmt.Errorf("%s: line %q: %w", name, lines.Text(), err)
		}
		m = append(m, r)
	}
	slices.SortFunc(m, func(a, b idRange) int { return int(a.first - b.first) })
	return m, nil
}

func (m idMap) has(id int) bool {
	for _, r := range m {
		if int64(id) >= r.first && int64(id) < r.first+r.count {
			return true
		}
	}
	return false
}

// last returns the highest ID such that all from 0 to it are mapped, but no
// more than the kernel takes in the range of a sysctl.
func (m idMap) last() int64 {
	var next int64
	for _, r := range m {
		if r.first > next {
			break
		}
		next = max(next, r.first+r.count)
	}
	return min(max(next-1, 0), math.MaxInt32)
}
