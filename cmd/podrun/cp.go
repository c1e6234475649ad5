package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

type copyOptions struct {
	container  string
	noPreserve bool
}

func cpCommand(c *cli) *cobra.Command {
	var o copyOptions
	command := &cobra.Command{
		Use:   "cp (FILE [NAMESPACE/]POD:PATH | [NAMESPACE/]POD:PATH FILE) [-c CONTAINER]",
		Short: "Copy files and directories to and from containers",
		Long: `Copy files and directories to and from containers that run.

The image needs no tar. In the container the files are read and written with the rights of its user, and
belong to that. A PATH that is not absolute begins at the container's working directory.`,
		Example: `  podrun cp index.html web:/www/
  podrun cp web:/var/log/nginx logs -c nginx
  podrun cp ./conf other/web:/etc/app`,
		ValidArgsFunction: c.completeFileSpec,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) != 2 {
				return plainf("source and destination are required")
			}
			return c.copy(command.Context(), args[0], args[1], &o)
		},
	}
	f := command.Flags()
	f.StringVarP(&o.container, "container", "c", "", "the container; the first when none is given")
	f.BoolVar(&o.noPreserve, "no-preserve", false, "give the files in the container the modes of new files")
	_ = command.RegisterFlagCompletionFunc("container", func(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		for _, arg := range args {
			if spec, err := parseFileSpec(arg); err == nil && spec.pod != "" {
				return c.completeContainersOf(command, spec.pod), cobra.ShellCompDirectiveNoFileComp
			}
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	})
	return command
}

// fileSpec is one side of a copy.
type fileSpec struct{ namespace, pod, file string }

// parseFileSpec reads [[NAMESPACE/]POD:]FILE. What begins with / or . is a file
// here, whatever comes after.
func parseFileSpec(arg string) (fileSpec, error) {
	pod, file, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") {
		return fileSpec{file: arg}, nil
	}
	namespace, name, ok := strings.Cut(pod, "/")
	if !ok {
		namespace, name = "", pod
	}
	if name == "" || ok && namespace == "" || strings.Contains(name, "/") {
		return fileSpec{}, plainf("filespec must match the canonical format: [[namespace/]pod:]file/path")
	}
	return fileSpec{namespace, name, file}, nil
}

func (c *cli) copy(ctx context.Context, from, to string, o *copyOptions) error {
	src, err := parseFileSpec(from)
	if err != nil {
		return err
	}
	dst, err := parseFileSpec(to)
	switch {
	case err != nil:
		return err
	case src.pod != "" && dst.pod != "":
		return plainf("one of src or dest must be a local file specification")
	case src.file == "" || dst.file == "":
		return plainf("filepath can not be empty")
	case src.pod == "" && dst.pod == "":
		return plainf("one of src or dest must be a remote file specification")
	}
	remote := src
	if dst.pod != "" {
		remote = dst
		if _, err := os.Stat(src.file); errors.Is(err, fs.ErrNotExist) {
			return plainf("%s doesn't exist in local filesystem", src.file)
		}
	}
	if remote.namespace == "" {
		remote.namespace = c.ns()
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	request := node.CopyRequest{Container: o.container, Path: remote.file, NoPreserve: o.noPreserve}
	if request.Container == "" {
		p, err := client.GetPod(ctx, remote.namespace, remote.pod)
		if err != nil {
			return err
		}
		request.Container = c.pickContainer(p)
	}
	if dst.pod != "" {
		file, err := filepath.EvalSymlinks(src.file)
		if err != nil {
			return fmt.Errorf("cannot copy %q: %w", src.file, err)
		}
		request.Base = localBase(src.file)
		return client.CopyIn(ctx, remote.namespace, remote.pod, request, func(w io.Writer) error {
			return c.pack(w, file, request.Base)
		})
	}
	request.Base = path.Base(path.Clean(src.file))
	if request.Base == "/" || request.Base == ".." {
		request.Base = "."
	}
	return client.CopyOut(ctx, remote.namespace, remote.pod, request, func(r io.Reader) error {
		u := unpacking{c: c, from: remote, base: request.Base}
		return u.unpack(r, dst.file)
	})
}

// localBase is the name that a local file has in the container: of "." it is
// the destination's.
func localBase(file string) string {
	base := filepath.Base(filepath.Clean(file))
	if base == ".." {
		if abs, err := filepath.Abs(file); err == nil {
			base = filepath.Base(abs)
		}
	}
	if base == "/" || base == ".." {
		return "."
	}
	return base
}

// pack writes the file or directory as a tar archive whose entries begin with
// base.
func (c *cli) pack(w io.Writer, file, base string) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(file, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(file, name)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we looked
		}
		if err != nil {
			return err
		}
		entry := base
		if rel != "." {
			entry += "/" + filepath.ToSlash(rel)
		}
		return c.packEntry(out, name, entry, info)
	})
	if err != nil {
		return err
	}
	return out.Close()
}

func (c *cli) packEntry(out *tar.Writer, name, entry string, info fs.FileInfo) error {
	h := &tar.Header{Name: entry, Mode: int64(info.Mode().Perm())}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, entry+"/"
		return out.WriteHeader(h)
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(name)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, to
		return out.WriteHeader(h)
	case !info.Mode().IsRegular():
		fmt.Fprintf(c.err, "warning: skipping special file: %q\n", name)
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.CopyN(out, f, h.Size); errors.Is(err, io.EOF) {
		return fmt.Errorf("%s shrank while it was read", name)
	} else if err != nil {
		return err
	}
	return nil
}

// unpacking makes files of an archive that came out of a container: its names
// and its contents are the container's to choose.
type unpacking struct {
	c      *cli
	from   fileSpec
	base   string
	warned bool
	root   *os.Root // what nothing is written outside of; nil before the first directory
}

// unpack makes a directory at dest, or a file at dest or in the directory dest.
func (u *unpacking) unpack(r io.Reader, dest string) error {
	defer func() {
		if u.root != nil {
			_ = u.root.Close()
		}
	}()
	in := tar.NewReader(r)
	for first := true; ; first = false {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		name := strings.TrimSuffix(h.Name, "/")
		rel, ok := strings.CutPrefix(name, u.base)
		if !ok || rel != "" && rel[0] != '/' || !filepath.IsLocal(name) {
			return plainf("tar contents corrupted: %q is not below %q", h.Name, u.base)
		}
		rel = strings.TrimPrefix(rel, "/")
		switch {
		case first && h.Typeflag == tar.TypeReg:
			err = u.one(h, in, dest)
		case first && h.Typeflag == tar.TypeDir:
			err = u.enter(dest)
		case u.root == nil || rel == "":
			err = plainf("tar contents corrupted: %q comes before its directory", h.Name)
		default:
			err = u.entry(h, in, rel, filepath.Join(dest, rel))
		}
		if err != nil {
			return err
		}
	}
}

// one makes the only file of the archive.
func (u *unpacking) one(h *tar.Header, content io.Reader, dest string) error {
	info, err := os.Stat(dest)
	switch {
	case err == nil && info.IsDir():
		// The name is the user's: the last part of what was asked for.
		dest = filepath.Join(dest, u.base)
	case err != nil && strings.HasSuffix(dest, "/"):
		return plainf("%s is not a directory", dest)
	case err != nil:
		if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(dest, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fs.FileMode(h.Mode)&0o777)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

func (u *unpacking) enter(dest string) (err error) {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	u.root, err = os.OpenRoot(dest)
	return err
}

// entry makes what is below the first directory. No link is made, so that none
// can lead out; one that was there before leads nowhere but inside.
func (u *unpacking) entry(h *tar.Header, content io.Reader, rel, shown string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		err := u.root.Mkdir(rel, fs.FileMode(h.Mode)&0o777|0o700)
		if errors.Is(err, fs.ErrExist) {
			err = nil // what is in it fails if it is no directory
		}
		return err
	case tar.TypeReg:
		f, err := u.root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fs.FileMode(h.Mode)&0o777)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	case tar.TypeSymlink:
		hint := ""
		if !u.warned {
			hint = fmt.Sprintf(" (consider using \"podrun exec -n %q %q -- tar cf - %q | tar xf -\")", u.from.namespace, u.from.pod, u.from.file)
		}
		u.warned = true
		fmt.Fprintf(u.c.err, "warning: skipping symlink: %q -> %q%s\n", shown, h.Linkname, hint)
		return nil
	}
	fmt.Fprintf(u.c.err, "warning: skipping special file: %q\n", shown)
	return nil
}

// completeFileSpec completes POD: beside the names of files.
func (c *cli) completeFileSpec(command *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 || strings.HasPrefix(prefix, "/") || strings.HasPrefix(prefix, ".") || strings.Contains(prefix, ":") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var names []string
	for _, name := range c.completePods(command, prefix) {
		names = append(names, name+":")
	}
	if len(names) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return names, cobra.ShellCompDirectiveNoSpace
}
