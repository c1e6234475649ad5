package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// appPath is where images have the test program, integration/app. It is in
// $PATH.
const appPath = "usr/local/bin/app"

// Part makes an image of busybox, the test program and files, which are often
// links to it. Where config has no $PATH, it is the usual one.
func Part(config v1.Config, files ...File) (v1.Image, error) {
	base, err := appLayers()
	if err != nil {
		return nil, err
	}
	layers := base[:len(base):len(base)]
	if len(files) > 0 {
		layer, err := Layer(files...)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	config.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, config.Env...)
	return Image(config, layers...)
}

// appLayers are the same for all images, so that they are packed, pushed and
// pulled once.
var appLayers = sync.OnceValues(func() ([]v1.Layer, error) {
	busybox, err := busyboxLayer()
	if err != nil {
		return nil, fmt.Errorf("make an image of %s: %w", busyboxPath, err)
	}
	path, err := appBinary()
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := checkStatic(program); err != nil {
		return nil, fmt.Errorf("make an image of %s: %w", path, err)
	}
	app, err := Layer(
		File{Name: "usr/local/", Mode: 0o755}, File{Name: "usr/local/bin/", Mode: 0o755},
		File{Name: appPath, Mode: 0o755, Data: program},
		File{Name: "usr/local/bin/printenv", Link: "app"},
		// What sh understands is enough for those who ask for bash.
		File{Name: "bin/bash", Mode: 0o755, Data: []byte("#!/bin/sh\nexec /bin/sh \"$@\"\n")},
	)
	if err != nil {
		return nil, err
	}
	return []v1.Layer{busybox, app}, nil
})

// appBinary is the program that was built for make's target build/image/app.
func appBinary() (string, error) {
	if dir := os.Getenv("PODRUN_TEST_IMAGES"); dir != "" {
		return filepath.Join(dir, "app"), nil
	}
	return built("image/app")
}

// built finds what make puts into build, here or above.
func built(name string) (string, error) {
	for dir := "."; ; dir = filepath.Join(dir, "..") {
		path, err := filepath.Abs(filepath.Join(dir, "build", name))
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		if filepath.Dir(filepath.Dir(filepath.Dir(path))) == "/" {
			return "", fmt.Errorf(`there is no build/%[1]s here or above; "make build/%[1]s" makes it`, name)
		}
	}
}

// PushAs stores an image under a reference as a manifest has it, such as
// "nginx:1.14.2" or "quay.io/a/b:c", of a registry that r stands for.
func (r *Registry) PushAs(ctx context.Context, reference string, image v1.Image) error {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	tag, ok := ref.(name.Tag)
	if !ok {
		return errors.New(reference + " is no tag")
	}
	repository := tag.RepositoryStr()
	if host := tag.RegistryStr(); host != name.DefaultRegistry {
		repository = host + "/" + repository
	}
	return r.Push(ctx, repository+":"+tag.TagStr(), image)
}
