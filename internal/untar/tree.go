package untar

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxOpen is how many directories are kept open.
const maxOpen = 64

// node is a directory that is there. All directories below the root were made
// here, so what is not among the children of its parent is none.
type node struct {
	parent    *node
	name      string
	depth     int
	children  map[string]*node
	meta      *meta // what the layer says of it; nil when it is only implied
	opaque    bool  // hides what lower layers have there
	whiteouts []string
	fd        int // -1 when it is not open
}

// tree is the layer's directories. It is not safe for concurrent use.
type tree struct {
	root *node
	open []*node // a ring of those that are open, the root not among them
	hand int     // where the next is put
	made func() error
	seal func(*node) error // marks a directory as opaque
}

func (u *unpacker) openRoot(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	u.tree = tree{root: &node{fd: fd}, open: make([]*node, maxOpen), made: u.count, seal: u.seal}
	// A set-group-ID directory would give its group to all below it.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_ISGID != 0 {
		return os.NewSyscallError("fchmod", unix.Fchmod(fd, st.Mode&0o1777))
	}
	return nil
}

func (t *tree) close() {
	_ = unix.Close(t.root.fd)
	for _, n := range t.open {
		if n != nil {
			_ = unix.Close(n.fd)
		}
	}
}

// fd returns a descriptor of a directory, which is good until the next call.
func (t *tree) fd(n *node) (int, error) {
	if n.fd >= 0 {
		return n.fd, nil
	}
	parent, err := t.fd(n.parent)
	if err != nil {
		return -1, err
	}
	fd, err := openat(parent, n.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if old := t.open[t.hand]; old != nil {
		_ = unix.Close(old.fd)
		old.fd = -1
	}
	n.fd, t.open[t.hand] = fd, n
	t.hand = (t.hand + 1) % len(t.open)
	return fd, nil
}

// walk follows a name from the root and returns the directory it leads to. With
// make, what is missing is made, with mode 0755 and root's.
func (t *tree) walk(path string, make bool) (*node, error) {
	return t.walkFrom(t.root, path, make)
}

func (t *tree) walkFrom(at *node, path string, make bool) (*node, error) {
	links := 0
	for path != "" {
		var name string
		name, path, _ = strings.Cut(path, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			if at.parent != nil {
				at = at.parent
			}
			continue
		}
		if c := at.children[name]; c != nil {
			at = c
			continue
		}
		c, target, err := t.step(at, name, make)
		if err != nil {
			return nil, err
		}
		if c != nil {
			at = c
			continue
		}
		if links++; links > maxSymlinks {
			return nil, unix.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			at = t.root
		}
		path = target + "/" + path
	}
	return at, nil
}

// step goes from a directory to name, which is no known directory: it is made,
// or is a symbolic link, whose target is returned.
func (t *tree) step(at *node, name string, make bool) (*node, string, error) {
	fd, err := t.fd(at)
	if err != nil {
		return nil, "", err
	}
	target, err := readlinkat(fd, name)
	switch {
	case err == nil:
		return nil, target, nil
	case errors.Is(err, unix.ENOENT) && make:
		if err := t.made(); err != nil {
			return nil, "", err
		}
		n, err := t.mkdir(at, name)
		return n, "", err
	case errors.Is(err, unix.EINVAL): // no link
		if removed, err := isWhiteout(fd, name); err != nil || !removed || !make {
			return nil, "", errors.Join(err, unix.ENOTDIR)
		}
		n, err := t.directory(at, name)
		return n, "", err
	}
	return nil, "", err
}

// mkdir makes a directory that is not there.
func (t *tree) mkdir(at *node, name string) (*node, error) {
	if at.depth >= maxDepth {
		return nil, fmt.Errorf("more than %d directories in each other", maxDepth)
	}
	fd, err := t.fd(at)
	if err != nil {
		return nil, err
	}
	// Its mode comes last, and until then it has no set-group-ID bit.
	if err := ignoringEINTR(func() error { return unix.Mkdirat(fd, name, 0o755) }); err != nil {
		return nil, err
	}
	n := &node{parent: at, name: name, depth: at.depth + 1, fd: -1}
	if at.children == nil {
		at.children = map[string]*node{}
	}
	at.children[name] = n
	return n, nil
}

// directory sees to it that name is a directory: one that is there stays,
// anything else goes.
func (t *tree) directory(at *node, name string) (*node, error) {
	if n := at.children[name]; n != nil {
		return n, nil
	}
	n, err := t.mkdir(at, name)
	if !errors.Is(err, unix.EEXIST) {
		return n, err
	}
	fd, err := t.fd(at)
	if err != nil {
		return nil, err
	}
	// A mark that something was removed: the new directory must not show what
	// the removed one had.
	removed, err := isWhiteout(fd, name)
	if err != nil {
		return nil, err
	}
	if err := unix.Unlinkat(fd, name, 0); err != nil {
		return nil, err
	}
	if n, err = t.mkdir(at, name); err == nil && removed {
		err = t.seal(n)
	}
	return n, err
}

// replacing calls make, which makes name in a directory and fails if it is
// there. Then what is there is removed, and make is called again.
func (t *tree) replacing(at *node, name string, make func(fd int) error) error {
	fd, err := t.fd(at)
	if err != nil {
		return err
	}
	if err = ignoringEINTR(func() error { return make(fd) }); !errors.Is(err, unix.EEXIST) {
		return err
	}
	if n := at.children[name]; n != nil {
		t.forget(n)
		delete(at.children, name)
		err = os.RemoveAll(procPath(fd, name))
	} else {
		err = unix.Unlinkat(fd, name, 0)
	}
	if err != nil {
		return err
	}
	return ignoringEINTR(func() error { return make(fd) })
}

// forget closes a directory and all below it.
func (t *tree) forget(n *node) {
	for _, c := range n.children {
		t.forget(c)
	}
	if n.fd < 0 {
		return
	}
	for i, o := range t.open {
		if o == n {
			t.open[i] = nil
		}
	}
	_ = unix.Close(n.fd)
	n.fd = -1
}

// finish gives the directories what the layer says of them, the inner ones
// first: until now all of them had to be open to us, and every file made in
// one changed its time.
func (u *unpacker) finish(n *node) error {
	for _, c := range n.children {
		if err := u.finish(c); err != nil {
			return err
		}
	}
	if n.meta == nil && !(n.opaque && len(n.whiteouts) > 0) {
		return nil
	}
	fd, err := u.fd(n)
	if err != nil {
		return err
	}
	if n.opaque {
		// In a directory that hides all below it overlay would list the marks
		// of single files.
		for _, name := range n.whiteouts {
			if ok, err := isWhiteout(fd, name); err == nil && ok {
				err = unix.Unlinkat(fd, name, 0)
				if err != nil {
					return fmt.Errorf("%q: %w", name, err)
				}
			}
		}
	}
	if n.meta == nil {
		return nil
	}
	if err := u.dressFile(fd, n.meta, 0o755); err != nil {
		return fmt.Errorf("directory %q: %w", n.path(), err)
	}
	return nil
}

// path is where a directory is in the layer, for people.
func (n *node) path() string {
	if n.parent == nil {
		return "/"
	}
	var names []string
	for ; n.parent != nil; n = n.parent {
		names = append([]string{n.name}, names...)
	}
	return strings.Join(names, "/")
}

// split parts a name into the directory and the last step.
func split(name string) (folder, base string) {
	name = strings.TrimRight(name, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// leavesRoot tells whether a name, links apart, leads above where it starts.
func leavesRoot(name string) bool {
	if !strings.Contains(name, "..") {
		return false
	}
	depth := 0
	for step := range strings.SplitSeq(name, "/") {
		switch step {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}
