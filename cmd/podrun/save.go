package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

// The formats of "save", in podman's words.
const (
	formatDockerArchive = "docker-archive"
	formatOCIArchive    = "oci-archive"
	formatOCIDir        = "oci-dir"
)

func saveCommand(c *cli) *cobra.Command {
	var output, format string
	command := &cobra.Command{
		Use:   "save [-o FILE] [--format FORMAT] IMAGE...",
		Short: "Write images to an archive",
		Long: `Write images to an archive, byte for byte as they came.

docker-archive is what docker, podman and skopeo load; it is an OCI image layout
too. Without -o the archive goes to standard output.`,
		Example: `  podrun save -o app.tar app:v1 app:v2
  podrun save app | docker load
  podrun save --format oci-dir -o app/ app`,
		ValidArgsFunction: c.completeFrom(imageNames),
		RunE: func(command *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usagef("save needs an image")
			case format != formatDockerArchive && format != formatOCIArchive && format != formatOCIDir:
				return usagef("unknown format %q; the formats are %s, %s and %s", format, formatDockerArchive, formatOCIArchive, formatOCIDir)
			case format == formatOCIDir && output == "":
				return usagef("--format %s needs a directory with -o", formatOCIDir)
			case output == "" && isTerminal(c.out):
				return usagef("refusing to write an archive to a terminal; use -o or redirect")
			}
			return c.save(command.Context(), args, output, format)
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "", "the file, or the directory of an oci-dir; standard output if none is given")
	command.Flags().StringVar(&format, "format", formatDockerArchive, formatDockerArchive+", "+formatOCIArchive+" or "+formatOCIDir)
	_ = command.MarkFlagFilename("output")
	return command
}

func (c *cli) save(ctx context.Context, names []string, output, format string) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	request := node.SaveRequest{Names: names, Format: format}
	switch {
	case format == formatOCIDir:
		request.Format = formatOCIArchive
		err = saveDir(output, func() error {
			return client.Save(ctx, request, func(r io.Reader) error { return unpackLayout(r, output) })
		})
	case output == "":
		err = client.Save(ctx, request, func(r io.Reader) error { return copyTo(c.out, r) })
	default:
		err = saveFile(output, func(w io.Writer) error {
			return client.Save(ctx, request, func(r io.Reader) error { return copyTo(w, r) })
		})
	}
	if err != nil {
		return sayOnce("save images", err)
	}
	return nil
}

// saveFile writes a file, which has its name when it is whole. A device or a
// pipe is written to as it is.
func saveFile(path string, write func(io.Writer) error) (err error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("%s is a directory", path)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := newFile(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, reason(err))
	}
	if err := errors.Join(write(f), f.Chmod(0o600)); err != nil { // docker's mode
		err = errors.Join(err, f.abort())
		if of := (*os.PathError)(nil); errors.As(err, &of) && of.Path == f.Name() {
			return fmt.Errorf("%s: %w", path, of.Err)
		}
		return err
	}
	if err := f.commit(); err != nil {
		return fmt.Errorf("%s: %w", path, reason(err))
	}
	return nil
}

// saveDir writes a directory, which goes again when that fails, unless it was
// there before.
func saveDir(dir string, write func() error) error {
	_, before := os.Lstat(dir)
	err := write()
	if err != nil && errors.Is(before, os.ErrNotExist) {
		if rerr := os.RemoveAll(dir); rerr != nil {
			return errors.Join(err, rerr)
		}
	}
	return err
}

// unpackLayout makes a directory of an archive of an OCI image layout. A layout
// that is there already is not mixed with it.
func unpackLayout(r io.Reader, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return errors.Join(err, fmt.Errorf("%s is not empty", dir))
	}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			if err := root.MkdirAll(filepath.Clean(h.Name), 0o755); err != nil {
				return err
			}
			continue
		}
		f, err := root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, in)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}
