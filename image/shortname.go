package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"get.podrun.dev/podrun/internal/hint"
)

// The files of containers-registries.conf(5), below the user's and the system's
// directory.
const (
	registriesFile   = "registries.conf"
	registriesFolder = "registries.conf.d"
	systemContainers = "/etc/containers"
	aliasesFile      = "short-name-aliases.conf" // below a cache directory: what podman was told when it asked
)

// registryFiles are the files that say where images are, in the order in which
// they are read, the later over the earlier. A file that a variable names is
// the only one. The user's registries.conf puts the system's files aside.
func registryFiles() ([]string, error) {
	for _, variable := range []string{"PODRUN_REGISTRIES_CONF", "CONTAINERS_REGISTRIES_CONF"} {
		if named := os.Getenv(variable); named != "" {
			return []string{named}, nil
		}
	}
	var user string
	if dir, err := os.UserConfigDir(); err == nil {
		user = filepath.Join(dir, "containers")
	}
	var files []string
	folders := []string{systemContainers, user}
	if _, err := os.Stat(filepath.Join(user, registriesFile)); user != "" && err == nil {
		files = append(files, filepath.Join(user, registriesFile))
		folders = folders[1:]
	} else if _, err := os.Stat(filepath.Join(systemContainers, registriesFile)); err == nil {
		files = append(files, filepath.Join(systemContainers, registriesFile))
	}
	for _, dir := range folders {
		if dir == "" {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(dir, registriesFolder)) // sorted
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if !e.IsDir() && strings.HasSuffix(e.Name(), ".conf") {
				files = append(files, filepath.Join(dir, registriesFolder, e.Name()))
			}
		}
	}
	cache := "/var/cache"
	if rootless, err := inUserNamespace(); err != nil || rootless || os.Getuid() != 0 {
		if cache, err = os.UserCacheDir(); err != nil {
			return files, nil
		}
	}
	if _, err := os.Stat(filepath.Join(cache, "containers", aliasesFile)); err == nil {
		files = append(files, filepath.Join(cache, "containers", aliasesFile))
	}
	return files, nil
}

// LoadRegistries reads the files that say where images are: the one that
// $PODRUN_REGISTRIES_CONF or $CONTAINERS_REGISTRIES_CONF names, or else
// registries.conf and registries.conf.d of ~/.config/containers and
// /etc/containers as containers-registries.conf.d(5) has them. None is no
// error, unless a variable names it.
func LoadRegistries() (*Registries, error) {
	files, err := registryFiles()
	if err != nil {
		return nil, err
	}
	all := &Registries{}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("registries.conf: %w", err)
		}
		one, err := ParseRegistries(path, data)
		if err != nil {
			return nil, err
		}
		all.merge(one)
	}
	return all, nil
}

// conf keeps what the files say until one of them changes.
type conf struct {
	fixed *Registries // nil: the files

	mu    sync.Mutex
	state string // of the files when they were read
	last  *Registries
}

func (c *conf) registries() (*Registries, error) {
	if c.fixed != nil {
		return c.fixed, nil
	}
	files, err := registryFiles()
	if err != nil {
		return nil, err
	}
	var state strings.Builder
	for _, path := range files {
		if st, err := os.Stat(path); err == nil {
			fmt.Fprintln(&state, path, st.Size(), st.ModTime().UnixNano())
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && c.state == state.String() {
		return c.last, nil
	}
	read, err := LoadRegistries()
	if err != nil {
		return nil, err
	}
	c.state, c.last = state.String(), read
	return read, nil
}

// names returns the whole names that ref may stand for, the likeliest first: one
// unless it was given without a registry and several are searched.
func (r *Registries) names(ref Reference) []Reference {
	whole := ref
	whole.short = ""
	if ref.short == "" {
		return []Reference{whole}
	}
	if full, ok := r.Aliases[ref.short]; ok {
		if named, err := ref.within(full); err == nil {
			return []Reference{named}
		}
	}
	if len(r.Search) == 0 {
		return []Reference{whole} // docker.io's
	}
	var list []Reference
	for _, host := range r.Search {
		if named, err := ref.within(host + "/" + ref.short); err == nil && !slices.Contains(list, named) {
			list = append(list, named)
		}
	}
	if len(list) == 0 {
		return []Reference{whole}
	}
	return list
}

// localNames returns the names under which an image may be here: those under
// which it would be pulled, and docker.io's, which archives of docker mean.
func (r *Registries) localNames(ref Reference) []Reference {
	list := r.names(ref)
	if ref.short = ""; !slices.Contains(list, ref) {
		list = append(list, ref)
	}
	return list
}

// pullNames returns the names under which ref is looked for in registries.
func (r *Registries) pullNames(ref Reference) ([]Reference, error) {
	list := r.names(ref)
	if len(list) > 1 && r.ShortNameMode == "enforcing" {
		var names []string
		for _, n := range list {
			names = append(names, n.Familiar())
		}
		return nil, hint.Wrap(fmt.Errorf("%q may be any of %s, and short-name-mode is enforcing", ref.short, strings.Join(names, ", ")), "give the whole name, or an alias in registries.conf")
	}
	return list, nil
}

// within is the reference that has the name full and ref's tag and digest.
func (r Reference) within(full string) (Reference, error) {
	named, err := ParseReference(full)
	if err != nil {
		return Reference{}, err
	}
	named.tag, named.digest, named.short = r.tag, r.digest, ""
	return named, nil
}
