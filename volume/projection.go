package volume

import (
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// file is one file of a projection.
type file struct {
	data []byte
	mode uint32 // permission bits
}

// files is what a projection is to show, by path.
type files map[string]file

// isProjection tells whether a volume shows objects or the pod itself.
func isProjection(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// project writes the files of such a volume, or what has changed of them, and
// returns the directory, which shows what it did after an error. What holds a
// secret is kept in memory. keep makes it no error that an object is missing
// which is shown already: a restart of the pod does not need it.
func (m *Manager) project(p *corev1.Pod, v *corev1.Volume, from Sources, keep bool) (string, error) {
	path := filepath.Join(m.disk, string(p.UID), v.Name)
	if holdsSecret(v) {
		path = filepath.Join(m.memory, string(p.UID), v.Name)
	}
	content, err := collect(v, from)
	if err != nil && keep && isShown(path) {
		return path, nil
	}
	if err != nil {
		return "", err
	}
	m.writing.Lock()
	defer m.writing.Unlock()
	if holdsSecret(v) {
		err = mountTmpfs(path, "mode=1777")
	} else {
		err = makeDir(path, nil)
	}
	if err != nil {
		return "", err
	}
	own := ownershipOf(p)
	own.readOnly, own.onRootMismatch = true, false
	return path, writeProjection(path, content, own)
}

// isShown tells whether a projection has been written to path, to the last
// link.
func isShown(path string) bool {
	entries, err := os.ReadDir(filepath.Join(path, dataLink))
	for _, e := range entries {
		if _, err := os.Lstat(filepath.Join(path, e.Name())); err != nil {
			return false
		}
	}
	return err == nil
}

func holdsSecret(v *corev1.Volume) bool {
	if v.Projected != nil {
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				return true
			}
		}
	}
	return v.Secret != nil
}

// collect returns what v is to show.
func collect(v *corev1.Volume, from Sources) (files, error) {
	content := files{}
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return content, content.addConfigMap(s.Name, s.Items, s.Optional, modeOr(s.DefaultMode), from)
	case v.Secret != nil:
		s := v.Secret
		return content, content.addSecret(s.SecretName, s.Items, s.Optional, modeOr(s.DefaultMode), from)
	case v.DownwardAPI != nil:
		s := v.DownwardAPI
		return content, content.addDownwardAPI(s.Items, modeOr(s.DefaultMode), from)
	}
	return content, content.addProjected(v.Projected, from)
}

// modeOr is the mode of a volume's files, 0644 when the manifest has none.
func modeOr(mode *int32) uint32 {
	if mode == nil {
		return 0o644
	}
	return uint32(*mode)
}

// addItems adds the keys that items name, or all when it names none. missing
// makes the error for a key that is not there.
func (f files) addItems(data map[string][]byte, items []corev1.KeyToPath, optional *bool, mode uint32, missing func(key string) error) error {
	if len(items) == 0 {
		for key, value := range data {
			f[key] = file{value, mode}
		}
		return nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if isTrue(optional) {
				continue
			}
			return missing(item.Key)
		}
		m := mode
		if item.Mode != nil {
			m = uint32(*item.Mode)
		}
		f[filepath.Clean(item.Path)] = file{value, m}
	}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }
