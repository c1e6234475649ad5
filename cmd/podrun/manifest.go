package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/pod"
)

// Bounds of what is read as a manifest, wherever from. A URL that stalls is
// given up.
const (
	maxManifest     = 16 << 20 // bytes
	manifestTimeout = 30 * time.Second
)

// manifestSuffixes are the files of a directory that are manifests.
var manifestSuffixes = []string{".json", ".yaml", ".yml"}

// manifestFlags are -f and -R.
type manifestFlags struct {
	sources   []string
	recursive bool
}

func (f *manifestFlags) declare(command *cobra.Command, purpose string) {
	command.Flags().StringSliceVarP(&f.sources, "filename", "f", nil, "file, directory, URL or - for standard input with the objects to "+purpose)
	command.Flags().BoolVarP(&f.recursive, "recursive", "R", false, "go into the directories below those given with -f")
	_ = command.RegisterFlagCompletionFunc("filename", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"json", "yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
	})
}

// document is the text of one manifest and its name in complaints.
type document struct {
	name string
	text []byte
}

// read returns the objects of all sources, parsed and with the namespace they
// go to. Every complaint about every manifest is in the error.
func (f *manifestFlags) read(ctx context.Context, c *cli) ([]*pod.Object, error) {
	var objects []*pod.Object
	var complaints []error
	usedStdin := false
	for _, source := range f.sources {
		if source == "-" && usedStdin {
			return nil, plainf("standard input can be read once: -f - was given twice")
		}
		usedStdin = usedStdin || source == "-"
		documents, err := f.open(ctx, c, source)
		if err != nil {
			return nil, err
		}
		for _, d := range documents {
			parsed, err := pod.Parse(d.name, d.text)
			if err != nil {
				complaints = append(complaints, err)
			}
			objects = append(objects, parsed...)
		}
	}
	if len(complaints) > 0 {
		return nil, manifestError{errors.Join(complaints...)}
	}
	for _, o := range objects {
		if !pod.KindOf(o.Value).Namespaced {
			continue
		}
		namespace := o.Value.GetNamespace()
		if c.namespace != "" && namespace != "" && namespace != c.namespace {
			return nil, plainf("the namespace from the provided object %q does not match the namespace %q. You must pass '--namespace=%s' to perform this operation.",
				namespace, c.namespace, namespace)
		}
		if namespace == "" {
			o.Value.SetNamespace(c.ns())
		}
	}
	return objects, nil
}

// load reads objects that are to be made: checked, and in that order. One
// mistake, and there are none.
func (f *manifestFlags) load(ctx context.Context, c *cli) ([]*pod.Object, error) {
	objects, err := f.read(ctx, c)
	if err == nil {
		err = validate(objects)
	}
	if err != nil {
		return nil, err
	}
	inOrder(objects)
	return objects, nil
}

// validate checks objects as the node will, so that nothing is sent when
// anything is wrong.
func validate(objects []*pod.Object) error {
	var complaints []error
	for _, o := range objects {
		v := o.Value.DeepCopyObject().(pod.Value)
		pod.Complete(v)
		if err := o.Locate(pod.Check(v)); err != nil {
			complaints = append(complaints, err)
		}
	}
	if len(complaints) > 0 {
		return manifestError{errors.Join(complaints...)}
	}
	return nil
}

// inOrder sorts objects for being made: what others refer to goes first, else
// the order of the manifest stays.
func inOrder(objects []*pod.Object) {
	slices.SortStableFunc(objects, func(a, b *pod.Object) int {
		return slices.Index(pod.Kinds, pod.KindOf(a.Value)) - slices.Index(pod.Kinds, pod.KindOf(b.Value))
	})
}

func (f *manifestFlags) open(ctx context.Context, c *cli, source string) ([]document, error) {
	switch {
	case source == "-":
		text, err := readLimited(c.in)
		if err != nil {
			return nil, fmt.Errorf("cannot read the manifest on standard input: %w", err)
		}
		return []document{{"-", text}}, nil
	case strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://"):
		text, err := download(ctx, source)
		if err != nil {
			return nil, fmt.Errorf("cannot read the manifest %q: %w", source, err)
		}
		return []document{{source, text}}, nil
	}
	info, err := os.Stat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, plainf("the path %q does not exist", source)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the manifest: %w", err)
	}
	paths := []string{source}
	if info.IsDir() {
		if paths, err = f.walk(source); err != nil {
			return nil, fmt.Errorf("cannot read the manifests in %q: %w", source, err)
		}
		if len(paths) == 0 {
			return nil, plainf("error reading [%s]: recognized file extensions are %v", source, manifestSuffixes)
		}
	}
	var documents []document
	for _, path := range paths {
		text, err := readFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read the manifest: %w", err)
		}
		documents = append(documents, document{path, text})
	}
	return documents, nil
}

// walk lists the manifests in a directory in the order of their names.
func (f *manifestFlags) walk(dir string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != dir && !f.recursive:
			return filepath.SkipDir
		case !d.IsDir() && slices.Contains(manifestSuffixes, filepath.Ext(path)):
			paths = append(paths, path)
		}
		return nil
	})
	return paths, err
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	text, err := readLimited(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

var errTooLarge = fmt.Errorf("it is larger than %d MiB", maxManifest>>20)

func readLimited(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err == nil && len(text) > maxManifest {
		err = errTooLarge
	}
	return text, err
}

func download(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	}}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return nil, errors.Unwrap(err) // the *url.Error only repeats the URL
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered %s", response.Status)
	}
	return readLimited(response.Body)
}
